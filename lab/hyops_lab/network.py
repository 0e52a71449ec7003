"""The lab's network: a switch namespace with one bridge per site and a router between them, a port per host.

Nothing is made in the host's own network namespace. A port is the veth `v-HOST` in the switch namespace; its peer is
`eth0` in the host's namespace, which outlives the machine that boots in it.
"""

import ctypes
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from hyops_lab.command import run
from hyops_lab.hosts import HOSTS, POWER_ADDRESS, SITES, Host, Names

NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000


def port(host: str) -> str:
    """Name of a host's port on the switch."""
    return f"v-{host}"


def create(names: Names, hosts: Iterable[Host] = HOSTS.values()) -> None:
    """Make all namespaces, bridges and ports of a lab; nothing of it may exist."""
    chosen = list(hosts)
    spaces = [names.switch, *(names.namespace(host.name) for host in chosen)]
    _batch([], [f"netns add {space}" for space in spaces])
    lines = ["link set lo up", f"addr add {POWER_ADDRESS}/32 dev lo"]
    for number, (site, prefix) in enumerate(SITES.items(), start=1):
        # an address of its own: a bridge without one takes a port's, and changes it as ports come and go
        lines.append(f"link add br-{site} address 02:00:0a:4d:{number:02x}:01 type bridge")
        lines += [f"addr add {prefix}.1/24 dev br-{site}", f"link set br-{site} up"]
    for host in chosen:
        veth, space = port(host.name), names.namespace(host.name)
        lines.append(f"link add {veth} type veth peer name eth0 netns {space}")
        lines.append(f"link set {veth} master br-{host.site} up")
    _batch(["-n", names.switch], lines)
    for host in chosen:
        lines = ["link set lo up", f"addr add {host.address}/24 dev eth0", "link set eth0 up"]
        lines.append(f"route add default via {SITES[host.site]}.1")
        _batch(["-n", names.namespace(host.name)], lines)
    forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
    run(["nsenter", f"--net={NETNS / names.switch}", "sh", "-c", forward])


def remove(names: Names) -> None:
    """Remove every namespace of the lab; the links in them go with them."""
    found = sorted(path.name for path in NETNS.glob(f"{names.prefix}*"))
    if found:
        _batch(["-force"], [f"netns del {space}" for space in found])


def set_link(names: Names, host: str, *, up: bool) -> None:
    """Plug or unplug a host, at the switch's end."""
    run(["ip", "-n", names.switch, "link", "set", port(host), "up" if up else "down"])


def connect(namespace: str, address: str, tcp_port: int, timeout_s: float) -> socket.socket:
    """Return a TCP connection made inside `namespace`; the caller stays where it is."""
    made = socket_in(namespace)
    try:
        made.settimeout(timeout_s)
        made.connect((address, tcp_port))
    except BaseException:
        made.close()
        raise
    return made


def socket_in(
    namespace: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> socket.socket:
    """Return a socket, of TCP by default, that belongs to `namespace`: made by a thread that enters it and ends."""
    made: list[socket.socket | BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            file = os.open(NETNS / namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(file, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace}")
            finally:
                os.close(file)
            made.append(socket.socket(family, kind, protocol))
        except BaseException as error:  # noqa: BLE001  handed to the caller below
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


def _batch(options: list[str], lines: list[str]) -> None:
    run(["ip", *options, "-batch", "-"], input="\n".join(lines) + "\n")
