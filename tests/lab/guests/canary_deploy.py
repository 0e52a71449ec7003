"""`hyops` of the canary tests on a real control host: the product's own, which stops at one named place until killed.

`HOLD_AT` names the place: the phase whose work has just been done, or for `approve` and `ship` is about to be done. It
prints one JSON line, `{"event": "held", "at": ..., "pid": ...}`, and then reads its standard input.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from hyops.adapters import runner_session
from hyops.adapters.runner_session import FramedSession
from hyops.cli.main import main
from hyops.ports.transport import RunEvent
from hyops.services.deploy import Deployment
from hyops.services.deploy_secrets import SyncEnv


def hold(name: str) -> None:
    """Stop here if this is the place."""
    if os.environ.get("HOLD_AT") == name:
        print(json.dumps({"event": "held", "at": name, "pid": os.getpid()}), flush=True)
        sys.stdin.read()


def after(owner: Any, method: str, name: str) -> None:
    """Stop when this method has done its work."""
    real: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(real)
    async def held(*words: Any, **named: Any) -> Any:
        done = await real(*words, **named)
        hold(name)
        return done

    setattr(owner, method, held)


def before(owner: Any, method: str, name: str) -> None:
    """Stop when this method is called."""
    real: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(real)
    async def held(*words: Any, **named: Any) -> Any:
        hold(name)
        return await real(*words, **named)

    setattr(owner, method, held)


def seal() -> None:
    """Stop when the values are sealed."""
    real = SyncEnv.handed

    def held(self: SyncEnv, *words: Any) -> Any:
        handed = real(self, *words)
        hold("seal")
        return handed

    SyncEnv.handed = held  # type: ignore[method-assign]


def follow() -> None:
    """Stop at the first thing that the run says."""
    real = FramedSession.attach

    async def held(self: FramedSession, *words: Any, **named: Any) -> AsyncIterator[RunEvent]:
        async for event in real(self, *words, **named):
            hold("follow")
            yield event

    FramedSession.attach = held  # type: ignore[method-assign]


if __name__ == "__main__":
    after(SyncEnv, "refresh", "sync")
    after(Deployment, "check", "plan")
    before(Deployment, "_approved", "approve")
    seal()
    before(runner_session, "ship", "ship")
    after(FramedSession, "stage", "stage")
    after(FramedSession, "start", "start")
    follow()
    after(FramedSession, "collect", "collect")
    sys.exit(main(sys.argv[1:]))
