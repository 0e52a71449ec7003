"""What a runner's sshd is told, so that it takes this site's certificates and shows its own (RUN-3).

Only the one user that hyops logs in as is touched: people's own logins on that host stay as they are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hyops.errors import UsageError
from hyops.model import ssh_algorithms
from hyops.model.pki import CLOCK_COMMAND, CLOCK_PRINCIPAL

ETC = "/etc/ssh/hyops"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,252}")
PLACE = re.compile(r"/[A-Za-z0-9._/-]{1,255}")
TARGET = re.compile(r"[A-Za-z0-9.-]{1,253}:(\d{1,5}|\*)|\[[0-9a-fA-F:]+\]:(\d{1,5}|\*)")


def drop_in(runner_ref: str, user: str, *, place: str = ETC, permit_open: Sequence[str] = ()) -> str:
    """A file for `/etc/ssh/sshd_config.d/`. With `permit_open` the host is a bastion to these `HOST:PORT`s."""
    for what, value, pattern in (("runner", runner_ref, WORD), ("user", user, WORD), ("place", place, PLACE)):
        _checked(what, value, pattern)
    for target in permit_open:
        _checked("permit-open", target, TARGET)
    forwarding = ["AllowTcpForwarding local", f"PermitOpen {' '.join(permit_open)}"] if permit_open else []
    inside = [
        "AuthenticationMethods publickey",
        f"TrustedUserCAKeys {place}/user_ca.pub",
        f"AuthorizedPrincipalsFile {place}/principals",
        f"RevokedKeys {place}/revoked.krl",
        "AuthorizedKeysFile none",
        f"PubkeyAcceptedAlgorithms {','.join(ssh_algorithms.USER_CERTIFICATES)}",
        f"CASignatureAlgorithms {','.join(ssh_algorithms.CA_SIGNATURES)}",
        *(forwarding or ["AllowTcpForwarding no"]),
        "AllowStreamLocalForwarding no",
        "AllowAgentForwarding no",
        "X11Forwarding no",
        "PermitTunnel no",
        "PermitTTY no",
    ]
    lines = [
        f"# {runner_ref}: made by `hyops pki sshd-config`",
        f"HostCertificate {place}/host-cert.pub",
        f"Match User {user}",
        *(f"    {line}" for line in inside),
    ]
    return "\n".join(lines) + "\n"


def principals(group: str, command: str) -> str:
    """The `AuthorizedPrincipalsFile`: who may start what. `restrict` is here too, whatever a certificate says."""
    _checked("group", group, WORD)
    return "".join(
        f'restrict,command="{_quoted(start)}" {name}\n'
        for name, start in ((group, command), (CLOCK_PRINCIPAL, CLOCK_COMMAND))
    )


def bastion_principals(group: str, command: str) -> str:
    """The same for a bastion: forwarding is all that is left."""
    _checked("group", group, WORD)
    return f'restrict,port-forwarding,command="{_quoted(command)}" {group}\n'


def known_hosts(names: Sequence[str], ca_public: str) -> str:
    """The line that pins the host CA for these names, and for no other."""
    for name in names:
        _checked("name", name, WORD)
    return f"@cert-authority {','.join(names)} {' '.join(ca_public.split()[:2])}\n"


def install(runner_ref: str, place: str = ETC) -> str:
    """The commands that a person types on the runner, from the folder with the files."""
    files = " ".join(shlex.quote(name) for name in ("user_ca.pub", "principals", "revoked.krl", "host-cert.pub"))
    return (
        f"install -d -m 755 {place}\ninstall -m 644 {files} {place}/\n"
        f"install -m 644 sshd.conf /etc/ssh/sshd_config.d/hyops.conf\nsshd -t && systemctl reload ssh  # {runner_ref}\n"
    )


def _quoted(command: str) -> str:
    if re.search(r"[^ -~]", command):
        raise UsageError(f"--command {command[:80]!r}: printable ASCII on one line")
    return command.replace("\\", "\\\\").replace('"', '\\"')


def _checked(what: str, value: str, pattern: re.Pattern[str]) -> None:
    if pattern.fullmatch(value) is None:
        raise UsageError(f"{what} {value[:80]!r}: not a {what} that can stand in a configuration of sshd")
