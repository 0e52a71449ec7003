"""How long a question to a runner is waited for, on a clock that jumps (RUN-11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.runner_link import RunnerTarget, SshTransport
from hyops.errors import RunnerUnreachableError
from hyops.ports.look import Awaited, Look
from hyops.services.looking import AT_ONCE, LOOK_LIMIT_S, each, looking
from hyops.testing.evidence import VERIFIER
from unit.cli.test_run_follow import Loop

LONG_S = 100 * LOOK_LIMIT_S


async def passes(seconds: float) -> None:
    """The clock jumps over it."""
    await asyncio.sleep(seconds)


class Slow:
    """A runner that takes its time: to be connected to, to greet, and to answer."""

    def __init__(self, connect_s: float = 0.0, greet_s: float = 0.0, answer_s: float = 0.0) -> None:
        self._connect_s, self._greet_s, self._answer_s = connect_s, greet_s, answer_s
        self.left = False

    @asynccontextmanager
    async def connect(self, runner_ref: str, look: Look) -> AsyncIterator[Any]:
        """TCP is up at once."""
        look.awaited = Awaited.HANDSHAKE
        await passes(self._connect_s)
        try:
            yield self
        finally:
            self.left = True

    async def differs(self) -> None:
        """The greeting."""
        await passes(self._greet_s)

    async def answer(self) -> str:
        """Any verb."""
        await passes(self._answer_s)
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


@pytest.mark.req("RUN-11", "INV-9")
def test_runners_are_asked_beside_each_other_and_not_all_of_many_at_once() -> None:
    """Three silent ones cost what one costs, and as many as are asked at once; the answers are in order."""
    at_once = most = 0

    async def ask(name: str) -> str:
        nonlocal at_once, most
        at_once, most = at_once + 1, max(most, at_once + 1)
        await passes(0.0 if name == "z" else LOOK_LIMIT_S)
        at_once -= 1
        return name.upper()

    for names, took_s in (("abcz", LOOK_LIMIT_S), ("ab" * AT_ONCE, 2 * LOOK_LIMIT_S), ("", 0.0)):
        with asyncio.Runner(loop_factory=Loop) as loop:
            assert loop.run(each(names, ask)) == [*names.upper()]
            assert loop.get_loop().time() == pytest.approx(took_s)
    assert most == AT_ONCE


def test_what_one_question_raises_ends_the_others() -> None:
    """As it was raised; nothing goes on behind the caller's back."""
    left: list[str] = []

    async def ask(name: str) -> None:
        try:
            await passes(1.0 if name == "b" else 5.0)
            raise RunnerUnreachableError(name)
        finally:
            left.append(name)

    with asyncio.Runner(loop_factory=Loop) as loop, pytest.raises(RunnerUnreachableError, match="b"):
        loop.run(each("abc", ask))
    assert sorted(left) == ["a", "b", "c"]


@pytest.mark.req("RUN-11", "ACC-2")
@pytest.mark.parametrize(("silent", "awaited"), [("bastion", Awaited.BASTION), ("runner", Awaited.TCP)])
def test_behind_a_bastion_the_one_that_is_silent_is_named(tmp_path: Path, silent: str, awaited: Awaited) -> None:
    """The way to it, or the runner at its end."""
    known = {"user": "hyops", "key_file": tmp_path / "key", "known_hosts": tmp_path / "known_hosts"}
    bastion = RunnerTarget(host="bastion", only_forwards=True, **known)  # type: ignore[arg-type]
    target = RunnerTarget(host="runner", bastion=bastion, **known)  # type: ignore[arg-type]

    async def dial(target: RunnerTarget, keepalive_s: float, over: object) -> Any:
        if target.host == silent:
            await asyncio.Event().wait()
        return Through()

    async def body() -> None:
        transport = SshTransport({"cloud-runner": target}, VERIFIER, dial)
        with pytest.raises(RunnerUnreachableError, match=f"within 8 s: {awaited}$"):
            async with looking(transport, "cloud-runner") as session:
                await session.differs()

    with asyncio.Runner(loop_factory=Loop) as loop:
        loop.run(body())


class Through:
    """A connection to a bastion."""

    gone = False

    async def open(self) -> None:
        """Nothing runs there."""

    async def drop(self) -> None:
        """Nothing is kept."""
