"""A site with its own CAs, and a runner's sshd that is configured by what `hyops pki sshd-config` prints."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ssh_peer
from hyops import compose_pki
from hyops.adapters.pki_files import PkiFolder
from hyops.adapters.pki_keys import FileAuthority
from hyops.services import pki_sshd
from hyops.services.dispatch_identity import DispatchIdentity
from hyops.services.pki import Pki
from ssh_peer import SshPeer

GROUP = "cloud-runners"
RUNNER = "cloud-runner"
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@dataclass
class ShiftedClock:
    """This host's clock, wrong by so much."""

    by_s: float = 0.0

    def now(self) -> datetime:
        """Aware UTC time."""
        return datetime.now(UTC) + timedelta(seconds=self.by_s)

    def monotonic(self) -> float:
        """Never asked."""
        raise AssertionError

    def surely(self) -> datetime:
        """The same."""
        return self.now()

    async def sleep(self, seconds: float) -> None:
        """Never asked."""
        raise AssertionError


class Site:
    """CAs in `pki`, and keys beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pki = folder, folder / "pki"
        compose_pki.make_folder(self.pki, None)

    def ca(self, clock_by_s: float = 0.0) -> Pki:
        """Its CAs, on a clock that is wrong by so much."""
        return Pki(FileAuthority(self.pki), PkiFolder(self.pki), ShiftedClock(clock_by_s), by="test")

    def identity(self, key: Path, command: str, *, clock_by_s: float = 0.0, group: str = GROUP) -> DispatchIdentity:
        """What the executor makes of its configuration."""
        clock = ShiftedClock(clock_by_s)
        return DispatchIdentity(self.ca(clock_by_s), clock, key, group, valid_s=300, command=command)

    def known_hosts(self, *names: str) -> str:
        """The pin of the host CA."""
        return pki_sshd.known_hosts(names or (RUNNER,), (self.pki / "host_ca.pub").read_text())


class CertifiedPeer(SshPeer):
    """A peer that takes certificates of a site's user CA, and nothing else."""

    def __init__(self, folder: Path, site: Site, *, trusts: Path | None = None) -> None:
        super().__init__(folder)
        self.site = site
        self.command = f"{' '.join(ssh_peer.SERVE)} {folder}"
        self.etc = folder / "etc"
        self.etc.mkdir()
        (self.etc / "user_ca.pub").write_bytes((trusts or site.pki / "user_ca.pub").read_bytes())
        (self.etc / "principals").write_text(pki_sshd.principals(GROUP, self.command))
        self.refresh()
        self.show(site.ca().sign_host(self.public("host"), [RUNNER])[0])
        self.options = pki_sshd.drop_in(RUNNER, ssh_peer.user(), place=str(self.etc))
        self.pin(site.known_hosts().strip())

    def refresh(self) -> None:
        """Copy the revocation list there, as a person or a timer does."""
        (self.etc / "revoked.krl").write_bytes((self.site.pki / "revoked.krl").read_bytes())

    def show(self, certificate: bytes) -> None:
        """What sshd shows from its next start on."""
        (self.etc / "host-cert.pub").write_bytes(certificate)

    def bastion(self, targets: Sequence[str]) -> None:
        """Be a bastion to these from the next start on."""
        (self.etc / "principals").write_text(pki_sshd.bastion_principals("jump", "/usr/sbin/nologin"))
        self.options = pki_sshd.drop_in("bastion", ssh_peer.user(), place=str(self.etc), permit_open=targets)


def keygen(path: Path) -> Path:
    """A fresh key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path
