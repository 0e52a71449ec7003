"""How long a question to a runner is waited for, on a clock that jumps (RUN-11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hyops.errors import RunnerUnreachableError
from hyops.ports.look import Awaited, Look
from hyops.services.looking import LOOK_LIMIT_S, looking
from unit.cli.test_run_follow import Loop

LONG_S = 100 * LOOK_LIMIT_S


class Slow:
    """A runner that takes its time: to be connected to, to greet, and to answer."""

    def __init__(self, connect_s: float = 0.0, greet_s: float = 0.0, answer_s: float = 0.0) -> None:
        self._connect_s, self._greet_s, self._answer_s = connect_s, greet_s, answer_s
        self.left = False

    @asynccontextmanager
    async def connect(self, runner_ref: str, look: Look) -> AsyncIterator[Any]:
        """TCP is up at once."""
        look.awaited = Awaited.HANDSHAKE
        await asyncio.sleep(self._connect_s)
        try:
            yield self
        finally:
            self.left = True

    async def differs(self) -> None:
        """The greeting."""
        await asyncio.sleep(self._greet_s)

    async def answer(self) -> str:
        """Any verb."""
        await asyncio.sleep(self._answer_s)
        return "answer"


def asked(runner: Slow, *, acts: bool = False) -> tuple[str, float]:
    """What a look ends with, and when."""

    async def body() -> str:
        try:
            async with looking(runner, "cloud-runner", acts=acts) as session:  # type: ignore[arg-type]
                return await session.answer()  # type: ignore[attr-defined,no-any-return]
        except RunnerUnreachableError as exc:
            return exc.message

    with asyncio.Runner(loop_factory=Loop) as loop:
        return loop.run(body()), loop.get_loop().time()


@pytest.mark.req("RUN-11", "UX-1")
@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("runner", "acts", "awaited"),
    [
        (Slow(connect_s=LONG_S), False, Awaited.HANDSHAKE),
        (Slow(connect_s=LONG_S), True, Awaited.HANDSHAKE),
        (Slow(answer_s=LONG_S), False, Awaited.ANSWER),
        (Slow(greet_s=LONG_S), True, Awaited.ANSWER),
        (Slow(connect_s=0.7 * LOOK_LIMIT_S, answer_s=0.7 * LOOK_LIMIT_S), False, Awaited.ANSWER),
    ],
    ids=["handshake", "handshake-acts", "answer", "greeting", "both-slow"],
)
def test_silence_ends_a_look_within_its_limit(runner: Slow, acts: bool, awaited: Awaited) -> None:
    """In all, not each part by itself; ten seconds at most, and the error says what was waited for."""
    said, after_s = asked(runner, acts=acts)

    assert str(awaited) in said
    assert after_s == pytest.approx(LOOK_LIMIT_S)
    assert LOOK_LIMIT_S <= 10.0


@pytest.mark.req("RUN-11", "RUN-5")
def test_what_acts_takes_its_time_once_it_was_greeted() -> None:
    """A return of 100 MB, a cancellation that waits for an effect: the limit was the greeting's."""
    runner = Slow(connect_s=1.0, greet_s=1.0, answer_s=LONG_S)

    said, after_s = asked(runner, acts=True)

    assert (said, runner.left) == ("answer", True)
    assert after_s == pytest.approx(LONG_S + 2.0)


def test_a_time_limit_of_what_was_asked_is_not_taken_for_silence() -> None:
    """Somebody else's TimeoutError passes as it is."""

    async def body() -> None:
        async with looking(Slow(), "cloud-runner"):  # type: ignore[arg-type]
            raise TimeoutError("of the caller")

    with asyncio.Runner(loop_factory=Loop) as loop, pytest.raises(TimeoutError, match="of the caller"):
        loop.run(body())
