"""The topology: which hosts a lab has, where they stand, and the names a lab gives to things of the machine.

Addresses are the same in each lab, for all of it lives in namespaces of that lab. A lab id has no dash, so that the
names of one lab are never a prefix of another's.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hyops.errors import UsageError
from hyops_lab.errors import LabError

ZONE = "lab.hyops.internal"
ENDPOINT = f"pg.{ZONE}"
POWER_ADDRESS = "10.77.0.2"
GIB = 1 << 30


@dataclass(frozen=True)
class Host:
    """One machine of the lab; `disk_bytes` limits what it may write."""

    name: str
    site: str
    address: str
    disk_bytes: int = GIB


# site -> first three bytes of its /24; the router is .1
SITES = {"onprem": "10.77.1", "cloud": "10.77.2", "hub": "10.77.3", "edge": "10.77.4"}

HOSTS = {
    host.name: host
    for host in (
        Host("onprem-db", "onprem", "10.77.1.10", 2 * GIB),
        Host("onprem-runner", "onprem", "10.77.1.20"),
        Host("cloud-db", "cloud", "10.77.2.10", 2 * GIB),
        Host("cloud-runner", "cloud", "10.77.2.20"),
        Host("control", "hub", "10.77.3.10"),
        Host("dns", "hub", "10.77.3.20"),
        Host("witness", "edge", "10.77.4.10"),
        Host("client", "edge", "10.77.4.20"),
    )
}


def host_named(name: str) -> Host:
    """Return the host called `name`; the error lists the names there are."""
    if name not in HOSTS:
        raise LabError(f"no host {name!r} in the lab; hosts: {', '.join(HOSTS)}")
    return HOSTS[name]


def hosts_at(site: str) -> list[Host]:
    """Return the hosts of a site; the error lists the sites there are."""
    if site not in SITES:
        raise LabError(f"no site {site!r} in the lab; sites: {', '.join(SITES)}")
    return [host for host in HOSTS.values() if host.site == site]


@dataclass(frozen=True)
class Names:
    """What one lab calls its namespaces, cgroups and folders on this machine."""

    lab_id: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", self.lab_id):
            raise UsageError(
                f"lab id {self.lab_id!r}: use 1 to 16 lower case letters and digits, a letter first",
                hint="`--lab` or HYOPS_LAB_ID names the lab",
            )

    @property
    def prefix(self) -> str:
        """Start of every name that this lab gives to something of the machine."""
        return f"hyops-lab-{self.lab_id}-"

    @property
    def switch(self) -> str:
        """Network namespace that holds the bridges, the router and the fault rules."""
        return f"{self.prefix}switch"

    def namespace(self, host: str) -> str:
        """Network namespace of a host."""
        return f"{self.prefix}{host}"

    @property
    def state(self) -> Path:
        """Folder of everything that this lab keeps on disk; gone after `down`."""
        return state_root() / self.lab_id


def state_root() -> Path:
    """Where labs keep their state; `HYOPS_LAB_STATE` overrides."""
    return Path(os.environ.get("HYOPS_LAB_STATE", "/run/hyops-lab"))


def hosts_file(own: Host) -> str:
    """Contents of /etc/hosts on `own`: every host of the lab by name."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{host.address} {host.name}" for host in HOSTS.values()]
    lines += [f"{POWER_ADDRESS} power"]
    return f"# {own.name}\n" + "\n".join(lines) + "\n"
