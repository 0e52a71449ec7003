"""What a host sends towards a network, packet by packet, from below all of its processes and its firewall's answers."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from hyops_lab import Lab
from loopback import in_network

ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
SOL_PACKET, PACKET_STATISTICS = 263, 6
ROOM = 16 << 20


@dataclass
class Capture:
    """`sent`: what left for the network, `tcp 22 to 10.77.1.20`; `frames` is how many there were of any kind.

    Of TCP only what opens a connection is `sent`. The kernel repeats the last words of connections that broke before,
    and the etcd of these hosts has such ones from the other site's agents: those are `older`.
    """

    network: IPv4Network
    sent: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    frames: int = 0
    dropped: int = 0

    def take(self, frame: bytes, protocol: int, kind: int) -> None:
        """One frame that was sent or came, without its link header."""
        self.frames += 1
        if kind == socket.PACKET_OUTGOING and (told := self._towards(frame, protocol)) is not None:
            (self.older if goes_on(frame, protocol) else self.sent).append(told)

    def _towards(self, frame: bytes, protocol: int) -> str | None:
        if protocol == ETH_P_ARP and len(frame) >= 28:
            address = IPv4Address(frame[24:28])
            return f"arp for {address}" if address in self.network else None
        if protocol != ETH_P_IP or len(frame) < 20:
            return None
        address, head = IPv4Address(frame[16:20]), (frame[0] & 15) * 4
        if address not in self.network:
            return None
        name = {1: "icmp", 6: "tcp", 17: "udp"}.get(frame[9], str(frame[9]))
        port = struct.unpack_from("!H", frame, head + 2)[0] if name in ("tcp", "udp") else 0
        return f"{name} {port} to {address}"


def goes_on(frame: bytes, protocol: int) -> bool:
    """Whether it belongs to a TCP connection that is older than itself: any segment but the first, the bare SYN."""
    if protocol != ETH_P_IP or frame[9] != 6:
        return False
    flags = frame[(frame[0] & 15) * 4 + 13]
    return flags & 0x12 != 0x02


@contextlib.contextmanager
def captured(lab: Lab, host: str, network: str, kind: type[Capture] = Capture) -> Iterator[Capture]:
    """Watch a host until the end of the block: every frame has been looked at by then, and none was missed."""
    with in_network(lab.names.namespace(host)):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    wire.setsockopt(socket.SOL_SOCKET, 33, ROOM)  # SO_RCVBUFFORCE
    seen, (woken, wake) = kind(ipaddress.IPv4Network(network)), os.pipe()
    reader = threading.Thread(target=_read, args=(wire, woken, seen), name=f"capture-{host}")
    reader.start()
    try:
        yield seen
    finally:
        os.close(wake)
        reader.join()
        _, seen.dropped = struct.unpack("II", wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        wire.close()
        os.close(woken)


def _read(wire: socket.socket, woken: int, seen: Capture) -> None:
    """Until the other end of `woken` is closed, and then what is still there."""
    wire.setblocking(False)
    over = False
    while not over:
        over = woken in select.select([wire, woken], [], [])[0]
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, place = wire.recvfrom(65536)
                seen.take(frame, place[1], place[2])
