"""Guards of the control loop, taken away one by one: without each, a scenario that it defends breaks.

Every scenario passes with all guards in place (that is asserted too), so a mutant that survives means a dead guard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from hyops.control import approval, checks, decision, execution, hearing, mode, wanted, window
from hyops.control import reconcile as reconcile_rules
from hyops.control.approval import Verdict
from hyops.errors import NotApprovedError, PrerequisiteError
from hyops.model.approval import ApprovalPolicy
from hyops.model.execution import ApprovalSummary
from hyops.model.vocabulary import CheckStatus, DecisionType, DrMode, Outcome
from hyops.ports.records import Created
from hyops.services import approval as approval_service
from hyops.services import decision as decision_service
from hyops.services import execution as execution_service
from hyops.services import last_look
from hyops.services import reconcile as reconcile_service
from hyops.services.already import Already
from hyops.services.dialling import Dialler
from hyops.services.last_look import LastLook
from hyops.services.steady_clock import SteadyClock
from hyops.testing.records import MemoryRecordStore
from hyops.testing.starts import MemoryStarts
from simulation import test_last_look, test_reconcile, test_stepped
from simulation.world import VANTAGES, World, policy

FLOOD = hearing.YES_MAX + 1
MOVES = (DecisionType.FAILOVER, DecisionType.FAILBACK)
Patch = pytest.MonkeyPatch


def lost(world: World, turns: int = 8) -> World:
    """The site is lost and everything takes its course."""
    world.watch(3)
    world.site_dies()
    for _ in range(turns):
        world.watch(0.5)
        world.settle()
    return world


def one_eye() -> None:
    """One vantage point alone loses the primary."""
    world = World()
    world.watch(5)
    world.seen.primary -= {"control"}
    world.seen.wal_age_s = 5.0
    world.watch(10)
    assert world.decisions(*MOVES) == []


def broken_path() -> None:
    """The standby still receives WAL."""
    world = World()
    world.watch(5)
    world.seen.primary = set()
    world.watch(10)
    assert world.decisions(*MOVES) == []


def short_loss() -> None:
    """One bad sample, errors, one bad sample."""
    world = World()
    world.watch(5)
    world.site_dies()
    world.watch(0.25)
    world.seen.error = set(VANTAGES)
    world.watch(10)
    world.seen.error = set()
    world.watch(0.25)
    assert world.decisions(*MOVES) == []


def lagging_target() -> None:
    """The standby is too far behind."""
    world = World()
    world.watch(3)
    world.seen.lag_bytes = 5e6
    world.site_dies()
    world.watch(2)
    assert [d.dr_mode for d in world.decisions()] == [DrMode.DENY]


def unwell_eyes() -> None:
    """Two vantage points say that they are not well themselves."""
    world = World()
    world.watch(5)
    world.seen.primary = {"cloud-runner"}
    world.seen.unwell = {"control", "witness"}
    world.seen.wal_age_s = 5.0
    world.watch(10)
    assert world.decisions(*MOVES) == []


def no_approval() -> None:
    """Nobody signs."""
    assert lost(World(approval_policy=ApprovalPolicy())).runs() == []


def wrong_bytes() -> None:
    """Somebody signs another digest."""
    world = World(approval_policy=ApprovalPolicy())
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    world.say_yes(request_digest="sha256:" + "0" * 64)
    world.settle()
    assert world.runs() == []


def for_ever() -> None:
    """A standing approval without a sensible end."""
    world = World()
    world.stand(expires_at=world.clock.now() + timedelta(days=9000))
    assert lost(world).runs() == []


def rejected() -> None:
    """One says no, one says yes."""
    world = World(approval_policy=ApprovalPolicy())
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    world.say_yes("bob", "reject")
    world.say_yes("ada")
    world.settle()
    assert world.runs() == []


def asked() -> World:
    """A request waits for one signed approval."""
    world = World(approval_policy=ApprovalPolicy())
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    return world


def flooded(world: World) -> None:
    """More files of somebody unknown than are ever verified."""
    for number in range(FLOOD):
        world.say_yes("mallory", note=f"file {number}")


def no_in_a_flood() -> None:
    """One says no, after more yeses than are ever verified."""
    world = asked()
    flooded(world)
    world.say_yes("bob", "reject")
    world.settle()
    assert [r.reason[:15] for r in world.refusals("approval") if r.subject_kind == "request"] == ["rejected by bob"]


def yes_in_a_flood() -> None:
    """More yeses than are ever verified."""
    world = asked()
    world.say_yes("ada")
    flooded(world)
    world.settle()
    assert world.runs() == []


def two_dispatchers() -> None:
    """Two dispatchers serve one queue, a second apart."""
    world = World(instances=2)
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for index in range(2):
        world.turn(index, "dispatch")
        world.clock.advance(1)
    assert len(world.disk["requests"].records) == 1


def forged_result() -> None:
    """The runner's result was edited on its way."""
    world = World()
    world.runners["cloud-runner"].forge = lambda r: r.model_copy(update={"primary_after": "onprem-db"})
    world.stand()
    assert [o.outcome for o in lost(world).outcomes()] == [Outcome.UNKNOWN]


def link_lost_after_start() -> None:
    """A start was sent, and then the host key is another one."""
    world = World()
    runner = world.runners["cloud-runner"]
    runner.cuts = ["start"]
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution"):
        world.turn(0, name)
    runner.host_key_changed = True
    world.settle()
    assert world.outcomes() == []


def start_on_its_way() -> None:
    """A start left without an answer, and the execution expires before it comes in."""
    world = World()
    runner = world.runners["cloud-runner"]
    runner.cuts = ["start-in-flight"]
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution"):
        world.turn(0, name)
    world.clock.advance(200)
    world.turn(0, "execution")
    assert [o.outcome for o in world.outcomes()] == [Outcome.UNKNOWN]


def hasty_word() -> None:
    """Somebody closes a run whose start may still arrive."""
    world = test_reconcile.undone()
    with contextlib.suppress(PrerequisiteError):
        test_reconcile.word(world)
    assert test_reconcile.uncertain(world)


def word_of_nobody() -> None:
    """Somebody without the role closes a run."""
    world = test_reconcile.undone()
    world.clock.advance(test_reconcile.UNTIL_NOTHING_ARRIVES_S)
    with contextlib.suppress(NotApprovedError):
        test_reconcile.word(world, "eve")
    assert test_reconcile.uncertain(world)


def unknown_end() -> None:
    """Nobody knows how the run ended; the incident goes on."""
    world = World(service_policy=policy(cooldown_s=1.0, decision_max_age_s=5.0))
    world.runners["cloud-runner"].forge = lambda r: r.model_copy(update={"signature": None})
    world.stand()
    lost(world)
    world.watch(20)
    world.settle()
    assert len(world.runs()) == 1


def good(*_: Any, **__: Any) -> None:
    """A check that finds nothing."""


def all_ready(request: Any, heard: Any, rules: Any, now: Any, markers: Any = ()) -> Any:
    """A judge that lets everything through."""
    return Verdict("ready", "", ApprovalSummary(required=True, mode="none"), request.expires_at)


def no_slots(self: MemoryRecordStore, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
    """A store that knows no slots."""
    self.records[record_id] = data
    return Created(True, record_id)


@dataclass(frozen=True)
class Mutant:
    """A guard, how it is taken away, and the scenario that needs it."""

    guard: str
    scenario: Callable[[], None]
    remove: Callable[[Patch], None]


def without_unknown(sample: Any, signal: Any, known: Any, *, late: bool = False) -> tuple[CheckStatus, str | None]:
    """Judges every sample as if an error were a bad value."""
    return (CheckStatus.OK if (sample.value or 0.0) >= 1 else CheckStatus.BAD), None


def unwell_counts(sample: Any, signal: Any, known: Any, *, late: bool = False) -> tuple[CheckStatus, str | None]:
    """Lets an unwell vantage point vote."""
    return REAL_JUDGED(sample.model_copy(update={"healthy_vantage": True}), signal, known, late=late)


def yes_to_no(request: Any, heard: Any, rules: Any, now: Any, markers: Any = ()) -> Any:
    """Does not see rejections."""
    kept = tuple(v for v in heard.verified if v.approval.statement.verdict != "reject")
    return REAL_JUDGE(request, replace(heard, verified=kept), rules, now, markers)


def sure_mode(*given: Any) -> Any:
    """Knows no uncertainty, and takes an unknown end for the end."""
    return REAL_MODE(*given).model_copy(update={"uncertain": None})


def double_votes(inputs: Any) -> Any:
    """Counts every lost vote twice."""
    return [vote for vote in REAL_VOTES(inputs) if vote.confirmed] * 2


def always_ready(_inputs: Any) -> checks.Readiness:
    """Finds every target fit."""
    return checks.Readiness(True, None, None, 0.0)


def no_wal(*_: Any, **__: Any) -> bool:
    """Never sees WAL arrive."""
    return False


def forgets(*_: Any) -> bool:
    """Does not remember that a start may have been sent."""
    return False


async def closes_at_once(_self: Any, _session: Any, _attempt: Any, _sent: bool, refused: Any) -> Any:
    """Takes every refusal for the end, whatever was sent before."""
    return refused


def two_of_each(patch: Patch) -> None:
    """No slot stops a second record, and nobody looks for the first one by the ending of its name."""
    patch.setattr(MemoryRecordStore, "create", no_slots)
    patch.setattr(Already, "made", lambda self, like, fits: None)


def unknown_is_an_end(patch: Patch) -> None:
    """An unknown end is an end like any other, in both places that say otherwise."""
    for module in (decision_service, execution_service):
        patch.setattr(module, "mode_of", sure_mode)
    patch.setattr(decision, "SPENT", {*decision.SPENT, Outcome.UNKNOWN})


def rejected_late() -> None:
    """Rejected while no executor was there."""
    test_last_look.test_a_no_before_an_attempt_was_recorded_refuses_the_execution("reject")


def taken_back_late() -> None:
    """What stood was taken back while no executor was there, and a delegation with an attempt that is recorded."""
    test_last_look.test_a_standing_approval_that_is_taken_back_ends_what_it_carries(False)
    test_last_look.test_a_delegation_that_is_taken_back_ends_what_was_granted_under_it(True)


def clock_stepped() -> None:
    """Three hours ahead, with something waiting for each stage; and a hold that is over by then."""
    for what in test_stepped.WAITS:
        test_stepped.test_a_step_that_is_undone_has_ended_nothing(what, False)
    test_stepped.test_a_hold_does_not_end_by_a_step(False)


def restarted_in_a_step() -> None:
    """Begun anew in the middle of it."""
    test_stepped.test_a_step_that_is_undone_has_ended_nothing("approved", True)


def held_late() -> None:
    """Held while no executor was there."""
    test_last_look.test_a_hold_holds_what_was_decided_before_it(False)


def said_meanwhile() -> None:
    """Held with an attempt that is recorded."""
    test_last_look.test_a_hold_holds_what_was_decided_before_it(True)


def said_after_the_start() -> None:
    """Rejected and held after the start may have been sent."""
    test_last_look.test_a_no_after_the_start_may_have_been_sent_is_too_late()


def no_rejection(patch: Patch) -> None:
    """Neither of the two that judge sees one."""
    for module in (approval_service, last_look):
        patch.setattr(module, "judge", yes_to_no)


def instead(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    """Put something else in a guard's place."""
    return lambda patch: patch.setattr(owner, name, value)


REAL_JUDGED, REAL_JUDGE, REAL_MODE, REAL_VOTES = window.judged, approval.judge, mode.mode_of, checks.votes_of

MUTANTS = [
    Mutant("quorum", one_eye, instead(decision, "votes_of", double_votes)),
    Mutant("path, not death", broken_path, instead(wanted, "wal_still_arrives", no_wal)),
    Mutant("unknown is not bad", short_loss, instead(window, "judged", without_unknown)),
    Mutant("target readiness", lagging_target, instead(wanted, "readiness", always_ready)),
    Mutant("the vantage point's own health", unwell_eyes, instead(window, "judged", unwell_counts)),
    Mutant("approval", no_approval, instead(approval_service, "judge", all_ready)),
    Mutant("approval of these bytes", wrong_bytes, instead(hearing, "_unfit", good)),
    Mutant("the longest standing approval", for_ever, instead(ApprovalPolicy, "too_long", good)),
    Mutant("rejection wins", rejected, no_rejection),
    Mutant("a no has no limit", no_in_a_flood, instead(hearing, "NO", ())),
    Mutant("a yes has one", yes_in_a_flood, instead(hearing, "YES_MAX", 10**6)),
    Mutant("slots", two_dispatchers, two_of_each),
    Mutant("the result's signature", forged_result, instead(execution, "unproven", good)),
    Mutant("a start may have been sent", link_lost_after_start, instead(MemoryStarts, "maybe_sent", forgets)),
    Mutant("a start on its way", start_on_its_way, instead(Dialler, "_unless_there", closes_at_once)),
    Mutant("no word while it may act", hasty_word, instead(reconcile_service, "sayable", good)),
    Mutant("whose word it is", word_of_nobody, instead(reconcile_rules, "_fits", good)),
    Mutant("unknown blocks", unknown_end, unknown_is_an_end),
    Mutant("a no before the start", rejected_late, instead(LastLook, "_no", good)),
    Mutant("a taking back before the start", taken_back_late, instead(last_look, "_gone", lambda *_: {})),
    Mutant("a step of the clock", clock_stepped, instead(SteadyClock, "surely", SteadyClock.now)),
    Mutant("what was known of the clock", restarted_in_a_step, instead(test_stepped.Memory, "load", lambda _: None)),
    Mutant("a hold before the start", held_late, instead(LastLook, "_held", good)),
    Mutant("the look right before the start", said_meanwhile, instead(LastLook, "refuse", good)),
    Mutant("what was sent goes on", said_after_the_start, instead(MemoryStarts, "maybe_sent", forgets)),
]


@pytest.mark.req("INV-4", "INV-5", "INV-7", "DEC-4", "EXE-3", "VOC-5")
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.guard for mutant in MUTANTS])
def test_a_scenario_needs_its_guard(mutant: Mutant, monkeypatch: Patch) -> None:
    """With the guard the scenario holds; without it, it breaks."""
    mutant.scenario()
    mutant.remove(monkeypatch)

    with pytest.raises(AssertionError):
        mutant.scenario()
