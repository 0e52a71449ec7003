"""A slow wire: a process between a host's port and the switch that holds every packet back for a while.

Needed where the kernel has no netem. The host's port `v-HOST` is renamed to `w-HOST` and leaves its bridge; a new pair
`v-HOST` (on the bridge, so that rules and unplugging work as before) and `x-HOST` takes its place; the process below
carries frames between `w-HOST` and `x-HOST`. Frames keep their checksum and segmentation state (PACKET_VNET_HDR).
"""

import contextlib
import os
import random
import selectors
import socket
import sys
import time
from collections import deque
from pathlib import Path

from hyops_lab import daemon
from hyops_lab.command import run
from hyops_lab.hosts import HOSTS, Names
from hyops_lab.network import NETNS, port
from hyops_lab.waiting import PATIENCE_S, until

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
FRAME_BYTES_MAX = 1 << 17
QUEUED_FRAMES_MAX = 20_000  # more than this is lost, as in any queue


def insert(names: Names, cgroup: Path, host: str, delay_ms: float, jitter_ms: float) -> None:
    """Put a slow wire before `host`, in place of the one that may be there; the process runs below `cgroup`."""
    remove(names, cgroup, host)
    veth, bridge = port(host), f"br-{HOSTS[host].site}"
    ready = names.state / f"wire-{host}"
    _switch(
        names,
        f"link set {veth} down",
        f"link set {veth} nomaster",
        f"link set {veth} name w-{host}",
        f"link add {veth} type veth peer name x-{host}",
        f"link set {veth} master {bridge} up",
    )
    ends = [f"w-{host}", f"x-{host}"]
    _answer_no_arp(names, ends)
    _switch(names, *(f"link set {end} up promisc on" for end in ends))
    module = [sys.executable, "-m", "hyops_lab.delay", f"w-{host}", f"x-{host}", str(delay_ms), str(jitter_ms)]
    argv = ["nsenter", f"--net={NETNS / names.switch}", *module, str(ready)]
    daemon.start(cgroup / f"wire-{host}", argv, names.state / f"wire-{host}.log")
    until(ready.exists, what=f"the wire of {host}", where=f"{names.state}/wire-{host}.log", timeout_s=PATIENCE_S)


def remove(names: Names, cgroup: Path, host: str) -> None:
    """Take the slow wire of `host` out again, if there is one."""
    daemon.end(cgroup / f"wire-{host}")
    (names.state / f"wire-{host}").unlink(missing_ok=True)
    if host in inserted(names):
        _switch(
            names,
            f"link del {port(host)}",
            f"link set w-{host} down",
            f"link set w-{host} promisc off",
            f"link set w-{host} name {port(host)}",
            f"link set {port(host)} master br-{HOSTS[host].site} up",
        )


def inserted(names: Names) -> list[str]:
    """Return the hosts that have a slow wire."""
    listed = run(["ip", "-n", names.switch, "-br", "link"]).stdout
    devices = {line.split()[0].partition("@")[0] for line in listed.splitlines() if line}
    return [host for host in HOSTS if f"w-{host}" in devices]


def carry(first: str, second: str, delay_s: float, jitter_s: float, ready: Path) -> None:
    """Carry frames both ways, each after its delay, until killed."""
    a, b = _open(first), _open(second)
    queues: dict[socket.socket, deque[tuple[float, bytes]]] = {a: deque(), b: deque()}  # by the socket to send on
    ready.touch()
    with selectors.DefaultSelector() as selector:
        selector.register(a, selectors.EVENT_READ, b)
        selector.register(b, selectors.EVENT_READ, a)
        while True:
            due = [queue[0][0] for queue in queues.values() if queue]
            wait_s = max(0.0, min(due) - time.monotonic()) if due else None
            for key, _ in selector.select(wait_s):
                source, queue = key.fileobj, queues[key.data]
                assert isinstance(source, socket.socket)
                with contextlib.suppress(BlockingIOError):
                    while len(queue) < QUEUED_FRAMES_MAX:
                        frame = source.recv(FRAME_BYTES_MAX)
                        at = time.monotonic() + delay_s + random.random() * jitter_s
                        queue.append((max(at, queue[-1][0]) if queue else at, frame))
            now = time.monotonic()
            for target, queue in queues.items():
                while queue and queue[0][0] <= now:
                    with contextlib.suppress(OSError):  # a link that is down loses the frame
                        target.send(queue.popleft()[1])


def _open(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    made.bind((device, ETH_P_ALL))
    made.setblocking(False)
    return made


def _answer_no_arp(names: Names, devices: list[str]) -> None:
    """Keep the router, which lives in the same namespace, from answering on the wire's own ends."""
    script = 'for device; do echo 8 > "/proc/sys/net/ipv4/conf/$device/arp_ignore"; done'
    run(["nsenter", f"--net={NETNS / names.switch}", "sh", "-c", script, "sh", *devices])


def _switch(names: Names, *lines: str) -> None:
    run(["ip", "-n", names.switch, "-batch", "-"], input="\n".join(lines) + "\n")


if __name__ == "__main__":
    os.nice(-5)
    carry(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4]) / 1000, Path(sys.argv[5]))
