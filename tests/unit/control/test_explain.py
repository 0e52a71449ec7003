"""One sentence and one next command, from the records of a decision and from what is known of the stages (UX-2)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from hyops.control.approval import judge
from hyops.control.explain import ASK_AGAIN, IGNORED, STILL_S, Chain, Stand, stand_of
from hyops.control.hearing import Heard
from hyops.model.approval import ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.vocabulary import Level
from hyops.ports.starts import Hindrance
from hyops.testing.evidence import START, failover

SWITCH = failover()
ALL = frozenset({"dispatch", "approval", "execution"})
DECIDED = Chain(SWITCH.decision, serving=ALL)
ASKED = replace(DECIDED, request=SWITCH.request)
APPROVED = replace(ASKED, execution=SWITCH.execution)
TRIED = replace(APPROVED, attempt=SWITCH.attempt)
NOW = SWITCH.attempt.timestamp_utc

pytestmark = pytest.mark.req("UX-2", "INV-7")


def test_what_a_hold_keeps_waiting_says_until_when_and_how_it_ends() -> None:
    """Not that it stands still; with a dead executor that is what is wrong, and after its end it is expired."""
    held = replace(APPROVED, held="pg is held until 20260131T130000Z by dba: kernel upgrade")
    late = SWITCH.execution.timestamp_utc + timedelta(seconds=STILL_S + 1)
    stand = stand_of(held, late)

    assert (stand.state, held.held in stand.why) == ("held", True)
    assert "hyops hold list pg" in stand.next
    assert f"hyops approval reject {SWITCH.request.dispatch_id}" in stand.next
    assert "systemctl start" in stand_of(replace(held, serving=ALL - {"execution"}), late).next
    assert stand_of(held, SWITCH.execution.expires_at).state == "expired"


@pytest.mark.parametrize("reason", [*IGNORED, "no_route:failover", "foreign-env:test", "too-old:20260101T000000Z"])
def test_what_the_dispatcher_ignored_has_a_mend_of_its_own(reason: str) -> None:
    """Every reason that it gives; the detail behind the colon changes nothing."""
    stand = stand_of(replace(DECIDED, refused={"dispatch": reason}), START)

    assert (stand.state, reason in stand.why, "mend what it names" in stand.next) == ("ignored", True, False)


def test_a_reason_that_nobody_foresaw_is_told_all_the_same() -> None:
    """As it stands in the record."""
    stand = stand_of(replace(DECIDED, refused={"dispatch": "moon:full"}), START)

    assert (stand.state, stand.why) == ("ignored", "by the dispatcher: moon:full")


@pytest.mark.parametrize(
    ("chain", "stage"), [(DECIDED, "dispatch"), (APPROVED, "execution")], ids=["dispatch", "execution"]
)
def test_who_serves_and_does_not_answer_stands_still(chain: Chain, stage: str) -> None:
    """After two rescans, not before; dead is another thing; and where nobody can tell, it is not said."""
    record = chain.execution or chain.decision
    assert record.timestamp_utc is not None
    soon, late = (record.timestamp_utc + timedelta(seconds=s) for s in (STILL_S - 1, STILL_S + 1))

    assert stand_of(chain, soon).state == "waiting"
    assert stand_of(chain, late).state == "stands still"
    assert "restart" in stand_of(chain, late).next
    assert "systemctl start" in stand_of(replace(chain, serving=ALL - {stage}), late).next
    unknown = stand_of(replace(chain, serving=None), late)
    assert (unknown.state, "serves" in unknown.why) == ("waiting", False)


def test_a_decision_without_a_time_waits() -> None:
    """As the synthetic check is written by hand."""
    bare = Decision(decision_id="decision-x", decision_type=SWITCH.decision.decision_type, rationale="by hand")

    assert stand_of(replace(DECIDED, decision=bare), START).state == "waiting"


def test_an_approved_request_is_not_called_expired_before_its_end() -> None:
    """An approval's own end closes an execution, and the request's end a request."""
    execution, request = SWITCH.execution, SWITCH.request

    assert stand_of(ASKED, request.expires_at - timedelta(seconds=1)).state == "waiting"
    assert stand_of(ASKED, request.expires_at).state == "expired"
    assert stand_of(APPROVED, execution.expires_at - timedelta(seconds=1)).state == "stands still"
    assert stand_of(APPROVED, execution.expires_at).state == "expired"


def test_what_is_open_before_it_is_named_only_where_somebody_would_start_it() -> None:
    """With a dead executor that is what is wrong."""
    behind = replace(APPROVED, before_it="behind attempt-1, which is open")

    assert stand_of(behind, NOW).state == "queued"
    assert "no hyops-decision-executor serves" in stand_of(replace(behind, serving=frozenset()), NOW).why


@pytest.mark.parametrize(("rto_s", "state"), [(None, "run open"), (30.0, "overdue"), (120.0, "run open")])
def test_a_run_is_overdue_by_its_objective_alone(rto_s: float | None, state: str) -> None:
    """And a service without one has none."""
    stand = stand_of(replace(TRIED, rto_s=rto_s), NOW + timedelta(seconds=60))

    assert stand.state == state


def test_an_open_run_that_nobody_follows_says_so() -> None:
    """The executor serves, and holds no right to dial."""
    assert "followed by nobody" in stand_of(replace(TRIED, dialled=False), NOW).why
    assert "by nobody" not in stand_of(TRIED, NOW).why


def test_an_end_says_what_follows() -> None:
    """Nothing after a success."""
    stand = stand_of(replace(TRIED, outcome=SWITCH.outcome), NOW)

    assert (stand.state, stand.next) == ("succeeded", "nothing")


def test_a_recommendation_waits_for_people() -> None:
    """Whatever its level, one request is one question."""
    asked = replace(ASKED, request=SWITCH.request.model_copy(update={"level": Level.RECOMMEND}))

    assert "for approval: 0 of" in stand_of(asked, SWITCH.request.timestamp_utc).why


@pytest.mark.parametrize(
    "why", ["it gives way to dispatch-1: an unplanned failover of pg", "it is for a takeover alone"]
)
def test_what_the_approval_stage_closed_is_refused_and_waits_for_nothing(why: str) -> None:
    """No approval brings it back, at any time: the one thing left is to ask anew."""
    closed = replace(ASKED, refused={"approval": why}, spoken=2)

    for now in (SWITCH.request.timestamp_utc, SWITCH.request.expires_at):
        stand = stand_of(closed, now)
        assert (stand.state, stand.why) == ("refused", f"by the approval stage: {why}")
        assert (stand.next, "approval" in stand.next) == (ASK_AGAIN, False)


def test_a_closed_request_that_came_too_late_or_was_rejected_is_called_so() -> None:
    """As the approval stage closes it."""
    late = judge(SWITCH.request, Heard(), ApprovalPolicy(), SWITCH.request.expires_at).reason
    before = SWITCH.request.timestamp_utc

    assert stand_of(replace(ASKED, refused={"approval": late}), before).state == "expired"
    assert stand_of(replace(ASKED, refused={"approval": "rejected by ada: no"}), before).state == "rejected"


def test_a_flooded_request_waits_until_it_is_too_late() -> None:
    """It is open: whoever removes the flood lets it go on."""
    flooded = replace(ASKED, flooded="101 approvals say yes to it")

    assert stand_of(flooded, SWITCH.request.timestamp_utc).why == "101 approvals say yes to it"
    assert stand_of(flooded, SWITCH.request.timestamp_utc).state == "waiting"
    assert stand_of(flooded, SWITCH.request.expires_at).state == "expired"


def test_a_request_from_which_nothing_can_be_run_asks_nobody_for_approval() -> None:
    """As the synthetic check makes it: no approval would move it."""
    bare = replace(ASKED, request=SWITCH.request.model_copy(update={"service": None, "plan_digest": None}))
    stand = stand_of(bare, SWITCH.request.timestamp_utc)

    assert (stand.state, "names no service, plan_digest" in stand.why) == ("waiting", True)
    assert "approval" not in stand.next


def test_what_the_executor_waits_for_a_person_for_is_named_with_its_mend() -> None:
    """Not a restart; with a dead executor that is what is wrong, and after its end it is expired."""
    by = Hindrance("2026-01-31T12:00:00Z", "Waits", "service pg has no policy here", "name it under `protected`")
    stuck = replace(APPROVED, stuck=by)
    late = SWITCH.execution.timestamp_utc + timedelta(seconds=STILL_S + 1)

    assert stand_of(stuck, late) == Stand("held up", by.message, by.hint)
    assert "systemctl start" in stand_of(replace(stuck, serving=ALL - {"execution"}), late).next
    assert stand_of(stuck, SWITCH.execution.expires_at).state == "expired"


def test_an_attempt_that_is_not_believed_is_named() -> None:
    """It may have been started, so it is never called expired; a believed outcome says how it ended."""
    unread = replace(APPROVED, unread="attempt-1: torn or not JSON")
    stand = stand_of(unread, SWITCH.execution.expires_at)

    assert (stand.state, "attempt-1: torn or not JSON" in stand.why) == ("held up", True)
    assert "restart" not in stand.next
    assert stand_of(replace(unread, outcome=SWITCH.outcome), NOW).state == "succeeded"
