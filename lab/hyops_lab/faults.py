"""What can be broken on purpose: power, machines, sites, links and disks.

Cuts and loss are rules of one nftables table on the switch, at the ports, so they reach traffic within a site as well
as between sites; the kernel keeps them, nothing else does, and `heal` removes the table. Names of hosts and of sites
are both accepted where a network fault takes a name. Dropped packets are not answered, as on a broken path.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyops_lab import delay, network
from hyops_lab.command import run
from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS, SITES, Names, host_named, hosts_at
from hyops_lab.machine import Machine
from hyops_lab.network import NETNS, port
from hyops_lab.waiting import PATIENCE_S

TABLE = "bridge hyops_lab"
CHAINS = (
    f"add table {TABLE}\n"
    f"add chain {TABLE} incoming {{ type filter hook prerouting priority -300; }}\n"
    f"add chain {TABLE} outgoing {{ type filter hook postrouting priority 0; }}\n"
)


class Faults(ABC):
    """The faults of a lab."""

    names: Names

    @property
    @abstractmethod
    def cgroup(self) -> Path:
        """The cgroup of everything that the lab runs."""

    @abstractmethod
    def machine(self, host: str) -> Machine:
        """The machine of a host."""

    # --- power and machines

    def kill(self, host: str) -> None:
        """Cut the power: unplug, so that no farewell leaves, then end all processes; proven by the kernel."""
        self.unplug(host)
        self.machine(host).kill()

    def power_on(self, host: str) -> None:
        """Boot a machine from the disk it had; returns when it has booted. A machine that is on stays on."""
        self._boot([host])

    def reboot(self, host: str) -> None:
        """Have the machine reboot itself in good order; returns when it has booted."""
        machine = self.machine(host)
        listener = machine.listen()
        machine.exec(["systemctl", "reboot"], check=False)
        machine.wait_started(listener, PATIENCE_S)

    def pause(self, host: str) -> None:
        """Stop all processes of a machine where they are; its kernel still answers on the network."""
        self.machine(host).freeze(frozen=True)

    def resume(self, host: str) -> None:
        """Let a paused machine go on as if nothing had happened."""
        self.machine(host).freeze(frozen=False)

    def kill_site(self, site: str) -> None:
        """Cut the power of a whole site: every link first, then every machine."""
        hosts = hosts_at(site)
        for host in hosts:
            self.unplug(host.name)
        for host in hosts:
            self.machine(host.name).kill()

    def power_on_site(self, site: str) -> None:
        """Boot all machines of a site that are off."""
        self._boot([host.name for host in hosts_at(site)])

    def fill_disk(self, host: str) -> None:
        """Leave no room for another page of data on the machine's disk."""
        self.machine(host).fill_disk()

    # --- network

    def unplug(self, host: str) -> None:
        """Take the host's cable out."""
        network.set_link(self.names, host_named(host).name, up=False)

    def cut_site(self, site: str) -> None:
        """Cut a site's uplink: its hosts reach each other and nothing else, and nothing reaches them."""
        inside = {host.name for host in hosts_at(site)}
        self._rule("incoming", f"iifname {_ports(inside)} ip daddr != {SITES[site]}.0/24", f"cut site {site}")
        self._rule("incoming", f"iifname {_ports(set(HOSTS) - inside)} ip daddr {SITES[site]}.0/24", f"cut site {site}")

    def cut_pair(self, a: str, b: str) -> None:
        """Drop everything between two hosts or sites, both ways; others still reach both."""
        self.cut_one_way(a, b)
        self.cut_one_way(b, a)

    def cut_one_way(self, source: str, destination: str) -> None:
        """Drop what goes from `source` to `destination`; the other direction still arrives."""
        match = f"iifname {_ports(_members(source))} ip daddr {_prefix(destination)}"
        self._rule("incoming", match, f"cut {source} to {destination}")

    def cut_port(self, source: str, destination: str, tcp_port: int) -> None:
        """Drop what goes from `source` to one TCP port of `destination`; everything else between them arrives."""
        match = f"iifname {_ports(_members(source))} ip daddr {_prefix(destination)} tcp dport {tcp_port}"
        self._rule("incoming", match, f"cut {source} to {destination} port {tcp_port}")

    def lose(self, host: str, percent: int) -> None:
        """Lose this share of the packets from and to a host, at random."""
        if not 0 < percent <= 100:
            raise LabError(f"cannot lose {percent} % of the packets")
        chance = f"meta protocol ip numgen random mod 100 < {percent}"
        for chain, key in (("incoming", "iifname"), ("outgoing", "oifname")):
            self._rule(chain, f"{key} {_ports([host])} {chance}", f"lose {percent} % of {host}")

    def slow(self, host: str, kbit: int) -> None:
        """Limit a host's link to this rate, each way."""
        shape = ["root", "tbf", "rate", f"{kbit}kbit", "burst", "10kb", "latency", "300ms"]
        for space, device in self._ends(host_named(host).name):
            run(["tc", "-n", space, "qdisc", "replace", "dev", device, *shape])

    def delay(self, host: str, delay_ms: float, jitter_ms: float = 0.0) -> None:
        """Delay every packet from and to a host by `delay_ms` and up to `jitter_ms` more, each way, in order."""
        delay.insert(self.names, self.cgroup, host_named(host).name, delay_ms, jitter_ms)

    def faults(self) -> list[str]:
        """Return the network, disk and pause faults in force, as text."""
        listed = self._nft("-j", "list ruleset")
        rules = [item["rule"] for item in json.loads(listed)["nftables"] if "rule" in item]
        found = {rule["comment"] for rule in rules} | {f"delay {host}" for host in delay.inserted(self.names)}
        links = self._links()
        for host in HOSTS:
            machine, link = self.machine(host), links[port(host)]
            found |= {f"slow {host}"} if link.get("qdisc") == "tbf" else set()
            found |= {f"unplug {host}"} if machine.is_on() and "UP" not in link["flags"] else set()
            found |= {f"pause {host}"} if machine.is_frozen() else set()
            found |= {f"fill disk {host}"} if machine.is_disk_filled() else set()
        return sorted(found)

    def heal(self) -> None:
        """Undo every network, disk and pause fault; machines without power stay off. Changes nothing if all is well."""
        self._nft("-f", f"add table {TABLE}\ndelete table {TABLE}\n")
        for host in delay.inserted(self.names):
            delay.remove(self.names, self.cgroup, host)
        links = self._links()
        for host in HOSTS:
            if links[port(host)].get("qdisc") == "tbf":
                for space, device in self._ends(host):
                    run(["tc", "-n", space, "qdisc", "del", "dev", device, "root"], check=False)
            machine = self.machine(host)
            machine.restore_disk()
            if machine.is_frozen():
                machine.freeze(frozen=False)
            if machine.is_on():
                network.set_link(self.names, host, up=True)

    @abstractmethod
    def _boot(self, hosts: Iterable[str]) -> None:
        """Plug in and boot those of `hosts` that are off."""

    def _ends(self, host: str) -> list[tuple[str, str]]:
        return [(self.names.switch, port(host)), (self.names.namespace(host), "eth0")]

    def _links(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(run(["ip", "-n", self.names.switch, "-j", "link"]).stdout)
        return {link["ifname"]: link for link in listed}

    def _rule(self, chain: str, match: str, comment: str) -> None:
        self._nft("-f", f'{CHAINS}add rule {TABLE} {chain} {match} drop comment "{comment}"\n')

    def _nft(self, option: str, text: str) -> str:
        """Give `text` to nft in the switch: a file for `-f`, a command otherwise."""
        argv = ["nsenter", f"--net={NETNS / self.names.switch}", "nft", option]
        if option == "-f":
            return run([*argv, "-"], input=text).stdout
        return run([*argv, *text.split()]).stdout


def _members(name: str) -> list[str]:
    """The hosts that a host's or a site's name stands for."""
    return [host.name for host in hosts_at(name)] if name in SITES else [host_named(name).name]


def _prefix(name: str) -> str:
    """The addresses that a host's or a site's name stands for."""
    return f"{SITES[name]}.0/24" if name in SITES else host_named(name).address


def _ports(hosts: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{port(host_named(host).name)}"' for host in sorted(hosts)) + " }"
