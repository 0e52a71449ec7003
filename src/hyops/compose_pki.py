"""What `hyops pki` works on, and how the executor's configuration becomes the targets of dispatches (see `compose`)."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.adapters.runner_link import RunnerTarget
    from hyops.services.config_execution import BastionLogin, Certificates, RunnerLogin
    from hyops.services.pki import Pki


def make_folder(folder: Path, passphrase_file: Path | None) -> None:
    """Both CAs, the register and an empty revocation list."""
    from hyops.adapters.pki_files import create
    from hyops.adapters.pki_keys import read_passphrase

    create(folder, read_passphrase(passphrase_file))


def pki(folder: Path, passphrase_file: Path | None = None, *, by: str | None = None) -> Pki:
    """A site's CAs; what is signed says who asked."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.pki_files import PkiFolder
    from hyops.adapters.pki_keys import FileAuthority
    from hyops.services.pki import Pki

    return Pki(FileAuthority(folder, passphrase_file), PkiFolder(folder), SystemClock(), by=by or _who())


def runner_target(ref: str, login: RunnerLogin, bastions: Mapping[str, BastionLogin]) -> RunnerTarget:
    """One runner of the executor's configuration; its key is pinned under its reference."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.runner_link import RunnerTarget
    from hyops.services.dispatch_identity import DispatchIdentity

    certificate: Certificates | None = login.certificate
    key_file, identity = Path(login.key_file), None
    if certificate is not None:
        passphrase = None if certificate.passphrase_file is None else Path(certificate.passphrase_file)
        identity = DispatchIdentity(
            pki(Path(certificate.pki), passphrase),
            SystemClock(),
            key_file,
            certificate.group,
            valid_s=certificate.valid_s,
            command=certificate.command,
        )
    return RunnerTarget(
        login.address,
        login.user,
        key_file,
        Path(login.known_hosts),
        login.port,
        host_key_alias=ref,
        revoked=_path(login.revoked),
        identity=identity,
        bastion=None if login.bastion is None else _bastion(login.bastion, bastions[login.bastion]),
    )


def _bastion(name: str, login: BastionLogin) -> RunnerTarget:
    from hyops.adapters.runner_link import RunnerTarget

    return RunnerTarget(
        login.address,
        login.user,
        Path(login.key_file),
        Path(login.known_hosts),
        login.port,
        host_key_alias=name,
        revoked=_path(login.revoked),
        only_forwards=True,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _who() -> str:
    person = os.environ.get("SUDO_USER")
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return f"{person} as {name}" if person and person != name else name
