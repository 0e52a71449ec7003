"""What the edge does for a runner that asks: open and remove, by its own clock, records and look outside (ACC-1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hyops.access.public import open_grant, remove_grant
from hyops.errors import HyopsError, PrerequisiteError, RecordError, UsageError, foreign
from hyops.model.access import AccessDesk, AccessGrant
from hyops.ports.access import EphemeralRule, OutsideProbe

QUESTION_MAX = 64 * 1024


@dataclass(frozen=True)
class EdgeDesk:
    """One edge. `keep` writes a grant's record durably."""

    desk: AccessDesk
    rule: EphemeralRule
    outside: OutsideProbe
    keep: Callable[[AccessGrant], None]
    now: Callable[[], datetime]

    async def answer(self, question: bytes) -> dict[str, Any]:
        """What is said to one question; a refusal is an answer too."""
        try:
            with foreign():
                return {"ok": True, "grant": (await self._done(question)).body()}
        except HyopsError as exc:
            return {"ok": False, "error": exc.as_json()}

    async def _done(self, question: bytes) -> AccessGrant:
        try:
            asked = json.loads(question)
            verb, body = asked["verb"], asked["grant"]
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise RecordError(f"the question: {type(exc).__name__}: {exc}") from exc
        grant = AccessGrant.of(body, source="the question")
        if (grant.address, grant.port) not in {(one.address, one.port) for one in self.desk.guarded}:
            raise PrerequisiteError(
                f"{grant.address}:{grant.port} is not guarded by this edge", hint="add it to `guarded` there"
            )
        if verb == "remove":
            return await remove_grant(grant, self.rule, self.outside, self.keep, self.now)
        if verb == "open":
            here = self.now()
            timed = grant.model_copy(
                update={"opened_at": here, "expires_at": here + (grant.expires_at - grant.opened_at)}
            )
            return await open_grant(timed, self.rule, self.keep, looks_from=self.desk.vantage.address)
        raise UsageError(f"no verb {str(verb)[:60]!r}")
