"""What of the loop's records is offered to people, when, and what never stands in it (UX-4)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from hyops.control.approval import slot_of
from hyops.model import canonical
from hyops.model.base import Record
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.notify import Notice, Pace
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import DecisionType, Outcome, RequestStatus
from hyops.ports.sink import Message
from hyops.services.notify import NotifyStage
from hyops.services.notify_sending import Sender
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import STAGES, VERIFIER, inputs
from hyops.testing.records import MemoryRecordStore
from hyops.testing.runs import noop_plan, reissued, spec_of

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
SPEC = spec_of(noop_plan(), at=AT)
STORES = ("decisions", "inputs", "requests", "refusals", "executions", "attempts", "outcomes")


class NoSink:
    """Nobody: these tests look at what is offered."""

    async def deliver(self, message: Message) -> None:
        """Never called."""
        raise AssertionError("nothing is sent here")


class Loop:
    """The records of four stages, and a notifier over them."""

    def __init__(self) -> None:
        self.stores = {name: MemoryRecordStore() for name in STORES}
        self.clock = FakeClock(AT)
        self.marks = MemoryRecordStore()
        self.restart()

    def restart(self) -> None:
        """A new process."""
        self.sender = Sender("ops", NoSink(), Pace(), self.marks, self.clock, lambda event, **facts: None)
        self.stage = NotifyStage(
            [self.sender], verifier=VERIFIER, clock=self.clock, expires_soon_s=120, open_run_s=900, **self.stores
        )

    def put(self, kind: str, record: Record, slot: str | None = None) -> None:
        """As a stage would."""
        self.stores[kind].create(record.record_id, record.encoded(), slot=slot)

    def offered(self) -> list[Notice]:
        """What is to be told after a pass."""
        asyncio.run(self.stage.step(True))
        return list(self.sender.pending)

    def events(self) -> list[str]:
        """The same, as words."""
        return [notice.event for notice in self.offered()]


def refused(request: DispatchRequest, reason: str, by: str = "approval") -> Refusal:
    """What the approval stage writes about a request that it closes."""
    refusal = Refusal(
        refusal_id="refusal-20260314T030100Z-request-00000001",
        timestamp_utc=AT + timedelta(minutes=1),
        stage="approval",
        subject_kind="request",
        subject_id=request.dispatch_id,
        subject_digest=request.digest(),
        reason=reason,
    )
    return sign_record(refusal, STAGES[by])


@pytest.mark.req("UX-4", "APR-1", "APR-3")
def test_a_request_that_waits_is_told_with_its_digest_and_one_command_and_no_way_to_answer_but_a_key() -> None:
    """What is asked, the warnings, the digest, the command; no link and no token."""
    loop = Loop()
    warned = SPEC.request.model_copy(update={"warnings": ["gcp_billing: degraded"], "signature": None})
    request = sign_record(warned, STAGES["dispatch"])
    loop.put("requests", request)
    (notice,) = loop.offered()
    text = notice.text()

    assert notice.event == "waiting"
    assert notice.command == f"hyops approval grant {request.dispatch_id} --key YOUR_KEY"
    assert text.count("hyops ") == 1
    assert request.digest() in text
    assert "WARNING gcp_billing: degraded" in text
    assert "://" not in text


@pytest.mark.req("UX-4")
def test_a_request_that_soon_expires_is_told_once_more() -> None:
    """Two minutes before its end, and not after it."""
    loop = Loop()
    loop.put("requests", SPEC.request)
    first = loop.events()
    loop.clock.advance((SPEC.request.expires_at - AT).total_seconds() - 120)
    second = loop.events()
    loop.clock.advance(120)

    assert (first, second) == (["waiting"], ["waiting", "expires-soon"])
    assert loop.events() == []


@pytest.mark.req("UX-4")
@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("rejected by ada: no", "rejected"),
        ("the request expired at 20260314T031000Z", "expired"),
        ("101 approvals say yes to it, more than 100: none is believed until some are removed", "held-up"),
    ],
)
def test_what_the_approval_stage_closed_is_told_with_its_reason(reason: str, event: str) -> None:
    """And who was to be asked is not asked any more; a request that is only held up still waits."""
    loop = Loop()
    loop.put("requests", SPEC.request)
    loop.offered()
    loop.put("refusals", refused(SPEC.request, reason))
    found = loop.offered()

    assert {notice.event for notice in found} == ({event} | ({"waiting"} if event == "held-up" else set()))
    assert any(reason in notice.title for notice in found)


@pytest.mark.req("UX-4", "INV-7")
def test_a_denied_request_is_told_once_though_two_stages_say_it() -> None:
    """The dispatcher denies, and the approval stage closes it with the same words."""
    loop = Loop()
    body = SPEC.request.model_copy(update={"status": RequestStatus.DENIED, "reason": "billing", "signature": None})
    request = sign_record(body, STAGES["dispatch"])
    loop.put("requests", request)
    loop.put("refusals", refused(request, "billing"))

    assert [(n.event, "billing" in n.title) for n in loop.offered()] == [("denied", True)]


@pytest.mark.req("UX-4", "APR-4")
def test_an_execution_is_told_and_a_break_glass_is_seen() -> None:
    """Who approved it, and how; the question that was open is not asked any more."""
    loop = Loop()
    loop.put("requests", SPEC.request)
    loop.offered()
    glass = SPEC.execution.approval.model_copy(update={"mode": "break-glass", "note": "accepted loss: 30 s"})
    spec = reissued(SPEC, request=SPEC.request, approvals=SPEC.approvals, summary=glass)
    loop.put("executions", spec.execution, slot=slot_of(spec.request))
    (notice,) = loop.offered()

    assert notice.event == "executed"
    assert "BREAK-GLASS" in notice.title
    assert "accepted loss: 30 s" in notice.text()


def attempt(mode: str = "dispatch") -> Attempt:
    """The run of the spec."""
    made = Attempt(
        attempt_id="attempt-20260314T030000Z-00000001",
        run_id=SPEC.run_id,
        timestamp_utc=AT,
        status="dispatching" if mode == "dispatch" else "dry-run-ready",
        execution_mode=mode,  # type: ignore[arg-type]
        source_execution_id=SPEC.execution.execution_id,
        source_execution_digest=SPEC.execution.digest(),
        source_dispatch_id=SPEC.request.dispatch_id,
        service="pg",
        generation=7,
        runner_ref="cloud-runner",
        plan_digest=SPEC.plan.digest(),
    )
    return sign_record(made, STAGES["execution"])


def ended(outcome: Outcome) -> AttemptOutcome:
    """How it ended."""
    made = AttemptOutcome(
        outcome_id="outcome-20260314T030500Z-00000001",
        attempt_id=attempt().attempt_id,
        run_id=SPEC.run_id,
        timestamp_utc=AT + timedelta(minutes=5),
        outcome=outcome,
        reason="the link died",
        exit_code=22,
        service="pg",
        generation_before=7,
    )
    return sign_record(made, STAGES["execution"])


@pytest.mark.req("UX-4")
@pytest.mark.parametrize(("rto_s", "limit_s"), [(60.0, 60.0), (None, 900.0)])
def test_a_run_that_is_open_for_longer_than_the_rto_is_told(rto_s: float | None, limit_s: float) -> None:
    """The policy that stands in the decision's inputs says how long; the file says it where that says nothing."""
    loop, known = Loop(), inputs()
    known = known.model_copy(update={"policy": known.policy.model_copy(update={"rto_s": rto_s})})
    digest = canonical.digest(known.body())
    decision = sign_record(
        SPEC.decision.model_copy(update={"inputs_digest": digest, "signature": None}), STAGES["decision"]
    )
    loop.stores["inputs"].create(digest.removeprefix("sha256:"), canonical.encode(known.body()))
    loop.put("decisions", decision)
    loop.put("requests", SPEC.request)
    loop.put("executions", SPEC.execution, slot=slot_of(SPEC.request))
    loop.put("attempts", attempt())
    loop.clock.advance(limit_s)
    before = loop.events()
    loop.clock.advance(1)

    assert "open-run" not in before
    assert "open-run" in loop.events()


@pytest.mark.req("UX-4")
def test_a_dry_run_and_a_run_that_ended_are_never_open_too_long() -> None:
    """Whatever the time."""
    loop = Loop()
    loop.put("attempts", attempt("dry-run"))
    loop.clock.advance(86400)
    dry = loop.events()
    done = Loop()
    done.put("attempts", attempt())
    done.put("outcomes", ended(Outcome.SUCCEEDED))
    done.clock.advance(86400)

    assert (dry, done.events()) == ([], [])


@pytest.mark.req("UX-4", "VOC-5")
@pytest.mark.parametrize("outcome", list(Outcome))
def test_how_a_run_ended_is_told_when_it_did_not_end_well(outcome: Outcome) -> None:
    """Failed, unknown and refused are told with the reason; success, and what a person cancelled, are not."""
    loop = Loop()
    loop.put("outcomes", ended(outcome))
    told = outcome in (Outcome.FAILED, Outcome.UNKNOWN, Outcome.REFUSED)

    assert loop.events() == ["ended"] * told


@pytest.mark.req("UX-4", "DEC-6")
@pytest.mark.parametrize("kind", [DecisionType.HOLD, DecisionType.FAILOVER])
def test_a_hold_is_told(kind: DecisionType) -> None:
    """And a decision that asks for something is told by its request."""
    loop = Loop()
    body = SPEC.decision.model_copy(update={"decision_type": kind, "signature": None, "rationale": "latched"})
    loop.put("decisions", sign_record(body, STAGES["decision"]))

    assert loop.events() == ["hold"] * (kind is DecisionType.HOLD)


@pytest.mark.fault(10)
@pytest.mark.req("UX-4", "LOOP-2")
def test_what_is_not_signed_by_its_stage_is_not_told() -> None:
    """Who can write a file can frighten nobody, and cannot make a request look closed."""
    loop = Loop()
    loop.put("requests", sign_record(SPEC.request.model_copy(update={"signature": None}), STAGES["decision"]))
    loop.put("outcomes", sign_record(ended(Outcome.FAILED).model_copy(update={"signature": None}), STAGES["dispatch"]))
    forged = loop.events()
    loop = Loop()
    loop.put("requests", SPEC.request)
    loop.put("refusals", refused(SPEC.request, "rejected by ada: no", by="decision"))

    assert (forged, loop.events()) == ([], ["waiting"])


@pytest.mark.req("UX-4", "LOOP-1")
def test_after_a_restart_the_same_notices_are_found_under_the_same_ids() -> None:
    """Nothing is kept in between but the marks of what was told."""
    loop = Loop()
    loop.put("requests", SPEC.request)
    loop.put("attempts", attempt())
    loop.clock.advance(1000)
    loop.put("outcomes", ended(Outcome.UNKNOWN))
    first = {notice.notice_id for notice in loop.offered()}
    loop.restart()

    assert {notice.notice_id for notice in loop.offered()} == first


@pytest.mark.req("UX-4")
def test_words_of_a_record_break_no_line() -> None:
    """A rationale with line ends, an escape and 4,000 characters is one line of at most 600 in the notice."""
    loop = Loop()
    rationale = "a\r\nBcc: eve@example.org\x1b[2J" + "x" * 4000
    body = SPEC.decision.model_copy(
        update={"decision_type": DecisionType.HOLD, "signature": None, "rationale": rationale}
    )
    loop.put("decisions", sign_record(body, STAGES["decision"]))
    (notice,) = loop.offered()

    assert len(notice.title) <= 300
    assert notice.title.isprintable()
