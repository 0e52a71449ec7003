"""What several kinds of host need: system users with fixed numbers, SSH entrances that do one thing, known hosts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

from hyops_lab.hosts import HOSTS


class Writes(Protocol):
    """The part of the lab that wiring needs: files into a machine's root, and units to start at boot."""

    def write(self, host: str, path: str, content: bytes, mode: int = 0o644, owner: str = "root") -> None:
        """Write one file, with its folders."""

    def read(self, host: str, path: str) -> bytes:
        """Read one file."""

    def enable(self, host: str, *units: str) -> None:
        """Start this unit at boot."""

    def host_key(self, host: str) -> str:
        """The machine's SSH host key, `ssh-ed25519 AAAA...`."""


@dataclass(frozen=True)
class User:
    """A system user without a password; an empty `home` means it never logs in."""

    name: str
    uid: int
    home: str
    groups: tuple[str, ...] = ()


LOOP_GROUP = 7100  # the stages read each other's records through it, and write only their own folders
GROUPS = {"hyops-loop": LOOP_GROUP}
HYOPS = User("hyops", 7101, "/var/lib/hyops")
PROBER = User("hyops-probe", 7102, "/var/lib/hyops-probe")
STAGE_USERS = {
    "decision": User("hyops-decision", 7111, "/opt/hybridops/decision-service", ("hyops-loop",)),
    "dispatch": User("hyops-dispatcher", 7112, "/opt/hybridops/decision-dispatcher", ("hyops-loop",)),
    "approval": User("hyops-consumer", 7113, "/opt/hybridops/decision-consumer", ("hyops-loop",)),
    "execution": User("hyops-executor", 7114, "/opt/hybridops/decision-executor", ("hyops-loop",)),
}


def add_users(lab: Writes, host: str, users: list[User]) -> None:
    """Append users and their groups to the account files of `host`, before it boots."""
    passwd, group, shadow = (lab.read(host, f"/etc/{name}").decode() for name in ("passwd", "group", "shadow"))
    members: dict[str, list[str]] = {name: [] for name in GROUPS}
    for user in users:
        shell = "/bin/sh" if user in (HYOPS, PROBER) else "/usr/sbin/nologin"
        passwd += f"{user.name}:x:{user.uid}:{user.uid}:hyops:{user.home}:{shell}\n"
        group += f"{user.name}:x:{user.uid}:\n"
        shadow += f"{user.name}:*:19000:0:99999:7:::\n"  # `*`: no password; `!` would lock SSH keys out too
        for name in user.groups:
            members[name].append(user.name)
    group += "".join(f"{name}:x:{gid}:{','.join(members[name])}\n" for name, gid in GROUPS.items() if members[name])
    lab.write(host, "/etc/passwd", passwd.encode())
    lab.write(host, "/etc/group", group.encode())
    lab.write(host, "/etc/shadow", shadow.encode(), mode=0o640, owner="root:shadow")


def entrance(lab: Writes, host: str, user: User, public_key: str, command: str) -> None:
    """Let one key run one command as `user`, and nothing else: no terminal, no forwarding, no agent."""
    line = f'restrict,command="{command}" {public_key}\n'
    path = f"/etc/ssh/authorized_keys.d/{user.name}"
    with contextlib.suppress(FileNotFoundError):
        line = lab.read(host, path).decode() + line
    lab.write(host, path, line.encode(), mode=0o644)
    lab.write(
        host,
        "/etc/ssh/sshd_config.d/hyops.conf",
        b"AuthorizedKeysFile /etc/ssh/authorized_keys.d/%u\nUseDNS no\nPasswordAuthentication no\n",
    )


def known_hosts(lab: Writes, *hosts: str) -> bytes:
    """Pinned host keys, by name and by address."""
    return "".join(f"{h},{HOSTS[h].address} {lab.host_key(h)}\n" for h in hosts).encode()


def unit(
    description: str, *, service: list[str], after: str = "network.target", before: str = "", wanted: bool = True
) -> bytes:
    """A systemd unit's text."""
    order = [f"After={after}"] + ([f"Before={before}"] if before else [])
    if wanted:
        order.append("StartLimitIntervalSec=0")  # a quorum that forms late must not end the tries for good
    lines = ["[Unit]", f"Description={description}", *order, "", "[Service]", *service]
    if wanted:
        lines += ["", "[Install]", "WantedBy=multi-user.target"]
    return ("\n".join(lines) + "\n").encode()
