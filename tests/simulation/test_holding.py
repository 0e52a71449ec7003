"""Holds, the latch, and who may set the loop free: what binds it, and what never does (DEC-6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.control.decision import asked_inputs, decision_of, operator_decision
from hyops.errors import NotApprovedError, PrerequisiteError, RefusedError
from hyops.model.decision import Decision
from hyops.model.hold import HoldRecord
from hyops.model.observed import Asked, DecisionInputs
from hyops.model.vocabulary import DecisionType, Level, Occasion, Outcome
from hyops.services.holds import SPEAKING_MAX, VERIFIED_FOR_S
from simulation.world import World, plan_for, policy

MOVES = (DecisionType.FAILOVER, DecisionType.FAILBACK)
FAILBACK = Decision(decision_id="x", decision_type=DecisionType.FAILBACK, rationale="x", service="pg")
BOTH_WAYS: dict[str, Any] = {"decision_types": list(MOVES), "occasions": list(Occasion)}


def watched(world: World, seconds: float = 5) -> World:
    """A world in which all has been well for a while."""
    world.watch(seconds)
    return world


def looks(world: World) -> World:
    """The decision service reads its records."""
    world.turn(0, "decision")
    return world


def in_an_hour(world: World) -> dict[str, Any]:
    """Until when."""
    return {"until": world.clock.now() + timedelta(hours=1)}


def inputs_of(world: World, decision: Decision) -> DecisionInputs:
    """What was recorded beside a decision."""
    name = str(decision.inputs_digest).removeprefix("sha256:")
    return DecisionInputs.read(world.disk["inputs"].records[name])


@pytest.mark.req("DEC-6", "DEC-5")
def test_a_loss_under_a_hold_is_told_once_and_replays() -> None:
    """A minute of loss under a hold: one decision, of type hold, with the hold in its inputs; the same bytes again."""
    world = watched(World())
    hold = world.say_hold(**in_an_hour(world))
    looks(world).site_dies()
    world.watch(60)
    world.settle()

    (made,) = world.decisions()
    known = inputs_of(world, made)
    again = decision_of(known)
    assert known.hold is not None
    assert (known.hold.hold_id, known.hold.owner) == (hold.hold_id, "ada")
    assert again is not None
    assert again.unsigned() == made.unsigned()
    assert world.disk["requests"].records == {}


@pytest.mark.req("DEC-6")
def test_a_hold_that_is_ended_binds_nobody() -> None:
    """The end is a record of its own; both stand on disk, and the failover is decided at once."""
    world = watched(World())
    hold = world.say_hold(**in_an_hour(world))
    looks(world).site_dies()
    world.watch(5)
    before = world.decisions(*MOVES)
    world.say_hold("end", by="bob", ends=hold.hold_id)
    looks(world).watch(1)

    assert before == []
    assert [d.decision_type for d in world.decisions(*MOVES)] == ["failover"]
    assert len(world.disk["holds"].records) == 2


@pytest.mark.req("DEC-6")
def test_only_a_loss_is_told_under_a_hold() -> None:
    """One vantage point alone for a minute, which is a hold of its own without maintenance: nothing is told."""
    world = watched(World())
    world.say_hold(**in_an_hour(world))
    looks(world).seen.primary -= {"control"}
    world.watch(60)

    assert world.decisions() == []


@pytest.mark.req("DEC-6")
def test_a_failback_waits_for_the_end_of_a_hold() -> None:
    """Away, home is stable, and somebody holds the service: nothing is offered until he ends it."""
    world = watched(World())
    world.stand()
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.site_lives()
    hold = world.say_hold(**in_an_hour(world))
    looks(world).watch(60)
    early = world.decisions(DecisionType.FAILBACK)
    world.say_hold("end", ends=hold.hold_id)
    looks(world).watch(1)

    assert early == []
    assert [d.occasion for d in world.decisions(DecisionType.FAILBACK)] == [Occasion.PLANNED]


@pytest.mark.req("DEC-6", "INV-5")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"signature": "forged"}, "not over these bytes"),
        ({"by": "mallory"}, "not an allowed signer"),
        ({"by": "eve"}, "none of the roles"),
        ({"service": "other"}, "about other in lab"),
        ({"env": "prod"}, "about pg in prod"),
        ({"signed_at": timedelta(hours=1)}, "in the future"),
    ],
)
def test_what_is_no_valid_hold_changes_nothing_and_is_told(
    changes: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unsigned, foreign, without a role, for another service or from the future: the failover goes its way."""
    world = watched(World())
    ahead = changes.get("signed_at")
    until = world.clock.now() + timedelta(hours=2)
    world.say_hold(**{**changes, "until": until, **({"signed_at": world.clock.now() + ahead} if ahead else {})})
    looks(world).site_dies()
    world.watch(5)
    looks(looks(world))

    told = capsys.readouterr().err
    assert [d.decision_type for d in world.decisions()] == ["failover"]
    assert told.count("hold without effect") == 1
    assert why in told


@pytest.mark.req("DEC-6", "INV-5")
@pytest.mark.parametrize("damage", [b"", b"{", b'{"hold_id": "x"}'])
def test_a_file_that_is_no_hold_changes_nothing_and_is_told(damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty, torn, or of another shape: the failover goes its way."""
    world = watched(World())
    world.disk["holds"].create("hold-20260131T120000Z-hold-00000000", damage)
    looks(world).site_dies()
    world.watch(5)

    assert [d.decision_type for d in world.decisions()] == ["failover"]
    assert "hold without effect" in capsys.readouterr().err


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize("by", ["eve", "mallory"])
def test_nobody_without_a_role_ends_a_hold(by: str) -> None:
    """An end that is not believed leaves the hold standing."""
    world = watched(World())
    hold = world.say_hold(**in_an_hour(world))
    world.say_hold("end", by=by, ends=hold.hold_id)
    looks(world).site_dies()
    world.watch(5)

    assert world.decisions(*MOVES) == []


@pytest.mark.req("DEC-6")
def test_a_key_that_is_revoked_holds_nothing_any_more() -> None:
    """Within a minute of the revocation the hold is over, and the failover decided."""
    world = watched(World())
    world.say_hold(**in_an_hour(world))
    looks(world).site_dies()
    world.watch(5)
    before = world.decisions(*MOVES)
    world.approvers.roles.pop("ada")
    world.watch(VERIFIED_FOR_S)
    looks(world).watch(1)

    assert before == []
    assert len(world.decisions(*MOVES)) == 1


@pytest.mark.req("DEC-6", "INV-5")
def test_a_hold_stays_while_its_signature_cannot_be_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believed once, and then the allowed signers file is away for an hour: what is not known sets nothing free."""
    world = watched(World())
    world.say_hold(**in_an_hour(world))
    looks(world)

    def away(*_: object) -> None:
        raise PrerequisiteError("allowed_signers: missing")

    monkeypatch.setattr(world.approvers, "verify", away)
    world.site_dies()
    world.watch(2 * VERIFIED_FOR_S)
    looks(world).watch(1)

    assert world.decisions(*MOVES) == []


@pytest.mark.req("DEC-6")
def test_a_flood_of_holds_costs_a_bounded_number_of_verifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred forged files: no more than the limit are verified, each once in a minute."""
    world = watched(World())
    for number in range(SPEAKING_MAX + 50):
        world.say_hold(signature="forged", reason=f"flood {number}", **in_an_hour(world))
    asked: list[bytes] = []
    verify = world.approvers.verify

    def counted(principal: str, data: bytes, signature: str, at: Any) -> Any:
        asked.append(data)
        return verify(principal, data, signature, at)

    monkeypatch.setattr(world.approvers, "verify", counted)
    looks(looks(world))

    assert len(asked) == SPEAKING_MAX


@pytest.mark.req("DEC-6", "INV-5")
def test_a_flood_holds_the_loop_up_and_sets_nothing_free() -> None:
    """What is not looked at could be a hold: nothing is done until the folder is mended, and it says why."""
    world = watched(World())
    for number in range(SPEAKING_MAX):
        world.say_hold("acknowledge", signature="forged", reason=f"flood {number}", generation=1)
    world.clock.advance(1)
    world.say_hold(**in_an_hour(world))
    world.site_dies()
    looks(world).watch(3)

    assert world.decisions(*MOVES) == []
    assert any("records speak of holds" in d.rationale for d in world.decisions(DecisionType.HOLD))


@pytest.mark.req("DEC-6")
def test_ends_of_holds_that_are_over_fill_nothing_up() -> None:
    """Years of maintenance that ended early: the hold of today binds, and the loop is free without one."""
    world = watched(World())
    for number in range(SPEAKING_MAX + 5):
        world.say_hold("end", reason=f"early {number}", ends=f"hold-{number}")
    world.clock.advance(1)
    world.say_hold(**in_an_hour(world))
    stage = looks(world).stages[0]["decision"]

    assert stage.inputs_now().hold is not None
    assert stage.inputs_now().hold.owner == "ada"


@pytest.mark.req("DEC-6", "INV-5")
def test_a_hold_binds_a_service_that_was_started_when_nobody_could_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed signers are gone at the start: a hold may be good, and what would set the loop free is not believed."""
    world = watched(World())
    hold = world.say_hold(**in_an_hour(world))
    world.say_hold("end", ends=hold.hold_id)

    def away(*_: Any) -> Any:
        raise PrerequisiteError("allowed_signers: missing")

    monkeypatch.setattr(world.approvers, "verify", away)
    world.boot(0, "decision")

    assert looks(world).stages[0]["decision"].inputs_now().hold is not None


@pytest.mark.req("DEC-6", "APR-1")
def test_a_key_that_is_over_sets_nothing_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who signs chooses the date: an end that is dated back to when the key was good ends nothing."""
    world = watched(World())
    hold = world.say_hold(**in_an_hour(world))
    verify = world.approvers.verify
    over = world.clock.now() + timedelta(seconds=10)

    def until(principal: str, data: bytes, signature: str, at: Any) -> Any:
        if principal == "bob" and at >= over:
            raise NotApprovedError("bob: the key is not valid at that time")
        return verify(principal, data, signature, at)

    monkeypatch.setattr(world.approvers, "verify", until)
    world.clock.advance(60)
    world.say_hold("end", by="bob", ends=hold.hold_id, signed_at=over - timedelta(seconds=5))

    assert looks(world).stages[0]["decision"].inputs_now().hold is not None


@pytest.mark.req("DEC-6")
def test_a_hold_ends_by_itself() -> None:
    """At its end it is none any more, before anybody has read the records again."""
    world = World()
    record = world.say_hold(until=world.clock.now() + timedelta(seconds=60))
    stage = looks(world).stages[0]["decision"]
    during = stage.inputs_now().hold
    world.clock.advance(60)

    assert during is not None
    assert during.hold_id == record.hold_id
    assert stage.inputs_now().hold is None


@pytest.mark.req("DEC-6", "LOOP-1")
def test_a_hold_outlives_the_service() -> None:
    """The decision service dies and starts again in the middle of an incident: it is held as before."""
    world = watched(World())
    world.say_hold(**in_an_hour(world))
    looks(world).site_dies()
    world.watch(3)
    world.boot(0, "decision")
    looks(world).watch(30)

    assert {(d.decision_type, d.occasion) for d in world.decisions()} == {(DecisionType.HOLD, Occasion.UNPLANNED)}
    assert all("by ada (kernel upgrade)" in d.rationale for d in world.decisions())


@pytest.mark.req("DEC-6")
def test_a_person_goes_on_in_spite_of_a_hold_by_saying_why() -> None:
    """Refused with the owner's name; with a reason it is recorded, and the reason stands in the record and replays."""
    world = watched(World())
    world.say_hold(**in_an_hour(world))
    stage = looks(world).stages[0]["decision"]
    hold, now = stage.inputs_now().hold, world.clock.now()

    def ask(despite: str | None) -> DecisionInputs:
        wish = Asked(
            decision_type=DecisionType.FAILOVER,
            occasion=Occasion.PLANNED,
            rationale="move",
            requested_by="bob",
            despite_hold=despite,
        )
        return asked_inputs(world.policy, stage.mode, wish, now, hold)

    with pytest.raises(PrerequisiteError, match="by ada: kernel upgrade") as refused:
        operator_decision(ask(None))
    known = ask("the upgrade broke it")
    made, again = operator_decision(known), decision_of(DecisionInputs.read(known.encoded()))

    assert "--despite-hold" in refused.value.hint
    assert made.rationale.startswith("move; despite the hold of ada until")
    assert made.rationale.endswith("the upgrade broke it")
    assert again is not None
    assert again.unsigned() == made.unsigned()


@pytest.mark.req("DEC-6")
def test_a_window_of_the_policy_holds_like_a_record() -> None:
    """Saturdays from noon, for an hour: a loss at half past is told, and decided when the window closes."""
    window = {"name": "patch", "days": ["sat"], "at": "12:00", "for_s": 3600.0, "owner": "dba", "reason": "patches"}
    world = watched(World(service_policy=policy(maintenance=[window])))
    world.clock.advance(1800)
    world.watch(3)
    world.site_dies()
    world.watch(5)
    (told,) = world.decisions()
    known = inputs_of(world, told)
    world.clock.advance(1800)
    world.watch(3)

    assert f"{world.clock.now():%a}" == "Sat"
    assert "by dba (patches)" in told.rationale
    assert known.hold is not None
    assert known.hold.window == "patch"
    assert [d.decision_type for d in world.decisions(*MOVES)] == ["failover"]


def fail_over(world: World) -> World:
    """The site dies and the loop switches; standing approvals would carry it there and back."""
    back = plan_for(world.routes.of_type(DecisionType.FAILBACK)[0], FAILBACK)
    world.stand()
    world.stand(**BOTH_WAYS, plan_digest=back.digest())
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.site_lives()
    looks(world).watch(5)
    return world


@pytest.mark.req("DEC-6", "VOC-4")
def test_after_an_automatic_failover_nothing_is_triggered_until_it_is_acknowledged() -> None:
    """The other side dies too: recommended, so that no standing approval carries it, and nothing runs by itself."""
    world = fail_over(watched(World()))
    world.seen.dead = {"cloud-db"}
    for _ in range(6):
        world.watch(0.5)
        world.settle()

    _, second = world.decisions(*MOVES)
    known = inputs_of(world, second)
    assert (second.level, second.generation) == (Level.RECOMMEND, 2)
    assert "nobody has acknowledged the automatic switch to generation 2" in second.rationale
    assert known.latch is not None
    assert known.latch.decision_id == world.decisions(*MOVES)[0].decision_id
    assert len(world.runs()) == 1


@pytest.mark.req("DEC-6")
def test_an_acknowledged_failover_sets_the_loop_free() -> None:
    """The same, acknowledged before: triggered, and carried by the standing approval."""
    world = fail_over(watched(World()))
    world.say_hold("acknowledge", by="bob", generation=2, reason="seen")
    looks(world).seen.dead = {"cloud-db"}
    for _ in range(6):
        world.watch(0.5)
        world.settle()

    assert [d.level for d in world.decisions(*MOVES)] == [Level.TRIGGER, Level.TRIGGER]
    assert len(world.runs()) == 2


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize(
    "changes", [{"by": "eve"}, {"generation": 1}, {"generation": 3}, {"signature": "forged"}, {"service": "other"}]
)
def test_what_is_no_acknowledgement_of_it_leaves_the_latch(changes: dict[str, Any]) -> None:
    """Of a person without the role, of the generation before or one to come, forged, or for another service."""
    world = fail_over(watched(World()))
    world.say_hold("acknowledge", **{"generation": 2, **changes})
    looks(world).seen.dead = {"cloud-db"}
    world.watch(5)

    assert [d.level for d in world.decisions(*MOVES)] == [Level.TRIGGER, Level.RECOMMEND]


@pytest.mark.req("DEC-6")
def test_a_policy_may_do_without_the_latch() -> None:
    """`latch: false`: the second loss is triggered too."""
    world = fail_over(watched(World(service_policy=policy(latch=False))))
    world.seen.dead = {"cloud-db"}
    world.watch(5)

    assert [d.level for d in world.decisions(*MOVES)] == [Level.TRIGGER, Level.TRIGGER]


@pytest.mark.req("DEC-6")
def test_a_switch_that_a_person_approved_from_a_recommendation_latches_nothing() -> None:
    """Level recommend: somebody looked at it before it ran, so the next loss is judged as ever."""
    world = watched(World(service_policy=policy(level="recommend")))
    world.site_dies()
    world.watch(3)
    world.settle()
    world.say_yes()
    world.settle()
    world.site_lives()
    stage = looks(world).stages[0]["decision"]

    assert stage.mode.generation == 2
    assert stage.inputs_now().latch is None


@pytest.mark.req("DEC-6")
def test_a_switch_whose_decision_is_gone_is_taken_for_an_automatic_one() -> None:
    """Nobody knows any more who asked for it: latched, for what is not known sets nothing free."""
    world = fail_over(watched(World()))
    world.disk["decisions"].records.clear()
    world.boot(0, "decision")
    latch = looks(world).stages[0]["decision"].inputs_now().latch

    assert latch is not None
    assert (latch.generation, latch.decision_id) == (2, None)


@pytest.mark.req("DEC-6")
def test_failback_follows_what_was_confirmed_and_not_what_was_emitted() -> None:
    """The executor is in dry-run: the failover is decided, approved and runs nowhere, so nothing is away and there is
    no way back. A person then has the same execution run: the mode follows its outcome, and the failback is offered.
    """
    world = watched(World(mode="dry-run"))
    world.stand()
    world.site_dies()
    world.watch(3)
    world.settle()
    emitted = looks(world).stages[0]["decision"].mode
    world.mode = "dispatch"
    world.boot(0, "execution")
    world.settle()
    world.site_lives()
    looks(world).watch(60)

    made = world.decisions(*MOVES)
    assert (emitted.primary, emitted.generation) == ("onprem-db", 1)
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert [(d.decision_type, d.occasion, d.level) for d in made][1:] == [
        (DecisionType.FAILBACK, Occasion.PLANNED, Level.RECOMMEND)
    ]


@pytest.mark.req("DEC-6", "INV-5")
@pytest.mark.parametrize(
    "changes",
    [
        {"until": None},
        {"verdict": "end"},
        {"ends": "hold-1"},
        {"generation": 3},
        {"until": timedelta(days=32)},
        {"until": timedelta(seconds=-1)},
        {"reason": ""},
        {"verdict": "pause"},
    ],
)
def test_a_statement_that_does_not_hold_together_is_no_record(changes: dict[str, Any]) -> None:
    """Without its own field, with another's, without reason or end, for too long, or of an unknown verdict."""
    world = World()
    good = world.say_hold(**in_an_hour(world))
    body = {**good.statement.body(), **changes}
    if isinstance(changes.get("until"), timedelta):
        body["until"] = (good.statement.signed_at + changes["until"]).isoformat()
    body = {key: value for key, value in body.items() if value is not None}

    with pytest.raises(RefusedError, match="statement"):
        HoldRecord.of({**good.body(), "statement": body})
