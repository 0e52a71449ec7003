"""Each threshold and time of a policy, at its edge: on one side nothing, on the other the decision (DEC-4)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.control.decision import evaluate
from hyops.model.decision import Decision
from hyops.model.observed import DecisionInputs, Mode, Past, Series, Span
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import CheckStatus, DecisionType, Outcome
from hyops.testing.clock import EPOCH
from simulation.world import VANTAGES, policy

NOW_S = 1000.0
OK, BAD = CheckStatus.OK, CheckStatus.BAD
HOME, AWAY = Mode(generation=1, primary="onprem-db"), Mode(generation=2, primary="cloud-db")
BACKEND = {"name": "backend", "source": "prometheus", "query": "up", "url": "http://127.0.0.1:9090", "weight": 20.0}


def stretch(signal: str, vantage: str, status: CheckStatus, since_s: float, count: int = 9) -> Series:
    """One series that has had one status since then."""
    span = Span(status=status, since_s=since_s, last_s=NOW_S, count=count, taken_at=EPOCH, value=1.0)
    return Series(signal=signal, vantage=vantage, spans=[span])


def seen(
    status: CheckStatus, for_s: float, *, target_for_s: float = 900.0, only: tuple[str, ...] = VANTAGES, count: int = 9
) -> list[Series]:
    """The primary for so long in this status; the standby well for so long, without WAL when the primary is lost."""
    series = []
    for vantage in VANTAGES:
        lasts_s = for_s if vantage in only else 0.0
        series += [stretch(name, vantage, status, NOW_S - lasts_s, count) for name in ("answers", "port")]
    wal = BAD if status is BAD else OK
    target = [stretch("wal_received", VANTAGES[0], wal, NOW_S - target_for_s)]
    return [*series, *target, stretch("lag_bytes", VANTAGES[0], OK, NOW_S - target_for_s)]


def decided(series: list[Series], mode: Mode = HOME, rule: ServicePolicy | None = None, **more: Any) -> Decision | None:
    """What follows of it."""
    known = DecisionInputs(at=EPOCH, now_s=NOW_S, policy=rule or policy(), mode=mode, series=series, **more)
    emission = evaluate(known)
    return emission.decision if emission else None


def kind(found: Decision | None) -> DecisionType | None:
    """Of what type."""
    return found.decision_type if found else None


def past(**changes: Any) -> Past:
    """A failover that was decided a minute ago and failed."""
    body = {"decision_id": "d", "decision_type": "failover", "ordinal": 1, "age_s": 60.0, "closed": "failed"}
    return Past.of({**body, **changes})


@pytest.mark.req("DEC-4")
def test_confirm_for_s_is_a_time_without_a_gap() -> None:
    """One second: nothing just before it."""
    rule = policy(confirm_for_s=1.0)

    assert decided(seen(BAD, 0.99), rule=rule) is None
    assert kind(decided(seen(BAD, 1.0), rule=rule)) is DecisionType.FAILOVER


@pytest.mark.fault(7)
@pytest.mark.req("DEC-4")
def test_one_sample_never_confirms() -> None:
    """However long it stands, and with a confirm time of nothing."""
    assert decided(seen(BAD, 5.0, count=1), rule=policy(confirm_for_s=0.0)) is None
    assert kind(decided(seen(BAD, 5.0, count=2), rule=policy(confirm_for_s=0.0))) is DecisionType.FAILOVER


@pytest.mark.fault(1)
@pytest.mark.req("DEC-4")
@pytest.mark.parametrize(("quorum", "expected"), [(2, DecisionType.FAILOVER), (3, None)])
def test_quorum_counts_confirmed_votes(quorum: int, expected: DecisionType | None) -> None:
    """Two of three have lost it for long enough; the third only now."""
    series = seen(BAD, 1.0, only=VANTAGES[:2])

    assert kind(decided(series, rule=policy(quorum=quorum))) is expected


@pytest.mark.req("DEC-4")
def test_confidence_is_weighed_against_what_is_known() -> None:
    """A heavy signal without vantage points that is well: too little confidence, so a hold that says so."""
    signals = [signal.body() for signal in policy().signals]
    heavy = stretch("backend", "prometheus", OK, NOW_S - 60)

    for weight, expected in ((20.0, DecisionType.HOLD), (2.0, DecisionType.FAILOVER)):
        found = decided([*seen(BAD, 10), heavy], rule=policy(signals=[*signals, {**BACKEND, "weight": weight}]))
        assert kind(found) is expected


@pytest.mark.req("DEC-4")
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (seen(OK, 30.0, target_for_s=30.0), DecisionType.FAILBACK),
        (seen(OK, 29.9, target_for_s=900.0), None),
        (seen(OK, 900.0, target_for_s=29.9), None),
        (seen(OK, 900.0, only=VANTAGES[:2]), DecisionType.FAILBACK),
        (seen(OK, 900.0, only=VANTAGES[:1]), None),
    ],
)
def test_the_way_back_needs_both_sides_stable_and_a_quorum(series: list[Series], expected: DecisionType | None) -> None:
    """For `stable_for_s`: the one that serves, by a quorum of vantage points, and the one that would."""
    assert kind(decided(series, AWAY)) is expected


@pytest.mark.req("DEC-4")
@pytest.mark.parametrize(
    ("before", "again"),
    [
        ({"closed_age_s": 9.9}, False),
        ({"closed_age_s": 10.0}, True),
        ({"closed": "unknown", "closed_age_s": 900.0}, False),
        ({"closed": None, "denied": True, "age_s": 9.9}, False),
        ({"closed": None, "denied": True, "age_s": 10.0}, True),
        ({"closed": None, "expired": True, "age_s": 9.9}, False),
        ({"closed": None, "expired": True, "age_s": 10.0}, True),
        ({"closed": None, "age_s": 900.0}, False),
    ],
)
def test_the_next_decision_waits_for_the_end_of_the_last_and_its_cooldown(before: dict[str, Any], again: bool) -> None:
    """Ten seconds after the outcome, the denial, or an expiry; never while it is open or nobody knows how it ended."""
    found = decided(seen(BAD, 10), past=[past(**before)])

    assert (found is not None) is again
    assert found is None or found.incident == "pg-g1-failover-2"


@pytest.mark.req("DEC-4")
@pytest.mark.parametrize(("age_s", "again"), [(9.9, False), (29.9, False), (30.1, True)])
def test_a_hold_is_told_again_only_of_a_new_incident(age_s: float, again: bool) -> None:
    """The primary has been lost by one for thirty seconds: a hold of this incident was told already."""
    told = past(decision_type="hold", reason_key="quorum", closed=None, age_s=age_s)
    found = decided(seen(BAD, 30, only=VANTAGES[:1]), past=[told], rule=policy(quorum=2))

    assert (found is not None) is again


@pytest.mark.req("DEC-4", "INV-5")
def test_past_and_outcome_words_are_closed_sets() -> None:
    """What the cooldown is counted from is one of these."""
    assert {str(outcome) for outcome in Outcome} == {"succeeded", "failed", "refused", "cancelled", "unknown"}
    assert evaluate(DecisionInputs(at=EPOCH + timedelta(1), now_s=0.0, policy=policy(), mode=HOME)) is None
