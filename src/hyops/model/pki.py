"""What a site's SSH certificates leave behind: each one issued, each revocation; no number twice (RUN-3)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from hyops.model.base import Part, Text, UtcTime

SERVE_COMMAND = "/usr/bin/hyops runner-serve --config /etc/hyops/runner.json"
CLOCK_PRINCIPAL = "hyops-clock"
CLOCK_COMMAND = "/usr/bin/date -u +%s"

Principal = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,252}$")]  # no comma, blank or pattern
Number = Annotated[int, Field(ge=1, lt=2**53)]


class CertificateKind(StrEnum):
    """Which CA signs and what it allows."""

    HOST = "host"
    USER = "user"
    BASTION = "bastion"
    """A user certificate that may forward ports and do nothing else."""


class Issued(Part):
    """A line of the register, written before its certificate exists: what was signed is always known."""

    serial: Number
    kind: CertificateKind
    principals: Annotated[list[Principal], Field(min_length=1, max_length=32)]
    fingerprint: Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
    valid_after: UtcTime
    valid_before: UtcTime | None = None
    """None: for ever; only for what may read a clock."""
    command: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[ -~]+$")] | None = None
    source_address: Annotated[str, Field(max_length=1024, pattern=r"^[0-9a-fA-F:./,]+$")] | None = None
    by: Text
    issued_at: UtcTime

    @property
    def key_id(self) -> str:
        """How sshd names it in its log."""
        return f"hyops:{self.kind}:{self.principals[0]}:{self.serial}"


class Revocation(Part):
    """A certificate, by its serial, or a key with every certificate of it, that counts no more."""

    number: Number
    ca: Literal["host", "user"] | None = None
    serial: Number | None = None
    key: Annotated[str, Field(max_length=16384, pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/=]+$")] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    by: Text
    revoked_at: UtcTime
