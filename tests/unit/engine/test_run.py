"""The engine runs each effect once, through crashes, refusals, time limits, cancellation and a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.engine.journal import Journal, read
from hyops.engine.result import RunFacts, result_of
from hyops.engine.run import Run
from hyops.engine.state import Finish
from hyops.engine.step import OUTPUTS_SUM_MAX
from hyops.errors import DeadlineError, NotFencedError, NotVerifiedError, TargetError
from hyops.model.dsse import verify_record
from hyops.model.plan import Step
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome, Phase
from hyops.ports.driver import Reconciled, StepContext, StepResult
from hyops.testing.drivers import Scripted, drivers, never
from hyops.testing.evidence import STAGES, VERIFIER
from hyops.testing.runs import plan_of, spec_of, step


class FakeClock:
    """Time that moves only when somebody waits."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 14, 3, tzinfo=UTC)
        self.mono = 100.0

    def now(self) -> datetime:
        """Wall time."""
        return self.at

    def monotonic(self) -> float:
        """Elapsed time."""
        return self.mono

    def surely(self) -> datetime:
        """The same."""
        return self.now()

    async def sleep(self, seconds: float) -> None:
        """Waiting costs no time."""
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Move both clocks."""
        self.at += timedelta(seconds=seconds)
        self.mono += seconds


class SimulatedCrash(BaseException):
    """The process is gone: nothing after it runs, not even an error handler."""


@dataclass
class Bench:
    """One run folder, whose process may be killed at the n-th boundary and started again."""

    folder: Path
    steps: Sequence[Step]
    driver: Scripted = field(default_factory=Scripted)
    clock: FakeClock = field(default_factory=FakeClock)
    secrets: dict[str, str] = field(default_factory=dict)
    write: Callable[[int, bytes], int] = os.write
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = spec_of(plan_of(self.steps), at=self.clock.now())
        self.boundaries: list[str] = []

    def process(self, crash_at: int | None = None, during: Callable[[Run], None] | None = None) -> Finish:
        """Live one process: to the end, or killed at a boundary."""
        self.boundaries = []

        def boundary(name: str) -> None:
            self.boundaries.append(name)
            if len(self.boundaries) == crash_at:
                raise SimulatedCrash(name)

        with Journal(self.folder / "journal.jsonl", write=self.write) as journal:

            async def live() -> Finish:
                run = Run(
                    self.spec,
                    journal,
                    drivers(self.driver),
                    self.clock,
                    self.secrets,
                    self.lines.append,
                    at_boundary=boundary,
                )
                if not journal.entries:
                    run.append("run-opened", {"run_id": self.spec.run_id})
                if during:
                    during(run)
                return await run.execute()

            return asyncio.run(live())

    def result(self) -> RunResult:
        """The signed result of the closed run."""
        spec = self.spec
        facts = RunFacts(spec.run_id, "cloud-runner", "pg", 7, spec.plan.digest(), spec.plan)
        with Journal(self.folder / "journal.jsonl") as journal:
            return result_of(facts, journal, STAGES["runner:cloud-runner"])

    def outcomes(self) -> dict[str, str]:
        """Step -> outcome, as the result has it."""
        return {s.step_id: str(s.outcome) for s in self.result().steps}

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """Bodies of the journal's records of one kind."""
        entries, _, _ = read((self.folder / "journal.jsonl").read_bytes())
        return [dict(e.body) for e in entries if e.kind == kind]


CHAIN = [step("a"), step("b", "a"), step("c", "b", phase=Phase.DATA)]


@pytest.mark.req("BP-2", "BP-4", "RUN-6")
def test_steps_run_in_order_and_the_result_is_signed(tmp_path: Path) -> None:
    """A clean run has one effect per step, in order, a signed result and phases on the run's own clock."""
    bench = Bench(tmp_path, CHAIN)
    bench.driver.acts = {"b": lambda context: (bench.clock.pass_time(2.0), bench.driver.effect(context))[1]}
    assert bench.process() == Finish(Outcome.SUCCEEDED, 0, None)
    assert bench.driver.effects == ["a", "b", "c"]
    result = bench.result()
    assert verify_record(result, VERIFIER) == STAGES["runner:cloud-runner"].keyid
    assert result.phases_s == {"prepare": 2.0, "data": 0.0}
    assert result.journal_records == len(read((tmp_path / "journal.jsonl").read_bytes())[0])


@pytest.mark.req("BP-4", "RUN-5")
@pytest.mark.fault(13)
def test_a_crash_at_every_boundary_gives_one_effect_per_step(tmp_path: Path) -> None:
    """Killed at each boundary in turn and started again, the run ends succeeded with every effect made once."""
    (tmp_path / "clean").mkdir()
    clean = Bench(tmp_path / "clean", CHAIN)
    clean.process()
    assert len(clean.boundaries) == 5 * 3 + 2
    for crash_at in range(1, len(clean.boundaries) + 1):
        folder = tmp_path / str(crash_at)
        folder.mkdir()
        bench = Bench(folder, CHAIN)
        with pytest.raises(SimulatedCrash):
            bench.process(crash_at)
        assert bench.process().outcome is Outcome.SUCCEEDED, crash_at
        assert bench.driver.effects == ["a", "b", "c"], crash_at
        assert bench.outcomes() == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}


@pytest.mark.req("BP-4")
@pytest.mark.fault(13)
def test_two_crashes_in_one_run_change_nothing(tmp_path: Path) -> None:
    """Every pair of crash points, the second in the resumed process, still gives one effect per step."""
    for first in range(1, 18):
        for second in range(1, 10):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            bench = Bench(folder, CHAIN)
            for crash_at in (first, second, None):
                try:
                    bench.process(crash_at)
                except SimulatedCrash:
                    continue
            assert bench.driver.effects == ["a", "b", "c"], (first, second)
            assert bench.result().outcome is Outcome.SUCCEEDED


@pytest.mark.req("RUN-5", "VOC-5")
@pytest.mark.fault(15)
def test_what_the_probe_cannot_tell_blocks_the_run(tmp_path: Path) -> None:
    """Crashed within a step whose probe does not know: unknown, never run again, nothing after it."""
    bench = Bench(tmp_path, CHAIN, Scripted(verdicts={"b": Reconciled.UNKNOWN}))
    within_b = 5 + 2
    with pytest.raises(SimulatedCrash):
        bench.process(within_b)
    finish = bench.process()
    assert (finish.outcome, finish.exit_code) == (Outcome.UNKNOWN, 20)
    assert bench.driver.effects == ["a"]
    assert bench.outcomes() == {"a": "succeeded", "b": "unknown"}


def test_a_closed_run_is_not_run_again(tmp_path: Path) -> None:
    """Executing a closed journal says how it ended and makes no effect; its result has the same bytes."""
    bench = Bench(tmp_path, CHAIN)
    bench.process()
    first = bench.result().encoded()
    assert bench.process().outcome is Outcome.SUCCEEDED
    assert bench.driver.effects == ["a", "b", "c"]
    assert bench.result().encoded() == first


@pytest.mark.req("RUN-6", "RUN-11", "INV-7")
@pytest.mark.parametrize("how", ["one-after-another", "side-by-side", "after-a-kill"])
def test_outputs_that_would_not_come_home_end_their_step(tmp_path: Path, how: str) -> None:
    """Each step's outputs fit, all together do not: the step that is over says so, and the result can be read."""
    names = [f"s{number}" for number in range(9)]
    after = dict(zip(names[1:], names, strict=False)) if how != "side-by-side" else {}
    steps = [step(name, *([after[name]] if name in after else [])) for name in names]
    bench = Bench(tmp_path, steps, Scripted(outputs={name: {"text": "x" * 250_000} for name in names}))
    if how == "after-a-kill":
        with pytest.raises(SimulatedCrash):
            bench.process(crash_at=23)

    finish, result = bench.process(), bench.result()

    wrong = [s for s in result.steps if s.outcome is not Outcome.SUCCEEDED]
    assert (len(wrong), finish.outcome) == (1, Outcome.UNKNOWN)
    assert f"2000088; a run's result holds {OUTPUTS_SUM_MAX}" in str(wrong[0].reason)
    assert RunResult.read(result.encoded()) == result


def _raising(error: Exception) -> Callable[[StepContext], StepResult]:
    def act(context: StepContext) -> StepResult:
        raise error

    return act


@pytest.mark.req("BP-2")
@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("error", "outcome", "exit_code", "step_outcome"),
    [
        (TargetError("no"), Outcome.FAILED, 20, "failed"),
        (NotVerifiedError("no"), Outcome.FAILED, 40, "failed"),
        (NotFencedError("no"), Outcome.FAILED, 20, "refused"),
        (DeadlineError("no"), Outcome.UNKNOWN, 23, "unknown"),
        (ValueError("bug"), Outcome.UNKNOWN, 30, "unknown"),
    ],
)
def test_nothing_runs_after_a_step_that_did_not_succeed(
    tmp_path: Path, error: Exception, outcome: Outcome, exit_code: int, step_outcome: str
) -> None:
    """However `b` fails, `c` never starts; an exit code below 20 is never given once something was touched."""
    driver = Scripted(acts={"b": _raising(error)}, verdicts={"b": Reconciled.UNKNOWN})
    bench = Bench(tmp_path, [*CHAIN, step("beside", phase=Phase.DATA)], driver)
    finish = bench.process()
    assert (finish.outcome, finish.exit_code) == (outcome, exit_code)
    assert bench.driver.effects == ["a"]
    assert bench.outcomes() == {"a": "succeeded", "b": step_outcome}


@pytest.mark.req("UX-1", "INV-7")
def test_a_refusal_before_any_effect_keeps_its_exit_code(tmp_path: Path) -> None:
    """Refused by the first step: the run is refused with that step's code, and says what to do next."""
    bench = Bench(tmp_path, CHAIN, Scripted(acts={"a": _raising(NotFencedError("old primary answers"))}))
    finish = bench.process()
    assert (finish.outcome, finish.exit_code) == (Outcome.REFUSED, 14)
    assert "old primary answers; next: fence it" in str(finish.reason)


@pytest.mark.req("GATE-1")
def test_preflight_stops_the_run_before_any_effect(tmp_path: Path) -> None:
    """One step that could not run refuses the whole run, naming the step, before the first effect."""
    bench = Bench(tmp_path, CHAIN, Scripted(faults={"c": ["no route to cloud-db"]}))
    finish = bench.process()
    assert (finish.outcome, finish.exit_code) == (Outcome.REFUSED, 12)
    assert finish.reason == "preflight: c: no route to cloud-db"
    assert bench.driver.effects == []


@pytest.mark.req("GATE-1", "RUN-5")
@pytest.mark.fault(13, 15)
@pytest.mark.parametrize("crash_at", [1, 2])
def test_a_refused_preflight_stays_refused_over_a_kill(tmp_path: Path, crash_at: int) -> None:
    """Killed between the refusal and the closing record, the resumed run must not take the refusal for a yes."""
    bench = Bench(tmp_path, CHAIN, Scripted(faults={"c": ["no route to cloud-db"]}))
    with pytest.raises(SimulatedCrash):
        bench.process(crash_at=crash_at)
    finish = bench.process()
    assert (finish.outcome, finish.exit_code) == (Outcome.REFUSED, 12)
    assert bench.driver.effects == []


@pytest.mark.req("BP-2")
@pytest.mark.fault(19)
def test_an_optional_failure_blocks_only_what_requires_it(tmp_path: Path) -> None:
    """The dependent of a failed optional step never runs; the run itself succeeds and says what was not done."""
    steps = [step("a"), step("extra", optional=True), step("after", "extra"), step("c", "a", phase=Phase.DATA)]
    bench = Bench(tmp_path, steps, Scripted(acts={"extra": _raising(TargetError("gone"))}))
    finish = bench.process()
    assert finish.outcome is Outcome.SUCCEEDED
    assert "extra: gone" in str(finish.reason)
    assert sorted(bench.driver.effects) == ["a", "c"]


@pytest.mark.req("DEC-6", "GEN-1")
@pytest.mark.fault(22, 27)
def test_a_step_that_fails_after_it_raised_the_generation_says_so(tmp_path: Path) -> None:
    """The old generation is over although the step failed: the result names the new one, for the loop to go on from."""
    bench = Bench(tmp_path, [step("a")], Scripted(acts={"a": _raising(TargetError("it lied", generation_after=8))}))
    assert bench.process().outcome is Outcome.FAILED
    assert bench.result().generation_after == 8


@pytest.mark.req("BP-2")
def test_independent_steps_of_a_phase_run_side_by_side(tmp_path: Path) -> None:
    """Two steps that wait for each other both end, so they ran at the same time; the next phase waits for both."""
    here, there = asyncio.Event(), asyncio.Event()
    driver = Scripted()

    async def meet(mine: asyncio.Event, other: asyncio.Event, context: StepContext) -> StepResult:
        mine.set()
        await other.wait()
        return driver.effect(context)

    driver.acts = {"a": lambda c: meet(here, there, c), "b": lambda c: meet(there, here, c)}
    bench = Bench(tmp_path, [step("a"), step("b"), step("c", phase=Phase.DATA)], driver)
    assert bench.process().outcome is Outcome.SUCCEEDED
    assert (set(driver.effects[:2]), driver.effects[2]) == ({"a", "b"}, "c")


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("verdict", "outcome", "exit_code"),
    [
        (Reconciled.DONE, Outcome.SUCCEEDED, 0),
        (Reconciled.NOT_DONE, Outcome.FAILED, 23),
        (Reconciled.UNKNOWN, Outcome.UNKNOWN, 23),
    ],
)
def test_a_step_over_its_time_is_stopped_and_asked_for(
    tmp_path: Path, verdict: Reconciled, outcome: Outcome, exit_code: int
) -> None:
    """A time limit alone tells nothing: the probe decides between done, failed and unknown."""
    bench = Bench(tmp_path, [step("a", timeout_s=0.01)], Scripted(acts={"a": never}, verdicts={"a": verdict}))
    finish = bench.process()
    assert (finish.outcome, finish.exit_code) == (outcome, exit_code)


@pytest.mark.req("BP-2")
@pytest.mark.parametrize(("failures", "outcome"), [(2, Outcome.SUCCEEDED), (3, Outcome.FAILED)])
def test_retries_are_counted_and_only_after_a_probe(tmp_path: Path, failures: int, outcome: Outcome) -> None:
    """A step with two retries survives two failures without effect, and no third."""
    left = [failures]
    driver = Scripted()

    def act(context: StepContext) -> StepResult:
        left[0] -= 1
        if left[0] >= 0:
            raise TargetError("busy")
        return driver.effect(context)

    driver.acts = {"a": act}
    bench = Bench(tmp_path, [step("a", retries=2)], driver)
    assert bench.process().outcome is outcome
    assert len(bench.kinds("intent")) == 3


@pytest.mark.req("BP-4")
def test_a_retry_is_not_made_when_the_probe_finds_the_effect(tmp_path: Path) -> None:
    """The effect stood although the driver failed afterwards: the probe's answer counts, nothing runs twice."""
    driver = Scripted()

    def act(context: StepContext) -> StepResult:
        driver.effect(context)
        raise DeadlineError("the answer got lost")

    driver.acts = {"a": act}
    bench = Bench(tmp_path, [step("a", retries=3)], driver)
    assert bench.process().outcome is Outcome.SUCCEEDED
    assert driver.effects == ["a"]


@pytest.mark.req("RUN-5")
def test_cancelled_after_the_effect_under_way(tmp_path: Path) -> None:
    """A cancellation during `a` lets `a` end and be recorded, starts nothing more, and survives a crash."""
    driver = Scripted()
    bench = Bench(tmp_path, CHAIN, driver)

    def during(run: Run) -> None:
        def act(context: StepContext) -> StepResult:
            run.cancel("operator: wrong service")
            return driver.effect(context)

        driver.acts = {"a": act}

    finish = bench.process(during=during)
    assert finish == Finish(Outcome.CANCELLED, 130, "operator: wrong service")
    assert bench.outcomes() == {"a": "succeeded"}


@pytest.mark.req("EVD-4")
@pytest.mark.fault(32)
def test_a_full_disk_stops_before_the_next_effect(tmp_path: Path) -> None:
    """When the intent of `b` cannot be written `b` is not run, and the run is closed from the reserve."""
    full = [False]

    def write(fd: int, data: bytes) -> int:
        if full[0] and (tmp_path / "journal.jsonl.reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    driver = Scripted()
    bench = Bench(tmp_path, CHAIN, driver, write=write)

    def during(run: Run) -> None:
        def boundary(name: str) -> None:
            full[0] = full[0] or name == "a:outcome:after"

        run.at_boundary = boundary

    finish = bench.process(during=during)
    assert (finish.outcome, finish.exit_code) == (Outcome.FAILED, 20)
    assert "stopped before the next effect" in str(finish.reason)
    assert driver.effects == ["a"]
    assert bench.result().outcome is Outcome.FAILED


@pytest.mark.req("EVD-1")
def test_well_known_outputs_become_facts_of_the_result(tmp_path: Path) -> None:
    """Generation, primary and endpoint are taken from the steps, also when a later step fails (fault 27)."""
    outputs: dict[str, dict[str, Any]] = {"a": {"generation_after": 8, "primary_after": "cloud-db"}}
    driver = Scripted(outputs=outputs, acts={"b": _raising(TargetError("DNS refused"))})
    bench = Bench(tmp_path, CHAIN, driver)
    assert bench.process().outcome is Outcome.FAILED
    result = bench.result()
    assert (result.generation_after, result.primary_after) == (8, "cloud-db")


@pytest.mark.req("INV-10", "SEC-2")
@pytest.mark.fault(21)
def test_secrets_reach_neither_journal_nor_log(tmp_path: Path) -> None:
    """A driver that leaks a secret into outputs, errors and log lines leaves it nowhere."""
    secret = "correct horse/battery"
    driver = Scripted(outputs={"a": {"said": f"password={secret}"}}, acts={"b": _raising(TargetError(secret))})
    bench = Bench(tmp_path, CHAIN, driver, secrets={"PGPASSWORD": secret})
    driver.acts = {**driver.acts, "a": lambda c: (c.log(f"using {c.secrets['PGPASSWORD']}"), driver.effect(c))[1]}
    bench.process()
    written = (tmp_path / "journal.jsonl").read_text() + "\n".join(bench.lines)
    assert secret not in written
    assert "***" in written


def test_outputs_that_have_no_json_form_are_a_bug_not_a_success(tmp_path: Path) -> None:
    """A driver that hands back what cannot be recorded ends unknown, not succeeded."""
    driver = Scripted(acts={"a": lambda c: StepResult(outputs={"x": object()})}, verdicts={"a": Reconciled.UNKNOWN})
    assert Bench(tmp_path, CHAIN, driver).process().outcome is Outcome.UNKNOWN
