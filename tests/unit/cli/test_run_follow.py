"""A followed run over a link that is away for long: it is tried again soon, whenever it comes back (RUN-11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from hyops.cli import run
from hyops.errors import RunnerUnreachableError
from hyops.ports.transport import RunEvent

AWAY, RUN_ID = 20, "run-20260314T030008Z-1a2b3c4d"


class Loop(asyncio.SelectorEventLoop):
    """Its time jumps to what is due next, so that nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        """The time of this loop alone."""
        return self._now

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        due = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if not ready and due:
            self._now = max(self._now, min(due))
        super()._run_once()  # type: ignore[misc]


class Away:
    """A runner that is not reached for many tries; each is noted with its time."""

    def __init__(self) -> None:
        self.tried_at: list[float] = []

    @asynccontextmanager
    async def connect(self, ref: str, look: object) -> AsyncIterator[Any]:
        """No link, then one on which the run ends."""
        self.tried_at.append(asyncio.get_running_loop().time())
        if len(self.tried_at) <= AWAY:
            raise RunnerUnreachableError("no route")

        class Session:
            async def differs(self) -> None:
                return None

            async def attach(self, run_id: str, offset: int) -> AsyncIterator[RunEvent]:
                yield RunEvent("end", offset, {"state": "finished"})

        yield Session()


@pytest.mark.req("RUN-11")
def test_a_link_that_was_away_for_long_is_tried_again_within_half_a_second() -> None:
    """The pause between two tries never grows beyond that, so a healed link is seen within a second."""
    runner, view = Away(), SimpleNamespace(run_id=RUN_ID, link="")

    with asyncio.Runner(loop_factory=Loop) as loop:
        state = loop.run(run._to_the_end(runner, "cloud", view, lambda event: None))  # type: ignore[arg-type]

    pauses = [after - before for before, after in zip(runner.tried_at, runner.tried_at[1:], strict=False)]
    assert (state, len(pauses), view.link) == ("finished", AWAY, "")
    assert max(pauses) <= 0.5
