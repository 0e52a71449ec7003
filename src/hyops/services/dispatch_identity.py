"""The executor's own certificates: a fresh one for each connection, valid for minutes (RUN-3)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hyops.errors import PrerequisiteError
from hyops.ports.clock import Clock
from hyops.ports.identity import Login
from hyops.services.pki import Pki


class DispatchIdentity:
    """`LoginSource`: one key of this host, certified for one group of runners."""

    def __init__(self, pki: Pki, clock: Clock, key_file: Path, group: str, *, valid_s: float, command: str) -> None:
        self._pki, self._clock, self._key_file = pki, clock, key_file
        self._group, self._valid_s, self._command = group, valid_s, command

    def login(self) -> Login:
        """See the port. The private key is not read here."""
        public = self._key_file.with_name(self._key_file.name + ".pub")
        try:
            text = public.read_text()
        except OSError as exc:
            hint = f"make it: ssh-keygen -y -f {self._key_file} > {public}"
            raise PrerequisiteError(f"{public}: {exc.strerror}", hint=hint) from exc
        certificate, _ = self._pki.sign_user(
            text, self._group, valid_s=self._valid_s, command=self._command, source=str(public)
        )
        return Login(self._key_file, certificate, self._group)

    def clock_login(self) -> Login:
        """See the port."""
        private, certificate = self._pki.clock_key()
        return Login(private, certificate)

    def now(self) -> datetime:
        """See the port."""
        return self._clock.now()
