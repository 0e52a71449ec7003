"""Who we are to a peer's sshd: a key, and a certificate of it where the peer trusts a CA (RUN-3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Login:
    """A key, by its file or (made for one login) as the bytes of OpenSSH's own form, and its certificate's line."""

    key: Path | bytes = field(repr=False)
    certificate: bytes | None = None
    principal: str | None = None
    """What the certificate must be good for; None: nobody here knows."""


class LoginSource(Protocol):
    """A fresh login for each connection. Blocks for a moment: a file is written."""

    def login(self) -> Login:
        """With a certificate that is valid for minutes."""

    def clock_login(self) -> Login:
        """One that may only ask the peer what time it has, and is good whatever time that is."""

    def now(self) -> datetime:
        """The clock that the certificates are made by."""
