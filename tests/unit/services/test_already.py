"""Records that came back without their slots are records all the same: a replay finds the id (LOOP-1)."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from hyops.adapters.store_files import FileRecordStore
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Execution
from hyops.model.vocabulary import DecisionType
from hyops.services.dispatch import DispatchStage
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.records import MemoryRecordStore
from simulation.test_loop import asked_by
from simulation.world import KEYS, VERIFIER, World, plan_for, routes

MADE = Decision(decision_id="decision-by-hand", decision_type=DecisionType.FAILOVER, rationale="check", service="pg")

pytestmark = [pytest.mark.req("LOOP-1", "DSP-2"), pytest.mark.fault(1)]


class Dispatcher:
    """One dispatcher over files, again and again started anew."""

    def __init__(self, root: Path) -> None:
        self.folder, self.clock = root / "requests", FakeClock(EPOCH)
        self.decisions, self.plans, self.refusals = (MemoryRecordStore() for _ in range(3))

    def passes(self) -> list[str]:
        """A new process makes one pass, a minute later; the requests that there are then."""
        self.clock.advance(60)
        requests = FileRecordStore(self.folder)
        stage = DispatchStage(
            decisions=self.decisions,
            requests=requests,
            plans=self.plans,
            refusals=self.refusals,
            routes=routes(),
            plan_for=plan_for,
            signer=KEYS["dispatch"],
            verifier=VERIFIER,
            clock=self.clock,
        )
        asyncio.run(stage.step())
        return requests.ids()

    def loses_slots(self) -> None:
        """As `cp *.json` brings records back."""
        shutil.rmtree(self.folder / ".slots")


@pytest.fixture
def dispatcher(tmp_path: Path) -> Dispatcher:
    """With one decision."""
    made = Dispatcher(tmp_path)
    made.decisions.create(MADE.decision_id, MADE.encoded())
    return made


def test_a_request_without_its_slot_is_not_made_again(dispatcher: Dispatcher) -> None:
    """At another second, by another process; and the next decision is dispatched as ever."""
    (first,) = dispatcher.passes()
    dispatcher.loses_slots()

    assert dispatcher.passes() == [first]
    other = MADE.model_copy(update={"decision_id": "decision-other"})
    dispatcher.decisions.create(other.decision_id, other.encoded())
    assert len(dispatcher.passes()) == 2


def test_what_was_removed_is_made_again(dispatcher: Dispatcher) -> None:
    """With its slot or without: nothing is remembered of what a person took away (DSP-3)."""
    (first,) = dispatcher.passes()
    dispatcher.loses_slots()
    (dispatcher.folder / f"{first}.json").unlink()
    (second,) = dispatcher.passes()

    assert second != first
    assert second.partition("Z-")[2] == first.partition("Z-")[2]


@pytest.mark.parametrize("how", ["torn", "edited", "a stranger's", "another's", "a copy"])
def test_what_is_not_its_request_keeps_none_from_being_made(dispatcher: Dispatcher, how: str) -> None:
    """A name is no proof: it counts when this stage signed it, under that name, for this very decision."""
    (first,) = dispatcher.passes()
    dispatcher.loses_slots()
    path = dispatcher.folder / f"{first}.json"
    record = DispatchRequest.read(path.read_bytes())
    path.unlink()
    bare = record.model_copy(update={"signature": None})
    moved = f"dispatch-{(EPOCH + timedelta(days=1)):%Y%m%dT%H%M%SZ}-{first.partition('Z-')[2]}"
    other = bare.model_copy(update={"source_decision_digest": f"sha256:{'0' * 64}"})
    lies = {
        "torn": (first, record.encoded()[:100]),
        "edited": (first, record.encoded().replace(b'"check"', b'"chuck"')),
        "a stranger's": (first, sign_record(bare, KEYS["decision"]).encoded()),
        "another's": (first, sign_record(other, KEYS["dispatch"]).encoded()),
        "a copy": (moved, record.encoded()),
    }
    name, data = lies[how]
    (dispatcher.folder / f"{name}.json").write_bytes(data)
    made = set(dispatcher.passes()) - {name}

    assert len(made) == 1


@pytest.mark.req("INV-4", "APR-1")
def test_an_approval_makes_one_execution_with_or_without_slots() -> None:
    """A second execution would be a second run: the slots are gone, and so is the stage's memory."""
    world = World()
    asked_by(world, "bob")
    world.turn(0, "dispatch")
    world.say_yes()
    world.turn(0, "approval")
    (first,) = world.records("executions", Execution)
    world.disk["executions"].slots.clear()
    world.clock.advance(60)
    world.boot(0, "approval")
    world.turn(0, "approval")

    assert world.records("executions", Execution) == [first]


@pytest.mark.req("INV-4", "APR-1")
@pytest.mark.parametrize("how", ["a stranger's", "another's"])
def test_no_other_execution_keeps_an_approved_request_from_its_own(how: str) -> None:
    """One that another stage signed, or that is of another request, has run nothing of this one."""
    world = World()
    asked_by(world, "bob")
    world.turn(0, "dispatch")
    world.say_yes()
    world.turn(0, "approval")
    (first,) = world.records("executions", Execution)
    lie = first.model_copy(update={"signature": None})
    if how == "another's":
        lie = lie.model_copy(update={"source_request_digest": f"sha256:{'0' * 64}"})
    signed = sign_record(lie, KEYS["dispatch" if how == "a stranger's" else "approval"])
    world.disk["executions"].slots.clear()
    world.disk["executions"].records[first.execution_id] = signed.encoded()
    world.clock.advance(60)
    world.boot(0, "approval")
    asyncio.run(world.stages[0]["approval"].step())

    assert len(world.disk["executions"].records) == 2
