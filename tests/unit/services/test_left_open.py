"""What this host cannot do now with one record slows nothing: the others are served at once (LOOP-1, LOOP-4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from hyops.control.execution import attempt_id_of
from hyops.errors import HyopsError, PrerequisiteError, RecordError
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Execution
from hyops.model.refusal import Refusal
from hyops.ports.records import Created
from hyops.ports.signer import ApproverSignature
from hyops.services import approval, dispatch, following, loop
from hyops.services.loop import RESCAN_S, LeftOpenError, Waker
from hyops.services.pulse import Pulse
from hyops.testing.records import MemoryRecordStore
from simulation.virtual import VirtualLoop, the_loop
from simulation.world import Approvers, plan_for
from unit.services.test_odd_records import Dispatcher, odd_no, say, two_executions, two_requests

pytestmark = pytest.mark.req("LOOP-1", "LOOP-4")
EVENTS, BETWEEN_S, AT_ONCE_S = 40, 0.1, 0.001


@dataclass
class Served:
    """A daemon in virtual time, with all that its loop says."""

    time: VirtualLoop
    pulse: Pulse = field(default_factory=Pulse)
    said: list[str] = field(default_factory=list)
    passes: list[tuple[float, bool]] = field(default_factory=list)
    waker: Waker = field(default_factory=Waker)

    async def run_stage(self, step: Any, stores: Any, *, name: str, waker: Waker | None = None) -> None:
        """The loop alone: neither signals nor files."""
        self.waker = waker or self.waker

        async def seen(slow: bool) -> None:
            self.passes.append((self.time.time(), slow))
            await step(slow)

        await loop._steps(seen, self.waker, name, RESCAN_S)

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin; the first pass is done."""
        self.time.create_task(work)
        self.time.let_pass(AT_ONCE_S)

    def event(self) -> None:
        """Something comes, and it is looked at once: a moment later, and not after a pause."""
        self.waker.wake()
        self.time.let_pass(AT_ONCE_S)

    def ready(self) -> int:
        """How many times it said that it is."""
        return sum(one.startswith("READY=1") for one in self.said)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """One process of its own."""
    made = Served(the_loop().fresh())
    monkeypatch.setattr(loop, "PULSE", made.pulse)
    monkeypatch.setattr(loop, "notify", made.said.append)
    for module in (approval, dispatch, following):
        monkeypatch.setattr(module, "run_stage", made.run_stage)
    yield made
    made.time.fresh()


Case = tuple[Coroutine[Any, Any, None], Callable[[], Any], Callable[[], bool], Callable[[], Any], Callable[[], bool]]
"""The daemon; what brings a good record; whether that is done; what mends the odd one; whether that one is done."""


def of_the_dispatcher() -> Case:
    """No file can be opened for the plan of one decision."""
    made = Dispatcher()
    made.put("d-aaa", service="host", generation=1)
    return (
        dispatch.run(made.stage, made.decisions),
        lambda: made.put("d-zzz"),
        lambda: "d-zzz" in made.routed(),
        lambda: setattr(made, "plan_for", plan_for),
        lambda: "d-aaa" in made.routed(),
    )


class Short(Approvers):
    """A verifier that cannot start its program for one signer's signatures."""

    short = True

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """As the others', but for Eve."""
        if principal == "eve" and self.short:
            raise OSError(24, "too many open files")
        return super().verify(principal, data, ssh_signature, at)


def of_the_approval_stage() -> Case:
    """The word about one request cannot be verified."""
    world, odd, good = two_requests()
    short = Short()
    short.roles = world.approvers.roles
    world.approvers = short
    world.boot(0, "approval")
    say(world, odd, "grant")
    disk = world.disk

    def of(request_id: str) -> bool:
        return request_id in [one.source_dispatch_id for one in world.records("executions", Execution)]

    def mended() -> None:
        short.short = False
        world.say_yes_to(odd.dispatch_id)

    return (
        approval.run(world.stages[0]["approval"], disk["requests"], disk["approvals"]),
        lambda: world.say_yes_to(good.dispatch_id),
        lambda: of(good.dispatch_id),
        mended,
        lambda: of(odd.dispatch_id),
    )


def of_the_executor() -> Case:
    """What is remembered of one attempt cannot be opened."""
    world, odd, good = two_executions()
    executions, starts = world.disk["executions"], world.starts
    later = executions.records.pop(good.execution_id)
    world.boot(0, "execution")
    settle, bad = starts.settle, attempt_id_of(odd, "dispatch")

    def settled(attempt_id: str, *rest: Any, **more: Any) -> Any:
        if attempt_id == bad:
            raise PrerequisiteError(f"starts/{bad}.lock: Permission denied")
        return settle(attempt_id, *rest, **more)

    starts.settle = settled  # type: ignore[method-assign]

    def closed(one: Execution) -> bool:
        return one.run_id() in world.runs()

    return (
        following.run(world.stages[0]["execution"], [], lambda _runner_ref: 1),
        lambda: executions.create(good.execution_id, later),
        lambda: closed(good),
        lambda: setattr(starts, "settle", settle),
        lambda: world.stages[0]["execution"]._stuck == [],
    )


class Shut:
    """Refusals that a folder takes none of: it is full, or somebody else's, or its disk is broken."""

    def __init__(self, store: MemoryRecordStore) -> None:
        self._create, self.error = store.create, PrerequisiteError("refusals: Input/output error")
        self.shut, self.tried = True, 0
        store.create = self.create  # type: ignore[method-assign]

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """As the store does, once it is mended."""
        self.tried += self.shut
        if self.shut:
            raise self.error
        return self._create(record_id, data, slot=slot)

    def mend(self) -> None:
        """There is room again."""
        self.shut = False


def none_noted_by_the_dispatcher() -> Case:
    """One decision is no record, one is ignored, one is a bug's; none of the three can be refused."""
    made = Dispatcher()
    shut = Shut(made.refused)
    made.decisions.create("d-000", b"{}\n")
    made.put("d-aaa", decision_type="hold")
    made.put("d-bbb", service="bug", generation=1)
    return (
        dispatch.run(made.stage, made.decisions),
        lambda: made.put("d-zzz"),
        lambda: "d-zzz" in made.routed(),
        shut.mend,
        lambda: {"d-000", "d-aaa", "d-bbb"} == {Refusal.read(one).subject_id for one in made.refused.records.values()},
    )


def none_noted_by_the_approval_stage() -> Case:
    """A request that nobody signed, an approval that is no record, and a request that a bug is about."""
    world, odd, good = two_requests()
    shut = Shut(world.disk["refused-approval"])
    world.disk["requests"].create("requests-0", odd.model_copy(update={"dispatch_id": "requests-0"}).encoded())
    world.disk["approvals"].create("approvals-0", b"{}\n")
    say(world, odd, "grant")
    world.boot(0, "approval")
    return (
        approval.run(world.stages[0]["approval"], world.disk["requests"], world.disk["approvals"]),
        lambda: world.say_yes_to(good.dispatch_id),
        lambda: [one.source_dispatch_id for one in world.records("executions", Execution)] == [good.dispatch_id],
        shut.mend,
        lambda: (
            {"requests-0", "approvals-0", odd.dispatch_id} == {one.subject_id for one in world.refusals("approval")}
        ),
    )


def none_noted_by_the_executor() -> Case:
    """An execution, an attempt and an outcome that are no records, and an execution that a bug is about."""
    world, odd, good = two_executions()
    shut = Shut(world.disk["refused-execution"])
    executions = world.disk["executions"]
    later = executions.records.pop(good.execution_id)
    odd_no(world, odd)
    for kind in ("executions", "attempts", "outcomes"):
        world.disk[kind].create(f"{kind}-0", b"{}\n")
    world.boot(0, "execution")
    return (
        following.run(world.stages[0]["execution"], [], lambda _runner_ref: 1),
        lambda: executions.create(good.execution_id, later),
        lambda: good.run_id() in world.runs(),
        shut.mend,
        lambda: (
            {"executions-0", "attempts-0", "outcomes-0", odd.execution_id}
            == {one.subject_id for one in world.refusals("execution")}
        ),
    )


NONE_NOTED = [none_noted_by_the_dispatcher, none_noted_by_the_approval_stage, none_noted_by_the_executor]


@pytest.mark.fault(13)
@pytest.mark.req("EXE-1")
@pytest.mark.parametrize("case", NONE_NOTED)
def test_what_cannot_be_refused_slows_no_other(
    case: Callable[[], Case], served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder takes no refusal: the others go on, the fault is shown, and nothing is lost when there is room."""
    test_what_this_host_cannot_do_now_slows_no_other(case, served, capsys)


@pytest.mark.fault(13)
@pytest.mark.req("EXE-1")
def test_who_works_for_one_decision_alone_is_not_stopped_by_what_he_cannot_say_of_others() -> None:
    """A deployment beside the daemon, which names what is no execution: its own one is dialled for, and ends well."""
    world, _, good = two_executions()
    Shut(world.disk["refused-execution"])
    world.disk["executions"].create("executions-0", b"{}\n")
    (request,) = [r for r in world.records("requests", DispatchRequest) if r.dispatch_id == good.source_dispatch_id]
    stage = world.stages[0]["execution"]
    stage._claimed = {request.source_decision_id}
    dialled = asyncio.run(stage.step())
    stage.refuse_stuck()

    assert len(dialled) == 1


@pytest.mark.fault(13)
@pytest.mark.parametrize("error", [PrerequisiteError("refusals: full"), RecordError("refusals: other bytes")])
def test_a_folder_that_takes_no_refusal_is_asked_once_in_a_pass(error: HyopsError) -> None:
    """Each may wait for a lock, and they may be thousands; one that stands in the way of its own hides no other."""
    made = Dispatcher()
    shut = Shut(made.refused)
    shut.error = error  # type: ignore[assignment]
    for number in range(20):
        made.decisions.create(f"d-{number}", b"{}\n")
    with pytest.raises(LeftOpenError, match="refusals"):
        made.passes()

    assert shut.tried == (20 if isinstance(error, RecordError) else 1)


@pytest.mark.fault(13)
@pytest.mark.parametrize("case", [of_the_dispatcher, of_the_approval_stage, of_the_executor])
def test_what_this_host_cannot_do_now_slows_no_other(
    case: Callable[[], Case], served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is ready, each event is served as it comes, and the fault is shown, and logged once; mended, it goes."""
    work, comes, done, mend, mended = case()
    capsys.readouterr()
    served.serve(work)
    assert (served.ready(), served.pulse.passes) == (1, 1)
    for _ in range(EVENTS):
        served.time.let_pass(BETWEEN_S)
        before = len(served.passes)
        served.event()
        assert len(served.passes) > before
        assert served.pulse.failing is not None

    comes()
    assert not done()
    served.event()
    assert done()
    assert not mended()
    assert served.pulse.failing is not None
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["event"] for one in logged].count("left open") == 1

    mend()
    served.time.let_pass(RESCAN_S)
    assert mended()
    assert (served.ready(), served.pulse.failing) == (1, None)


def test_what_is_left_is_tried_again_after_pauses_that_double(served: Served) -> None:
    """No event comes: tried at once, then ever more seldom, and no rescan comes more often for it."""
    served.serve(served.run_stage(left_open, [], name="test"))
    served.time.let_pass(20.0)

    began = served.passes[0][0]
    quick = [round(at - began, 3) for at, slow in served.passes if not slow]
    slow = [at - began for at, slow in served.passes if slow]
    assert quick[:5] == [0.1, 0.3, 0.7, 1.5, 3.1]
    assert all(later - sooner >= RESCAN_S - AT_ONCE_S for sooner, later in pairwise(slow))
    assert len(served.passes) <= 12


async def left_open(slow: bool) -> None:
    """One is never done."""
    await asyncio.sleep(0)
    raise LeftOpenError(PrerequisiteError("the key file cannot be read"))


def test_a_pass_that_failed_as_a_whole_is_none(served: Served) -> None:
    """Not ready, and no event hastens it; when it works but for one it is ready."""
    ends: list[Exception] = [PrerequisiteError("the folder cannot be read")] * 2

    async def step(slow: bool) -> None:
        raise ends.pop() if ends else LeftOpenError(PrerequisiteError("d-aaa: no key"))

    served.serve(served.run_stage(step, [], name="test"))
    served.event()
    assert (len(served.passes), served.ready()) == (1, 0)
    served.time.let_pass(1.0)
    assert (served.ready(), served.pulse.failing) == (1, "PrerequisiteError: d-aaa: no key")
