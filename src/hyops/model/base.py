"""What every record has in common: strict, frozen, canonical, signed (SPEC LOOP-2, INV-5).

A record's file is its canonical JSON with the field `signature` beside the others, so a person can read it; the
signature covers the canonical JSON without that field, in DSSE's pre-authentication encoding (`model.dsse`).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError

from hyops.errors import RecordError
from hyops.model import canonical

os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # code that happens to be installed beside us stays out


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs a zone; write it as 2026-01-31T23:59:59Z")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:  # year 1 east of Greenwich; pydantic passes nothing on but ValueError
        raise ValueError(f"{value} has no time in UTC") from exc


def iso_utc(value: datetime) -> str:
    """`2026-01-31T23:59:59.123456Z`."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


UtcTime = Annotated[datetime, AfterValidator(_utc), PlainSerializer(iso_utc, return_type=str)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")]
TEXT_MAX = 4096
Text = Annotated[str, Field(max_length=TEXT_MAX)]
EnvKey = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Generation = Annotated[int, Field(ge=0, le=2**53)]


def cut(text: str) -> str:
    """As much of a text as a `Text` holds: what is made of others' words may be longer than each of them."""
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"


class Signature(BaseModel):
    """Who vouches for a record: Ed25519 over its canonical bytes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    keyid: Digest
    sig: Annotated[str, Field(max_length=128)]


class Part(BaseModel):
    """A piece of a record: strict, frozen, no unknown key. Built on first use; see `build_all`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    def body(self) -> dict[str, Any]:
        """The JSON value, without what is unset."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)

    @classmethod
    def read(cls, data: bytes, *, source: str = "record") -> Self:
        """Parse once, at the edge.

        Raises:
            RecordError: names `source`, then every wrong key with what was expected.
        """
        value = cls.respelled(canonical.parse(data, source=source))
        try:
            return cls.model_validate_json(canonical.written(value))
        except ValidationError as exc:
            faults = [f"{'.'.join(str(p) for p in e['loc']) or '(top)'}: {e['msg']}" for e in exc.errors()]
            raise RecordError(f"{source}: " + "; ".join(faults)) from exc

    @classmethod
    def respelled(cls, value: Any) -> Any:
        """Hook for older spellings; a pydantic `before` validator would turn JSON strictness off for the record."""
        return value

    @classmethod
    def of(cls, value: Any, *, source: str = "value") -> Self:
        """The same from an already decoded JSON value."""
        return cls.read(canonical.encode(value), source=source)


def build_all(kind: type[Part] = Part) -> None:
    """Build every model that is loaded, which otherwise happens when it is first used.

    A short process builds only what it uses; a daemon builds all when it starts, so that no incident pays for it.
    """
    for below in kind.__subclasses__():
        below.model_rebuild()
        build_all(below)


class Record(Part):
    """An immutable, signed record that stages exchange and disk keeps."""

    kind: ClassVar[str]
    id_field: ClassVar[str]

    signature: Signature | None = None

    @property
    def record_id(self) -> str:
        """The id, which is the file's name too."""
        return str(getattr(self, self.id_field))

    def unsigned(self) -> bytes:
        """The canonical bytes that the signature covers."""
        body = self.body()
        body.pop("signature", None)
        return canonical.encode(body)

    def digest(self) -> str:
        """`sha256:<hex>` over the unsigned bytes: what later records point to."""
        return canonical.digest_bytes(self.unsigned())

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return canonical.encode(self.body()) + b"\n"
