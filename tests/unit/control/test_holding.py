"""Holds and latches as pure rules: what binds which inputs, and who may say what (DEC-6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.control.decision import asked_inputs
from hyops.control.holding import despite, forbidden, held, in_force, latched, standing, unfit
from hyops.control.wanted import Wanted
from hyops.errors import PrerequisiteError
from hyops.model.hold import HoldRecord, HoldStatement
from hyops.model.observed import Asked, DecisionInputs, Hold, Latch, Mode
from hyops.model.vocabulary import DecisionType, Level, Occasion
from hyops.testing.clock import EPOCH
from simulation.world import policy

SOON, LATER = EPOCH + timedelta(minutes=1), EPOCH + timedelta(hours=1)
LOSS = Wanted(DecisionType.FAILOVER, "onprem-db lost")


def hold(**changes: Any) -> Hold:
    """Of ada, for an hour."""
    return Hold(**{"service": "pg", "owner": "ada", "reason": "upgrade", "until": LATER, **changes})


def inputs(*, latch: Latch | None = None, generation: int = 2, **changes: Any) -> DecisionInputs:
    """At the epoch, away, with or without a hold and a latch."""
    asked = Asked(decision_type=DecisionType.FAILOVER, occasion=Occasion.PLANNED, rationale="move", requested_by="bob")
    known = asked_inputs(policy(), Mode(generation=generation, primary="cloud-db"), asked, EPOCH)
    return known.model_copy(update={"latch": latch, **changes})


def said(verdict: str = "hold", **changes: Any) -> HoldStatement:
    """A statement about the service."""
    body = {"verdict": verdict, "signer": "ada", "owner": "ada", "service": "pg", "env": "lab", "reason": "x"}
    own: dict[str, Any] = {"hold": {"until": LATER}, "end": {"ends": "hold-1"}, "acknowledge": {"generation": 2}}
    return HoldStatement(**{**body, "signed_at": EPOCH, **own[verdict], **changes})


def record(name: str, statement: HoldStatement) -> HoldRecord:
    """One record."""
    return HoldRecord(hold_id=name, statement=statement, ssh_signature="x")


@pytest.mark.req("DEC-6")
def test_a_hold_binds_its_own_service_until_its_end() -> None:
    """Not at its end, not after it, and no other service."""
    binds = inputs(hold=hold())

    assert in_force(binds) == hold()
    assert in_force(inputs(hold=hold(until=EPOCH))) is None
    assert in_force(inputs(hold=hold(service="other"))) is None
    assert in_force(inputs()) is None


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (LOSS, "without that a failover would have been decided: onprem-db lost"),
        (Wanted(DecisionType.FAILBACK, "lost", deny=True), "without that a failback would be denied: lost"),
        (Wanted(DecisionType.FAILBACK, "stable", occasion=Occasion.PLANNED), None),
        (Wanted(DecisionType.BURST, "load"), None),
        (Wanted(DecisionType.HOLD, "no quorum", "quorum"), None),
    ],
)
def test_under_a_hold_only_a_loss_is_told(wanted: Wanted, told: str | None) -> None:
    """As a hold with the reason maintenance; what can wait waits silently; without a hold nothing is changed."""
    found = held(inputs(hold=hold()), wanted)

    assert (found is not None) == (told is not None)
    if found is not None:
        assert (found.kind, found.key, found.deny) == (DecisionType.HOLD, "maintenance", False)
        assert found.rationale.endswith(str(told))
    assert held(inputs(), wanted) is wanted


@pytest.mark.req("DEC-6", "VOC-4")
def test_a_latch_lowers_a_trigger_and_nothing_else() -> None:
    """A recommendation, a hold and what is about another generation stay as they are; a burst waits."""
    bound = inputs(latch=Latch(generation=2, decision_id="d"))
    recommended = Wanted(DecisionType.FAILBACK, "stable", level=Level.RECOMMEND)
    holding = Wanted(DecisionType.HOLD, "no quorum", "quorum")
    lowered = latched(bound, LOSS)

    assert lowered is not None
    assert lowered.level is Level.RECOMMEND
    assert "automatic switch to generation 2 (d)" in lowered.rationale
    assert latched(bound, recommended) is recommended
    assert latched(bound, holding) is holding
    assert latched(bound, Wanted(DecisionType.BURST, "load")) is None
    assert latched(inputs(latch=Latch(generation=1)), LOSS) is LOSS
    assert latched(bound.model_copy(update={"policy": policy(latch=False)}), LOSS) is LOSS


@pytest.mark.req("DEC-6")
def test_a_person_says_why_only_where_a_hold_stands() -> None:
    """Refused without a reason, and with one of blanks; after its end nobody has to say anything."""
    for reason in (None, "", " ", "\t\n"):
        with pytest.raises(PrerequisiteError, match=r"held until .* by ada: upgrade"):
            despite(hold(), reason, "move", EPOCH)
    assert despite(hold(), None, "move", LATER) == despite(None, "late", "move", EPOCH) == "move"
    assert despite(hold(), "fire", "move", EPOCH).endswith("(upgrade): fire")


@pytest.mark.req("DEC-6", "INV-5")
def test_what_stands_does_not_hang_on_the_order_of_records() -> None:
    """An end that is read before its hold ends it all the same; each generation is acknowledged for itself."""
    records = [
        record("end-1", said("end", ends="hold-1")),
        record("hold-1", said()),
        record("hold-2", said()),
        record("ack-1", said("acknowledge", generation=3)),
        record("ack-2", said("acknowledge", generation=2)),
    ]

    for order in (records, records[::-1]):
        found = standing(order)
        assert [r.hold_id for r in found.holds] == ["hold-2"]
        assert sorted(found.acknowledged) == [2, 3]


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"until": SOON, "signed_at": EPOCH - timedelta(hours=1)}, None),
        ({"until": EPOCH, "signed_at": EPOCH - timedelta(hours=1)}, "it was over at"),
        ({"service": "other"}, "it is about other in lab"),
        ({"env": "prod"}, "it is about pg in prod"),
        ({"signed_at": EPOCH + timedelta(seconds=299)}, None),
        ({"signed_at": EPOCH + timedelta(seconds=301)}, "it was signed in the future"),
    ],
)
def test_words_that_do_not_fit_are_told(changes: dict[str, Any], why: str | None) -> None:
    """Over, about another service or environment, or from the future."""
    found = unfit(said(**changes), "pg", "lab", EPOCH)

    assert found is None if why is None else str(found).startswith(why)


@pytest.mark.req("DEC-6", "APR-1")
def test_a_holder_holds_and_only_an_approver_acknowledges() -> None:
    """By role; none is none."""
    may = {(verdict, role) for verdict in ("hold", "end", "acknowledge") for role in ("approver", "holder", "x")
           if forbidden(said(verdict), {role}) is None}  # fmt: skip

    assert may == {(verdict, "approver") for verdict in ("hold", "end", "acknowledge")} | {
        ("hold", "holder"),
        ("end", "holder"),
    }
