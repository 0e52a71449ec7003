"""Where secrets come from: an authority outside of the runner and outside of the site that it recovers (SEC-1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hyops.model.secret import Secret


class Trouble(StrEnum):
    """Why there is no value. Only `missing` says that the authority knows: there is none."""

    MISSING = "missing"  # the place is right and holds no such secret, or a deleted one
    MISPLACED = "misplaced"  # the place itself is wrong (mount, project, vault): nothing is known about the secret
    DENIED = "denied"  # not logged in, or not allowed; some authorities say so about what does not exist
    SEALED = "sealed"  # it is there and cannot open its own store (sealed, no key service)
    THROTTLED = "throttled"  # too many requests, also after waiting as long as the limit allows
    UNREACHABLE = "unreachable"  # no connection, no trust in its certificate, no answer in time, or an error of its own
    MALFORMED = "malformed"  # it answered, but not with a whole and valid value


@dataclass(frozen=True)
class Fetched:
    """A value as it is now; `version` as the authority counts, None where it does not."""

    value: Secret
    version: str | None = None


@dataclass(frozen=True)
class Refused:
    """No value. `why` is a sentence of ours: what the authority wrote is never quoted."""

    trouble: Trouble
    why: str


Answer = Fetched | Refused


class Authority(Protocol):
    """One authority, read only. `name` is the word in origins: vault, gsm, asm, akv; `place` says which one."""

    name: str
    place: str

    async def read(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """Ask for many at once; every ref has its answer, and one limit bounds the whole call.

        Raises:
            ConfigError: a ref or a setting has the wrong form; nobody was asked.
            PrerequisiteError: our own credentials cannot be read; nobody was asked.
        """
