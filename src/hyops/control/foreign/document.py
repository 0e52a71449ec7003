"""Files of hybridops as it was before, read with every loss named (CAT-5, VOC-1).

Nothing is guessed and nothing is downgraded: what cannot be said in our words is left out and listed, and what would
change what people agreed to is refused. A foreign record carries no signature, so whatever it asks waits for people.
Field names are those of its published documentation and files (hybridops-core, modules/platform/network/decision-*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from hyops.errors import ConfigError
from hyops.model.vocabulary import SPELLINGS, DecisionType

Where = tuple[str | int, ...]
SHOWN_MAX = 80
LAPTOP = "workstation-direct"
SECRET_WORDS = ("password", "passphrase", "secret", "token", "private_key", "api_key", "credential")


@dataclass(frozen=True)
class Lossy:
    """One thing that did not come over as it was. `line` counts from 1; 0: it stands nowhere."""

    line: int
    key: str
    was: str
    became: str
    why: str

    def body(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass
class Foreign:
    """A foreign document: what is taken from it is marked, so that what is left can be told."""

    source: str
    value: dict[str, Any]
    lines: Mapping[Where, int]
    lossy: list[Lossy] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, source: str, value: Any, lines: Mapping[Where, int]) -> Foreign:
        """ConfigError when it is no mapping."""
        if not isinstance(value, dict):
            raise ConfigError(f"{source}:1: a mapping is needed, not {kind_of(value)}")
        return cls(source, value, lines)

    def take(self, key: str, kind: type = str, *, needed: bool = False) -> Any:
        """One top-level value; None when it is not there.

        Raises:
            ConfigError: it is of another type, or missing though it is needed.
        """
        self._taken.add(key)
        found = self.value.get(key)
        if found is None and not needed:
            return None
        if not isinstance(found, kind) or (kind is not bool and isinstance(found, bool)):
            told = "it is missing" if found is None else f"{kind_of(found)}, not {kind.__name__}"
            raise self.wrong((key,), told)
        return found

    def lost(self, where: Where, became: str, why: str, was: Any = None) -> None:
        """Note a lossy point."""
        self.lossy.append(Lossy(self.line(where), _name(where), _shown(where, was), became, why))

    def lost_rest(self, reasons: Mapping[str, str]) -> None:
        """Note every top-level key that nobody took."""
        for key, value in self.value.items():
            if key not in self._taken:
                why = reasons.get(key, "not known here, so nothing follows from it")
                self.lost((key,), "left out", why, value)

    def line(self, where: Where) -> int:
        """Of a key, or of the nearest one above it."""
        return next((self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), 0)

    def wrong(self, where: Where, text: str, hint: str = "mend the file, or write ours by hand") -> ConfigError:
        """The error for a key."""
        return ConfigError(f"{self.source}:{self.line(where) or 1}: {_name(where)}: {text}", hint=hint)


def secrets_in(outputs: Mapping[str, Any]) -> set[str]:
    """Names that say a secret is behind them; `..._env` and `..._ref` name where one is."""
    return {
        key
        for key in outputs
        if any(word in key.lower() for word in SECRET_WORDS) and not key.lower().endswith(("_env", "_ref", "_hint"))
    }


def known_type(given: Foreign, where: Where, word: Any) -> None:
    """Return when it is a decision type, of today or of older files; ConfigError otherwise (VOC-1)."""
    if word not in (*DecisionType, *SPELLINGS):
        raise given.wrong(where, f"{word!r} is none of {', '.join([*DecisionType, *SPELLINGS])}")


def time_of(given: Foreign, where: Where, text: str) -> str:
    """A time in UTC as we write it; ConfigError when it is none. One without a zone is noted as lossy."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise given.wrong(where, f"{text[:SHOWN_MAX]!r} is no time like 2026-03-13T04:12:04Z") from None
    if at.tzinfo is None:
        given.lost(where, f"{text}Z", "it names no zone; the old loop wrote UTC", text)
        at = at.replace(tzinfo=UTC)
    try:
        return iso(at)
    except OverflowError:  # the first hours of year 1, east of Greenwich
        raise given.wrong(where, f"{text[:SHOWN_MAX]!r} has no time in UTC") from None


def iso(at: datetime) -> str:
    """`2026-03-13T04:12:04Z`."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _name(where: Where) -> str:
    return ".".join(str(part) for part in where)


def kind_of(value: Any) -> str:
    """What it is, for an error."""
    return {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}.get(
        type(value), "a number"
    )


def _shown(where: Where, value: Any) -> str:
    """A plain value as it was; a mapping or a list, which may hold anything, by its size alone."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return f"{kind_of(value)} of {len(value)}"
    if secrets_in({_name(where): value}):
        return "not shown"
    text = str(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."
