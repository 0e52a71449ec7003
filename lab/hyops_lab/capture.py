"""What hosts and a network have to say to each other, packet by packet: below their processes and firewalls."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from hyops_lab.network import socket_in
from hyops_lab.owner import NETLINK_SOCK_DIAG, Address, asked, named, users

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
ROOM = 16 << 20
SYN, ACK = 0x02, 0x10
FIRST_SYN_S = 1.0  # the kernel repeats the first one after it, and waits at most twice as long each time
DATAGRAM_S = 5.0  # a datagram's sender repeats it or not; a resolver waits so long
NAMES = {1: "icmp", 6: "tcp", 17: "udp"}


@dataclass(frozen=True)
class Try:
    """A connection that was opened, or datagrams to one port; `user` has the socket, empty where nobody can tell.

    `began_s` is on the monotonic clock, or since an instant on it. `lasted_s` is the longest that somebody may have
    waited: the kernel repeats an opening for as long as somebody does, so it was given up before the next one was due.
    """

    what: str
    began_s: float
    lasted_s: float
    user: str = ""


@dataclass
class Capture:
    """`sent`: what left for the networks, `tcp 22 to 10.77.1.20`; `came`: what came from there, `tcp from 10.77.1.20`.

    Of TCP only what opens a connection is `sent`. The kernel repeats the last words of connections that broke before,
    and the etcd of these hosts has such ones from the other site's agents: those are `older`. `frames` is how many
    there were of any kind, and `dropped` how many were missed. `tries` has each connection that was opened towards
    them, and whatever else was sent there, by its two ends; `user_of` knows whose a TCP connection is.
    """

    networks: Sequence[IPv4Network]
    sent: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    frames: int = 0
    dropped: int = 0
    tries: dict[bytes, Try] = field(default_factory=dict)
    user_of: Callable[[Address, Address], str] = lambda source, target: ""
    _last: dict[bytes, float] = field(default_factory=dict)

    def take(self, frame: bytes, protocol: int, kind: int) -> None:
        """One frame that was sent or came, without its link header."""
        self.frames += 1
        if kind == socket.PACKET_OUTGOING:
            if (told := self._towards(frame, protocol)) is not None:
                if goes_on(frame, protocol):
                    self.older.append(told)
                else:
                    self.sent.append(told)
                    self._tried(told, frame)
        elif protocol == ETH_P_IP and len(frame) >= 20 and self._within(source := IPv4Address(frame[12:16])):
            self.came.append(f"{_name(frame)} from {source}")

    def _tried(self, told: str, frame: bytes) -> None:
        head, now, name = (frame[0] & 15) * 4, time.monotonic(), told.split()[0]
        ends = told.encode()
        if name == "tcp" and len(frame) >= head + 8:
            ends += frame[head : head + 8]  # with the number it begins at: the same ports may open another one later
        elif name == "udp":
            ends += frame[head : head + 4]
        before = self.tries.get(ends)
        began, last = (now, now) if before is None else (before.began_s, self._last[ends])
        more = DATAGRAM_S if name != "tcp" else FIRST_SYN_S if before is None else 2 * (now - last)
        user = before.user if before is not None else ""
        if name == "tcp" and not user and len(frame) >= head + 4:
            source, target = struct.unpack_from("!HH", frame, head)
            addresses = (socket.inet_ntoa(frame[at : at + 4]) for at in (12, 16))
            user = self.user_of((next(addresses), source), (next(addresses), target))
        self._last[ends] = now
        self.tries[ends] = Try(told, began, round(now - began + more, 3), user)

    def _towards(self, frame: bytes, protocol: int) -> str | None:
        if protocol == ETH_P_ARP and len(frame) >= 28:
            address = IPv4Address(frame[24:28])
            return f"arp for {address}" if self._within(address) else None
        if protocol != ETH_P_IP or len(frame) < 20:
            return None
        address, head, name = IPv4Address(frame[16:20]), (frame[0] & 15) * 4, _name(frame)
        if not self._within(address):
            return None
        port = struct.unpack_from("!H", frame, head + 2)[0] if name in ("tcp", "udp") and len(frame) >= head + 4 else 0
        return f"{name} {port} to {address}"

    def _within(self, address: IPv4Address) -> bool:
        return any(address in network for network in self.networks)


def goes_on(frame: bytes, protocol: int) -> bool:
    """Whether it belongs to a TCP connection that is older than itself: any segment but the first, the bare SYN."""
    if protocol != ETH_P_IP or frame[9] != 6:
        return False
    flags = frame[(frame[0] & 15) * 4 + 13]
    return flags & (SYN | ACK) != SYN


@contextlib.contextmanager
def captured(lab: Lab, host: str, *networks: str) -> Iterator[Capture]:
    """Watch a host until the end of the block: every frame has been looked at by then, and none was missed."""
    family, kind, protocol = socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)
    wire = socket_in(lab.names.namespace(host), family, kind, protocol)
    wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    seen, (woken, wake) = Capture([IPv4Network(network) for network in networks]), os.pipe()
    diag = socket_in(lab.names.namespace(host), socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    names = users(lab.machine(host).path("/etc/passwd").read_text())
    seen.user_of = lambda source, target: named(asked(diag, source, target), names)
    reader = threading.Thread(target=_read, args=(wire, woken, seen), name=f"capture-{host}")
    reader.start()
    try:
        yield seen
    finally:
        os.close(wake)
        reader.join()
        _, seen.dropped = struct.unpack("II", wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        wire.close()
        diag.close()
        os.close(woken)


def _name(frame: bytes) -> str:
    return NAMES.get(frame[9], str(frame[9]))


def _read(wire: socket.socket, woken: int, seen: Capture) -> None:
    """Until the other end of `woken` is closed, and then what is still there."""
    wire.setblocking(False)
    over = False
    while not over:
        over = woken in select.select([wire.fileno(), woken], [], [])[0]
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, place = wire.recvfrom(65536)
                seen.take(frame, place[1], place[2])
