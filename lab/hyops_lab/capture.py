"""What hosts and a network have to say to each other, packet by packet: below their processes and firewalls."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from hyops_lab.network import socket_in

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
ROOM = 16 << 20
SYN, ACK = 0x02, 0x10
NAMES = {1: "icmp", 6: "tcp", 17: "udp"}


@dataclass(frozen=True)
class Try:
    """A connection that was opened. The kernel repeats that for as long as somebody waits, first after a second.

    `began_s` is on the monotonic clock, or since an instant on it; `lasted_s` until the last repetition.
    """

    what: str
    began_s: float
    lasted_s: float


@dataclass
class Capture:
    """`sent`: what left for the networks, `tcp 22 to 10.77.1.20`; `came`: what came from there, `tcp from 10.77.1.20`.

    Of TCP only what opens a connection is `sent`. The kernel repeats the last words of connections that broke before,
    and the etcd of these hosts has such ones from the other site's agents: those are `older`. `frames` is how many
    there were of any kind, and `dropped` how many were missed. `tries` has each connection that was opened towards
    them.
    """

    networks: Sequence[IPv4Network]
    sent: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    frames: int = 0
    dropped: int = 0
    tries: dict[bytes, Try] = field(default_factory=dict)

    def take(self, frame: bytes, protocol: int, kind: int) -> None:
        """One frame that was sent or came, without its link header."""
        self.frames += 1
        if kind == socket.PACKET_OUTGOING:
            if (told := self._towards(frame, protocol)) is not None:
                (self.older if goes_on(frame, protocol) else self.sent).append(told)
                if told.startswith("tcp") and not goes_on(frame, protocol):
                    self._tried(told, frame)
        elif protocol == ETH_P_IP and len(frame) >= 20 and self._within(source := IPv4Address(frame[12:16])):
            self.came.append(f"{_name(frame)} from {source}")

    def _tried(self, told: str, frame: bytes) -> None:
        head, now = (frame[0] & 15) * 4, time.monotonic()
        both_ends = frame[12:20] + frame[head : head + 4]
        began = self.tries.get(both_ends, Try(told, now, 0.0)).began_s
        self.tries[both_ends] = Try(told, began, round(now - began, 3))

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


@dataclass(frozen=True)
class Packets:
    """What the survivors had to do with the dead side while they switched.

    `tried`: host -> what it began -> how often; most of it is daemons', which try for ever, and nobody waits. `own`:
    what the run itself tried to reach there, in seconds since both were killed.
    """

    towards: int
    came: int
    missed: int
    frames: int
    tried: dict[str, dict[str, int]]
    own: list[Try]

    @classmethod
    def of(cls, seen: Mapping[str, Capture], *, runner: str, ports: Collection[int], since_s: float) -> Packets:
        """The sum over all hosts; the run's own tries are those of `runner` to `ports`."""
        tries = seen[runner].tries.values() if runner in seen else ()
        return cls(
            towards=sum(len(one.sent) + len(one.older) for one in seen.values()),
            came=sum(len(one.came) for one in seen.values()),
            missed=sum(one.dropped for one in seen.values()),
            frames=sum(one.frames for one in seen.values()),
            tried={host: dict(Counter(one.sent)) for host, one in seen.items() if one.sent},
            own=[
                replace(one, began_s=round(one.began_s - since_s, 3))
                for one in tries
                if int(one.what.split()[1]) in ports
            ],
        )

    def waited_s(self, *, since_s: float = 0.0, until_s: float = math.inf) -> float:
        """How long the most patient of the run's own tries lasted, of those that began within these times."""
        return max((one.lasted_s for one in self.own if since_s <= one.began_s < until_s), default=0.0)

    def faults(self) -> list[str]:
        """Why this does not show that nothing came from the dead side."""
        found = []
        if self.came:
            found.append(f"{self.came} packets came from the dead side")
        if self.missed:
            found.append(f"the capture missed {self.missed} packets")
        if not self.towards:
            found.append("no survivor even tried to reach the dead side: the capture watched the wrong thing")
        return found


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
