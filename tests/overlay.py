"""A real WireGuard tunnel in network namespaces of the test's own: runner, two routers, a hub, a host behind the hub.

    runner (this thread) -- 10.77.2.0/24 -- router --- 10.77.3.0/24 --\\
           |                                                           hub (10.77.3.10) -- 10.88.0.0/24 -- host
           `--------------- 10.77.1.0/24 -- onprem -- 10.77.5.0/24 --/

`wireguard-go` needs /dev/net/tun and no kernel module. Its interfaces carry the process id, for their control sockets
lie in one folder of the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loopback import own_network, wait_for

HOST, HUB, INNER = "10.88.0.10", "10.77.3.10", "10.99.0"
PORT = 51820


@dataclass
class Overlay:
    """The tunnel and everything around it."""

    folder: Path
    keys: dict[str, str] = field(default_factory=dict)
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def space(self, name: str) -> str:
        """The namespace of a place."""
        return f"hyops-t{os.getpid()}-{name}"

    def interface(self, name: str) -> str:
        """The tunnel's end at a place."""
        return f"hw{os.getpid()}{name[0]}"

    def run(self, name: str | None, *argv: str, given: str | None = None) -> str:
        """Run in a place; None is the runner's."""
        inside = [] if name is None else ["ip", "netns", "exec", self.space(name)]
        done = subprocess.run([*inside, *argv], input=given, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def link(self, a: str | None, b: str, net: str, ends: tuple[int, int]) -> None:
        """A cable between two places."""
        left, right = f"v{b[:3]}", f"v{(a or 'run')[:3]}"
        space = [] if a is None else ["-n", self.space(a)]
        self.run(None, "ip", *space, "link", "add", left, "type", "veth", "peer", "name", right, "netns", self.space(b))
        self.run(a, "ip", "addr", "add", f"{net}.{ends[0]}/24", "dev", left)
        self.run(a, "ip", "link", "set", left, "up")
        self.run(b, "ip", "addr", "add", f"{net}.{ends[1]}/24", "dev", right)
        self.run(b, "ip", "link", "set", right, "up")

    def build(self) -> None:
        """Places, cables, routes."""
        for name in ("router", "onprem", "hub", "host"):
            self.run(None, "ip", "netns", "add", self.space(name))
            self.run(name, "ip", "link", "set", "lo", "up")
            self.run(
                name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/icmp_ratelimit"
            )
        self.link(None, "router", "10.77.2", (20, 1))
        self.link(None, "onprem", "10.77.1", (99, 1))
        self.link("router", "hub", "10.77.3", (1, 10))
        self.link("onprem", "hub", "10.77.5", (1, 10))
        self.link("hub", "host", "10.88.0", (1, 10))
        self.run(None, "ip", "route", "add", "10.77.3.0/24", "via", "10.77.2.1")
        self.run("hub", "ip", "route", "add", "10.77.2.0/24", "via", "10.77.3.1")
        self.run("hub", "ip", "route", "add", "10.77.1.0/24", "via", "10.77.5.1")
        self.run("onprem", "ip", "route", "add", "10.77.3.0/24", "via", "10.77.5.10")
        self.run("host", "ip", "route", "add", "default", "via", "10.88.0.1")

    def start(self) -> None:
        """Both ends of the tunnel; returns after the handshake."""
        for name, number in (("runner", 2), ("hub", 1)):
            private = self.run(None, "wg", "genkey")
            self.keys[name] = self.run(None, "wg", "pubkey", given=private)
            file = self.folder / f"{name}.key"
            file.touch(0o600)
            file.write_text(private)
            self._daemon(name)
            place, interface = self._at(name), self.interface(name)
            self.run(place, "wg", "set", interface, "private-key", str(file), "listen-port", str(PORT))
            self.run(place, "ip", "addr", "add", f"{INNER}.{number}/24", "dev", interface)
            self.run(place, "ip", "link", "set", interface, "up")
        self.run(None, "ip", "route", "add", "10.88.0.0/24", "dev", self.interface("runner"))
        self.peer("hub", "runner", f"{INNER}.2/32")
        self.peer(
            "runner", "hub", f"{INNER}.0/24,10.88.0.0/24", "endpoint", f"{HUB}:{PORT}", "persistent-keepalive", "1"
        )
        wait_for(lambda: self.shaken() > 0, "the first handshake")

    def peer(self, name: str, other: str, allowed: str, *more: str) -> None:
        """Let one end know the other."""
        self.run(
            self._at(name), "wg", "set", self.interface(name), "peer", self.keys[other], "allowed-ips", allowed, *more
        )

    def shaken(self) -> int:
        """When the runner's end last shook hands; 0: never."""
        told = self.run(None, "wg", "show", self.interface("runner"), "latest-handshakes")
        return int(told.split("\t")[1]) if told else 0

    def stop(self, name: str) -> None:
        """End one end of the tunnel."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(5)

    def down(self) -> None:
        """Remove everything, by name."""
        for name in list(self.daemons):
            self.stop(name)
        for name in ("router", "onprem", "hub", "host"):
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False, capture_output=True)

    def _at(self, name: str) -> str | None:
        return None if name == "runner" else name

    def _daemon(self, name: str) -> None:
        place, interface = self._at(name), self.interface(name)
        inside = [] if place is None else ["ip", "netns", "exec", self.space(place)]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                [*inside, "wireguard-go", "-f", interface],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "WG_PROCESS_FOREGROUND": "1"},
            )  # fmt: skip
        wait_for(Path(f"/var/run/wireguard/{interface}.sock").exists, f"wireguard-go on {name}")


@contextmanager
def tunnel(folder: Path) -> Iterator[Overlay]:
    """An overlay that is up; this thread is the runner."""
    made = Overlay(folder)
    with ExitStack() as stack:
        stack.enter_context(own_network())
        stack.callback(made.down)
        made.build()
        made.start()
        yield made
