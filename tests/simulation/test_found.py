"""What searches of schedules found, each as the plain story that it was shrunk to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hyops.control.dispatch import dispatch_id_of
from hyops.model.canonical import digest_bytes
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import DecisionType
from hyops.services import health
from hyops.services.explain import Circumstances, Explained, Explainer, ExplainStores
from hyops.services.health import Queue, Seen
from hyops.testing.evidence import VERIFIER
from simulation.test_loop import asked_by
from simulation.world import World


def in_the_way(what: str) -> tuple[World, Callable[[], None]]:
    """A world in which the dispatcher's plan or request of the only decision stands with other bytes; how to mend it.

    There is a decision behind it, too.
    """
    world = World()
    if what == "plan":
        asked_by(world, "ada")
        world.turn(0, "dispatch")
        (name,) = world.disk["plans"].records
        good = world.disk["plans"].records[name]
        world.disk["plans"].records[name] = good.replace(b"native/fence", b"native/fancy")
        world.clock.advance(1)
        asked_by(world, "bob")
        store = world.disk["plans"]
    else:
        asked_by(world, "bob")
        name = dispatch_id_of(world.decisions()[-1], world.clock.now())
        store = world.disk["requests"]
        store.create(name, b"{}")
    behind = Decision(decision_id="synthetic-1", decision_type=DecisionType.FAILBACK, rationale="check", service="pg")
    world.disk["decisions"].create(behind.decision_id, behind.encoded())
    return world, lambda: store.records.__delitem__(name)


def asked_for(world: World) -> list[str]:
    """Whose decisions have a request."""
    made = {d.decision_id: d.requested_by or d.decision_id for d in world.decisions()}
    names = [n for n, data in world.disk["requests"].records.items() if data != b"{}"]
    return sorted(
        made[DispatchRequest.read(world.disk["requests"].records[n], source=n).source_decision_id] for n in names
    )


def held_up(world: World) -> list[Refusal]:
    """What the dispatcher said of files in its way."""
    return [refusal for refusal in world.refusals("dispatch") if refusal.subject_kind != "decision"]


def explained(world: World) -> Explained:
    """Where bob's decision stands."""
    (made,) = [d for d in world.decisions() if d.requested_by == "bob"]
    disk = world.disk
    kinds = ("decisions", "requests", "approvals", "executions", "attempts", "outcomes")
    stages = ("dispatch", "approval", "execution")
    stores = ExplainStores(**{k: disk[k] for k in kinds}, refusals={s: disk[f"refused-{s}"] for s in stages})
    around = Circumstances(frozenset(stages), [], lambda _attempt_id: None)
    explainer = Explainer(stores, {"pg": world.policy}, {"pg": 1}, around, VERIFIER)
    (found,) = explainer.explain(made.decision_id, world.clock.now())
    return found


@pytest.mark.req("LOOP-1", "INV-7", "UX-2")
@pytest.mark.parametrize("what", ["plan", "request"])
def test_a_damaged_plan_or_request_holds_up_no_other_request(what: str) -> None:
    """What stands has other bytes, so its decision cannot be dispatched: said once, the pass works, and the decision
    behind it is dispatched; whoever takes the file away lets it go on, and nothing is made twice."""
    world, mend = in_the_way(what)
    for _ in range(3):  # the clock stands: the same id each time
        asyncio.run(world.stages[0]["dispatch"].step(True))
        world.boot(0, "dispatch")
    others = [name for name in asked_for(world) if name != "bob"]
    (said,) = held_up(world)
    stand = explained(world).stand

    assert others == (["ada", "synthetic-1"] if what == "plan" else ["synthetic-1"])
    assert (said.subject_kind, "exists with other bytes" in said.reason) == (what, True)
    assert said.signature is not None
    assert (stand.state, "exists with other bytes" in stand.why) == ("held up", True)
    assert "goes on by itself" in stand.next

    mend()
    for _ in range(2):
        world.turn(0, "dispatch")

    assert asked_for(world) == sorted([*others, "bob"])
    assert len(held_up(world)) == 1
    assert explained(world).stand.state == "waiting"


@pytest.mark.req("LOOP-1", "INV-7")
def test_other_bytes_in_the_way_are_said_anew() -> None:
    """Once for each: the same file is not told of again, a further change of it is."""
    world, _ = in_the_way("plan")
    store = world.disk["plans"]
    (name,) = store.records
    found = []
    for data in (store.records[name], b'{"a": 1}', b'{"a": 2}', b'{"a": 1}'):
        store.records[name] = data
        world.clock.advance(1)
        world.turn(0, "dispatch")
        world.turn(0, "dispatch")
        found.append(len(held_up(world)))
    digests = {refusal.subject_digest for refusal in held_up(world)}

    assert found == [1, 2, 3, 3]
    assert digest_bytes(b'{"a": 2}') in digests


@pytest.mark.req("LOOP-4", "INV-7")
def test_what_is_held_up_is_still_in_the_queue() -> None:
    """`/metrics` counts the decision as waiting, however long it is, and the refusal: nobody takes it for answered."""
    world, mend = in_the_way("plan")
    world.turn(0, "dispatch")
    disk = world.disk
    answers = [
        Seen(disk["requests"], lambda record: record["source_decision_id"]),
        Seen(disk["refused-dispatch"], lambda record: record["subject_id"]),
    ]
    queue = Queue(Seen(disk["decisions"], health.came), answers)
    before = len(queue.waiting(world.clock.now()))
    mend()
    world.turn(0, "dispatch")

    assert (before, len(disk["refused-dispatch"].ids())) == (1, 1)
    assert queue.waiting(world.clock.now()) == []


@pytest.mark.req("LOOP-1", "INV-7")
def test_a_kill_right_after_it_was_said_says_it_once() -> None:
    """Killed when the refusal is on disk: the next process finds it, and the decision is still open."""
    world, mend = in_the_way("plan")
    world.meter.crash_after = world.meter.done + 1
    world.turn(0, "dispatch")
    log = world.meter.log[-1]
    world.turn(0, "dispatch")
    mend()
    world.turn(0, "dispatch")

    assert (world.crashes, log, len(held_up(world))) == (1, "refused-dispatch", 1)
    assert asked_for(world) == ["ada", "bob", "synthetic-1"]
