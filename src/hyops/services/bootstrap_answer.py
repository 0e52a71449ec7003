"""What a host answers while it is made a runner: of a known shape, fit to be shown, and about itself its key alone.

Nobody trusts that host yet (RUN-2, INV-8). Which runner its key speaks for is said here, never by the host.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

from pydantic import Field

from hyops.errors import NotVerifiedError, RecordError
from hyops.model.base import Part
from hyops.model.words import shown

PUBLIC_BYTES = 32
Said = Annotated[str, Field(max_length=64 * 1024)]


class Item(Part):
    """One thing, and what became of it."""

    what: Said
    state: Literal["kept", "made", "changed", "removed", "to make", "to change", "to remove"]


class Answer(Part):
    """All went well. `also`: who else the file of the entrance lets in."""

    ok: Literal[True]
    touched: bool
    items: list[Item] = Field(max_length=1000)
    changes: int
    public: Said | None
    also: list[Said] = Field(max_length=10_000)

    def states(self) -> list[dict[str, str]]:
        """The items, as they may be shown."""
        return [{"what": shown(item.what), "state": item.state} for item in self.items]

    def wanting(self) -> int:
        """How many things were not as they should be."""
        return sum(item.state != "kept" for item in self.items)


class Refused(Part):
    """It went no further."""

    ok: Literal[False]
    touched: bool
    message: Said
    hint: Said


def read(line: bytes) -> Answer | Refused:
    """The one line that `hyops.runner.setup` writes last.

    Raises:
        RecordError: it is none.
    """
    try:
        return Answer.read(line, source="its answer")
    except RecordError as fault:
        try:
            return Refused.read(line, source="its answer")
        except RecordError:
            raise fault from None


def trusted_key(said: str, runner_ref: str) -> dict[str, Any]:
    """The entry for every `trusted_keys.json`: the host's public key, with the one role that this runner may have.

    Args:
        said: what `hyops runner signing-key` printed there; only its `public` is read.
        runner_ref: who was made.
    Raises:
        NotVerifiedError: it said no Ed25519 public key.
    """
    try:
        raw = base64.b64decode(json.loads(said)["public"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        raw = b""
    if len(raw) != PUBLIC_BYTES:
        said_short = shown(said, 200)
        raise NotVerifiedError(
            f"{runner_ref} says no public key of {PUBLIC_BYTES} bytes: {said_short}",
            hint="see on its console what `hyops runner signing-key` prints there; trust nothing of it until then",
        )
    return {"name": runner_ref, "public": base64.b64encode(raw).decode(), "roles": [f"runner:{runner_ref}"]}
