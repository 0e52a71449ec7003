"""What sets the loop free and is dated ahead never counts; what only binds may begin later (DEC-6)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from hyops.control.holding import FUTURE_MAX_S
from hyops.errors import PrerequisiteError, RecordError, StoreLostError
from hyops.model.hold import HoldRecord
from hyops.model.observed import Latch
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import DecisionType
from hyops.ports.signer import ApproverSignature
from hyops.services import foretold
from hyops.services.hold_desk import HoldDesk
from hyops.services.holds import HoldBook
from hyops.testing.evidence import SeedApprovals
from simulation.test_holding import fail_over, watched
from simulation.world import World

HOUR_S = 3600.0


def latched() -> World:
    """After a failover that the loop triggered."""
    world = fail_over(watched(World()))
    assert latch(world) is not None
    return world


def latch(world: World, index: int = 0) -> Latch | None:
    """What the decision service finds now."""
    world.turn(index, "decision")
    found: Latch | None = world.stages[index]["decision"].inputs_now().latch
    return found


def laid(world: World, ahead_s: float, **changes: Any) -> HoldRecord:
    """A good acknowledgement that somebody puts into the folder by hand."""
    signed_at = world.clock.now() + timedelta(seconds=ahead_s)
    return world.say_hold("acknowledge", **{"by": "bob", "generation": 2, "signed_at": signed_at, **changes})


@pytest.mark.req("DEC-6", "LOOP-1")
@pytest.mark.fault(9)
@pytest.mark.parametrize("restart", ["none", "before its date", "on its date"])
def test_an_acknowledgement_that_is_dated_ahead_never_opens_the_latch(restart: str) -> None:
    """Not on its date, not later, not after a restart; refused in one signed record; a new one opens it at once."""
    world = latched()
    record = laid(world, HOUR_S)
    early = latch(world)
    if restart == "before its date":
        world.boot(0, "decision")
        latch(world)
    world.clock.advance(HOUR_S)
    if restart == "on its date":
        world.boot(0, "decision")
    on_its_date = latch(world)
    world.clock.advance(HOUR_S)
    (refusal,) = world.refusals("decision")

    assert None not in (early, on_its_date, latch(world))
    assert (refusal.subject_kind, refusal.subject_id, refusal.stage) == ("hold", record.hold_id, "decision")
    assert refusal.signature is not None
    assert "signed in the future" in refusal.reason
    assert "never counts" in world.stages[0]["decision"]._holds.without_effect[record.hold_id]

    laid(world, 0.0)
    assert latch(world) is None


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize(("ahead_s", "opens"), [(FUTURE_MAX_S, True), (FUTURE_MAX_S + 1, False)])
def test_a_clock_that_is_a_little_ahead_is_no_matter(ahead_s: float, opens: bool) -> None:
    """As much as the desk allows counts at once; a second more counts not even later."""
    world = latched()
    laid(world, ahead_s)
    at_once = latch(world)
    world.clock.advance(ahead_s)

    assert (at_once is None, latch(world) is None) == (opens, opens)
    assert len(world.refusals("decision")) == (0 if opens else 1)


@pytest.mark.req("DEC-6")
@pytest.mark.fault(4)
def test_a_step_of_the_clock_forward_does_not_bring_its_date() -> None:
    """The clock leaps past the date and back, with and without a restart: latched all the same."""
    world = latched()
    laid(world, HOUR_S)
    found = [latch(world)]
    for jump_s in (2 * HOUR_S, -2 * HOUR_S, 86400.0):
        world.clock.jump_wall(jump_s)
        found.append(latch(world))
        world.boot(0, "decision")
        found.append(latch(world))

    assert None not in found
    assert len(world.refusals("decision")) == 1


@pytest.mark.req("DEC-6")
@pytest.mark.fault(4)
def test_a_step_of_the_clock_back_refuses_nothing_for_good() -> None:
    """An acknowledgement that was in time is of no effect while the clock says that it is yet to come, and is none the
    worse for it afterwards."""
    world = latched()
    world.clock.advance(2 * HOUR_S)
    laid(world, 0.0)
    opened = latch(world)
    world.clock.jump_wall(-HOUR_S)
    stepped_back = latch(world)
    world.clock.jump_wall(HOUR_S)

    assert (opened, latch(world), world.refusals("decision")) == (None, None, [])
    assert stepped_back is not None


@pytest.mark.req("DEC-6", "LOOP-1")
@pytest.mark.fault(4, 9)
def test_a_host_that_begins_in_the_past_refuses_nothing_for_good() -> None:
    """It starts with a clock that is behind what is on record, and is set right later: the acknowledgement of before
    counts again; one that was laid there meanwhile and is ahead of the right time does not, ever."""
    world = latched()
    laid(world, 0.0)
    opened = latch(world)
    world.clock.jump_wall(-10 * 365 * 86400.0)
    world.boot(0, "decision")
    behind = latch(world)
    world.clock.jump_wall(10 * 365 * 86400.0)
    again = latch(world)

    assert (opened, again, world.refusals("decision")) == (None, None, [])
    assert behind is not None

    other = latched()
    other.clock.jump_wall(-10 * 365 * 86400.0)
    other.boot(0, "decision")
    laid(other, 10 * 365 * 86400.0 + HOUR_S)
    latch(other)
    other.clock.jump_wall(10 * 365 * 86400.0)
    latch(other)
    other.clock.advance(2 * HOUR_S)
    assert latch(other) is not None


@pytest.mark.req("DEC-6", "LOOP-3")
@pytest.mark.fault(4)
def test_what_one_host_refused_no_other_host_believes() -> None:
    """Two decision services on the same records: one reads it only on its date."""
    world = fail_over(watched(World(instances=2)))
    laid(world, HOUR_S)
    first = latch(world)
    world.clock.advance(HOUR_S)

    assert (first is None, latch(world, 1) is None) == (False, False)
    assert len(world.refusals("decision")) == 1


@pytest.mark.req("DEC-6", "INV-5")
def test_the_words_are_refused_under_any_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is taken away, its refusal loses its slot, and on their date the same words are laid there again, with
    another signature that is good too (an armored one has many spellings)."""
    world = latched()
    verify = world.approvers.verify

    def leniently(who: str, data: bytes, signature: str, at: datetime) -> ApproverSignature:
        return verify(who, data, signature.strip(), at)

    monkeypatch.setattr(world.approvers, "verify", leniently)
    record = laid(world, HOUR_S)
    latch(world)
    del world.disk["holds"].records[record.hold_id]
    world.disk["refused-decision"].slots.clear()
    world.clock.advance(HOUR_S)
    world.boot(0, "decision")
    without = latch(world)
    other = SeedApprovals.sign("bob", record.statement.signed_bytes()) + "\n"
    assert other != record.ssh_signature
    again = HoldRecord.signed(record.statement, other)
    world.disk["holds"].create(again.hold_id, again.encoded())

    assert without is not None
    assert latch(world) is not None


@pytest.mark.req("DEC-6")
def test_an_end_that_is_dated_ahead_ends_no_hold() -> None:
    """It would set the loop free as well; a new one ends it."""
    world = watched(World())
    hold = world.say_hold(until=world.clock.now() + timedelta(seconds=3 * HOUR_S))
    world.say_hold("end", ends=hold.hold_id, signed_at=world.clock.now() + timedelta(seconds=HOUR_S))
    world.turn(0, "decision")
    world.clock.advance(2 * HOUR_S)
    world.boot(0, "decision")
    world.turn(0, "decision")
    book = world.stages[0]["decision"]._holds
    held = book.hold_now()
    world.say_hold("end", ends=hold.hold_id)
    world.turn(0, "decision")

    assert held is not None
    assert held.hold_id == hold.hold_id
    assert book.hold_now() is None


@pytest.mark.req("DEC-6")
def test_a_hold_that_begins_later_binds_from_then_on() -> None:
    """A window that was signed for tomorrow night: no effect before, in force from its date, refused never."""
    world = watched(World())
    begins = world.clock.now() + timedelta(seconds=HOUR_S)
    hold = world.say_hold(signed_at=begins, until=begins + timedelta(seconds=HOUR_S))
    world.turn(0, "decision")
    book = world.stages[0]["decision"]._holds
    early = book.hold_now()
    world.clock.advance(HOUR_S)
    world.boot(0, "decision")
    world.turn(0, "decision")
    late = world.stages[0]["decision"]._holds.hold_now()
    world.site_dies()
    world.watch(5)

    assert (early, world.refusals("decision")) == (None, [])
    assert late is not None
    assert late.hold_id == hold.hold_id
    assert [d.decision_type for d in world.decisions()] == [DecisionType.HOLD]


@pytest.mark.req("DEC-6", "LOOP-1")
@pytest.mark.fault(9)
def test_a_kill_right_after_the_refusal_changes_nothing() -> None:
    """Killed when the refusal is on disk, and begun anew on the date: latched, refused once."""
    world = latched()
    laid(world, HOUR_S)
    world.meter.crash_after = world.meter.done + 1
    world.turn(0, "decision")
    crashes, last = world.crashes, world.meter.log[-1]
    world.clock.advance(HOUR_S)

    assert (crashes, last) == (1, "refused-decision")
    assert latch(world) is not None
    assert len(world.refusals("decision")) == 1


@pytest.mark.req("DEC-6", "LOOP-1")
@pytest.mark.fault(8)
@pytest.mark.parametrize("fault", [PrerequisiteError("No space left on device"), RecordError("other bytes")])
def test_on_a_full_disk_it_is_refused_all_the_same(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remembered by the process, which goes on to decide; recorded as soon as there is room, and then for good."""
    world = latched()
    laid(world, HOUR_S)

    def full(*_args: object, **_more: object) -> None:
        raise fault

    monkeypatch.setattr(world.disk["refused-decision"], "create", full)
    latch(world)
    world.clock.advance(HOUR_S)
    on_its_date = latch(world)
    monkeypatch.undo()
    latch(world)
    world.boot(0, "decision")

    assert on_its_date is not None
    assert latch(world) is not None
    assert len(world.refusals("decision")) == 1


@pytest.mark.req("DEC-6", "LOOP-3")
def test_while_nothing_is_known_of_what_was_refused_nothing_is_set_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has no quorum: said to the loop, which then decides nothing; not taken for "never refused"."""
    world = latched()
    laid(world, HOUR_S)
    latch(world)
    world.clock.advance(HOUR_S)
    world.boot(0, "decision")

    def lost(_since: int) -> tuple[int, list[str]]:
        raise StoreLostError("etcd has no quorum")

    monkeypatch.setattr(world.disk["refused-decision"], "changed", lost)
    with pytest.raises(StoreLostError):
        world.stages[0]["decision"].look()
    monkeypatch.undo()
    assert latch(world) is not None


@pytest.mark.req("DEC-6")
def test_a_flood_of_them_is_recorded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look writes no more than its share; all are refused at once, and all are on record in the end."""
    monkeypatch.setattr(foretold, "RECORDED_MAX", 4)
    world = latched()
    for number in range(10):
        laid(world, HOUR_S + number)
    written = []
    for _ in range(4):
        assert latch(world) is not None
        written.append(len(world.refusals("decision")))
    world.clock.advance(2 * HOUR_S)
    world.boot(0, "decision")

    assert written == [4, 8, 10, 10]
    assert latch(world) is not None


@pytest.mark.req("DEC-6", "UX-2")
def test_the_desk_finds_what_the_service_finds() -> None:
    """`hyops hold list` says that it never counts, writes nothing, and lets a person acknowledge anew."""
    world = latched()
    record = laid(world, HOUR_S)
    latch(world)
    world.clock.advance(HOUR_S)
    before = dict(world.disk["refused-decision"].records)
    answered = world.stages[0]["decision"]._answered
    mode = world.stages[0]["decision"].mode

    def latch_of(book: HoldBook) -> Latch | None:
        found: Latch | None = answered.latch(mode, book.acknowledged)
        return found

    desk = HoldDesk(
        world.disk["holds"],
        world.policy,
        people=world.approvers,
        refusals=world.disk["refused-decision"],
        latch=latch_of,
        clock=world.clock,
    )
    _, _, without = desk.look()
    said = desk.acknowledge(signer="bob", reason="seen")
    desk.put(said, SeedApprovals.sign("bob", said.signed_bytes()))

    assert "never counts" in without[record.hold_id]
    assert world.disk["refused-decision"].records == before
    assert latch(world) is None
    assert Refusal.read(next(iter(before.values()))).stage == "decision"
