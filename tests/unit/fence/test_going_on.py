"""A run that promoted and failed asks again before it goes on: what has passed is 15, who is silent is 12 (UX-1)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.engine import run as engine
from hyops.engine.journal import Journal
from hyops.errors import HyopsError, StaleGenerationError, TargetError
from hyops.model.vocabulary import Outcome, Phase
from hyops.ports.driver import Driver, Unanswered
from hyops.testing.drivers import Scripted, drivers
from hyops.testing.runs import plan_of, spec_of, step
from switch_pair import STEPS, Pair, Unreachable, run, switch

WORDS = {name: (module, keys) for name, module, keys in STEPS}


async def asked(pair: Pair, name: str) -> list[str]:
    """What a step's preflight says of the run that raised the generation."""
    module, keys = WORDS[name]
    inputs = pair.inputs()
    driver: Driver = pair.drivers()[module]
    return await driver.preflight(pair.context(pair.spec(), name, {key: inputs[key] for key in keys}))


async def silent(*_: Any, **__: Any) -> Any:
    """Nobody answers."""
    raise TargetError("no answer within 3 s")


def quiet_quorum(pair: Pair) -> None:
    """The lease store's quorum is gone."""
    pair.store.silent = True


def quiet_target(pair: Pair) -> None:
    """The target's host is gone."""
    pair.agents["cloud-db"] = Unreachable()


def quiet_dns(pair: Pair) -> None:
    """The first authority is gone."""
    pair.dns.ask = silent  # type: ignore[method-assign]


@pytest.mark.req("UX-1", "GEN-1", "INV-5")
@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("name", "quiet"), [("fence", quiet_quorum), ("promote", quiet_target), ("cutover", quiet_dns)]
)
def test_silence_is_told_apart_from_having_passed(name: str, quiet: Callable[[Pair], None]) -> None:
    """Fenced, promoted, cut over; then nobody answers the step that asks again: it says that."""
    pair = Pair()
    run(switch(pair, pair.spec()))

    assert run(asked(pair, name)) == []

    quiet(pair)
    (fault,) = run(asked(pair, name))

    assert isinstance(fault, Unanswered)
    assert "does not answer" in fault


@pytest.mark.req("UX-1", "GEN-1")
def test_a_later_generation_is_no_silence() -> None:
    """Another run has raised the generation since: that is an answer."""
    pair = Pair()
    run(switch(pair, pair.spec()))
    run(pair.store.raise_generation("pg", expected=2, primary="onprem-db", run_id="run-2"))
    (fault,) = run(asked(pair, "fence"))

    assert not isinstance(fault, Unanswered)
    assert "generation 3" in fault


def raising(error: BaseException) -> Callable[..., Any]:
    """A preflight that ends so."""

    async def preflight(*_: Any) -> list[str]:
        raise error

    return preflight


async def says(*faults: str) -> list[str]:
    """A preflight that has an answer."""
    return list(faults)


async def hangs(*_: Any) -> list[str]:
    """A preflight that has none."""
    await asyncio.Event().wait()
    return []


CASES: dict[str, tuple[Callable[..., Any], int]] = {
    "moved on": (lambda *_: says("the service is at generation 9"), 15),
    "silent": (lambda *_: says(Unanswered("the lease store does not answer")), 12),
    "both": (lambda *_: says(Unanswered("the lease store does not answer"), "it is at generation 9"), 15),
    "raises": (raising(TargetError("no route to host")), 12),
    "breaks": (raising(OSError(errno.EHOSTUNREACH, "no route to host")), 12),
    "raises stale": (raising(StaleGenerationError("generation 9 is there")), 15),
    "hangs": (hangs, 12),
}


@pytest.mark.req("UX-1", "RUN-5", "GEN-1")
@pytest.mark.fault(27)
@pytest.mark.parametrize("case", CASES)
def test_a_repeated_preflight_has_the_exit_code_of_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Asked again of a step that is done: 15 only where somebody says that it has passed; nothing is touched."""
    preflight, code = CASES[case]
    monkeypatch.setattr(engine, "PREFLIGHT_S", 0.05)
    scripted = Scripted(acts={"cutover": raising(TargetError("the authority is gone"))})
    plan = plan_of([step("promote"), step("cutover", "promote", phase=Phase.DATA)])
    spec, pair = spec_of(plan), Pair()
    path = tmp_path / "journal.jsonl"

    async def lives() -> tuple[Outcome, HyopsError]:
        with Journal(path) as journal:
            going = engine.Run(spec, journal, drivers(scripted), pair.clock, {}, pair.logs.append)
            going.append("run-opened", {"run_id": spec.run_id})
            finish = await going.execute()
            monkeypatch.setattr(scripted, "preflight", lambda c: preflight(c) if c.step_id == "promote" else says())
            with pytest.raises(HyopsError) as refused:
                await going.may_go_on()
            return finish.outcome, refused.value

    outcome, refused = run(lives())

    assert (outcome, refused.exit_code, str(refused.effect)) == (Outcome.FAILED, code, "none")
    assert ("cannot be asked" in refused.message) is (code == 12)
    assert "hyops run resume" in refused.hint or code == 15
    assert scripted.effects == ["promote"]
