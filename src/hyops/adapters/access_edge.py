"""The edge over SSH: one question a connection to its forced command `hyops access serve`, key pinned (ACC-1)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hyops.adapters.access_dial import dial
from hyops.adapters.ssh_library import asyncssh
from hyops.errors import HyopsError, PrerequisiteError, TargetError
from hyops.model import canonical, wire
from hyops.model.access import AccessGrant
from hyops.ports.access import SshPlace

ANSWER_LIMIT_S = 20.0  # it asks nft, and a look from outside may wait for a packet that is dropped
ANSWER_MAX = 64 * 1024


class SshEdge:
    """`Edge` at the host `place`."""

    def __init__(self, place: SshPlace) -> None:
        self._place = place

    async def open(self, grant: AccessGrant) -> AccessGrant:
        """See the port."""
        return await self._asked("open", grant)

    async def remove(self, grant: AccessGrant) -> AccessGrant:
        """See the port."""
        return await self._asked("remove", grant)

    async def _asked(self, verb: str, grant: AccessGrant) -> AccessGrant:
        try:
            line = await self._said(canonical.encode({"verb": verb, "grant": grant.body()}) + b"\n")
        except TargetError as exc:
            raise PrerequisiteError(f"the edge does not answer: {exc.message}", hint=exc.hint) from exc
        return _read(line, grant)

    async def _said(self, question: bytes) -> bytes:
        dialled = await dial(self._place, None)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                process = await dialled.connection.create_process(
                    "hyops access serve", encoding=None, stderr=asyncssh.DEVNULL, window=ANSWER_MAX
                )
                process.stdin.write(question)
                process.stdin.write_eof()
                return bytes(await process.stdout.read(ANSWER_MAX))
        except (asyncssh.Error, OSError, TimeoutError) as exc:
            raise TargetError(f"{self._place.name}: {type(exc).__name__}: {exc}") from exc
        finally:
            await dialled.close()


def _read(line: bytes, asked: AccessGrant) -> AccessGrant:
    """The grant as it stands at the edge; its refusal as an error of ours."""
    try:
        told: Any = json.loads(line)
        ok, grant, error = told["ok"] is True, told.get("grant"), told.get("error")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise PrerequisiteError(
            f"the edge answered {line[:60]!r}", hint="its forced command for our key is `hyops access serve`"
        ) from exc
    if not ok:
        raise _refusal(wire.error_of(error if isinstance(error, dict) else {}))
    found = AccessGrant.of(grant, source="the edge's answer")
    if (found.grant_id, found.source, found.address, found.port) != (
        asked.grant_id, asked.source, asked.address, asked.port
    ):  # fmt: skip
        raise PrerequisiteError(f"the edge answered about {found.grant_id}, which was not asked for")
    return found


def _refusal(error: HyopsError) -> HyopsError:
    return type(error)(f"the edge says: {error.message}", hint=error.hint, effect=error.effect)
