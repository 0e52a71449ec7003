"""What every machine gets before it boots: its names, its SSH host key, its owners and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hyops_lab.errors import LabError
from hyops_lab.hosts import HOSTS, hosts_file
from hyops_lab.machine import Machine, inside

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

SSHD = """UseDNS no
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
MaxStartups 100
"""
JOURNAL = "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\nRateLimitIntervalSec=0\n"
RESOLVER = f"nameserver {HOSTS['dns'].address}\noptions timeout:1 attempts:1\n"
KEY_PATH = "/etc/ssh/ssh_host_ed25519_key"


def prepare(lab: Lab, host: str) -> None:
    """Write the files that make a copy of the image into `host`."""
    machine_id = lab.secret(f"machine-id-{host}").encode().hex()[:32]
    private, public = _key(lab, host)
    known = "".join(f"{entry.name},{entry.address} {public_key(lab, entry.name)}\n" for entry in HOSTS.values())
    for path, content, mode in (
        ("/etc/hostname", f"{host}\n", 0o644),
        ("/etc/hosts", hosts_file(HOSTS[host]), 0o644),
        ("/etc/resolv.conf", RESOLVER, 0o644),
        ("/etc/machine-id", f"{machine_id}\n", 0o444),
        ("/etc/ssh/sshd_config.d/lab.conf", SSHD, 0o644),
        ("/etc/ssh/ssh_known_hosts", known, 0o644),
        ("/etc/systemd/journald.conf.d/lab.conf", JOURNAL, 0o644),
        (KEY_PATH, private, 0o600),
        (f"{KEY_PATH}.pub", f"{public} {host}\n", 0o644),
    ):
        lab.write(host, path, content.encode(), mode)


def public_key(lab: Lab, host: str) -> str:
    """Return the host's public SSH key, making the pair at first use."""
    return _key(lab, host)[1]


def ids(machine: Machine, owner: str) -> tuple[int, int]:
    """Return the numbers of `user` or `user:group` as the machine has them; the group of a user is its first one."""
    user, _, group = owner.partition(":")
    if owner == "root":
        return 0, 0
    uid, gid = _entry(machine, "/etc/passwd", user)[2:4]
    if group:
        gid = _entry(machine, "/etc/group", group)[2]
    return int(uid), int(gid)


def enable(machine: Machine, units: Sequence[str]) -> None:
    """Make units of a machine that is off start at its next boot."""
    for unit in units:
        template = f"{unit.split('@')[0]}@.service" if "@" in unit else unit
        folders = ("/etc/systemd/system", "/lib/systemd/system")
        found = [f"{folder}/{template}" for folder in folders if inside(machine.root, f"{folder}/{template}").exists()]
        if not found:
            raise LabError(f"{machine.host.name} has no unit {unit}")
        target = "timers.target.wants" if unit.endswith(".timer") else "multi-user.target.wants"
        link = inside(machine.root, f"/etc/systemd/system/{target}") / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(found[0])


def _entry(machine: Machine, path: str, name: str) -> list[str]:
    for line in inside(machine.root, path).read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return fields
    raise LabError(f"{machine.host.name} has no {name} in {path}")


def _key(lab: Lab, host: str) -> tuple[str, str]:
    """Return the private and the public key, kept in the lab's state so that a reset host keeps its identity."""
    path = lab.names.state / "keys" / host
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        made = Ed25519PrivateKey.generate()
        path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.with_suffix(".pub").write_bytes(made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return path.read_text(), path.with_suffix(".pub").read_text()
