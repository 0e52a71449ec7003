"""What `hyops explain` makes of the records of one switch, signed and stored as the stages do it (UX-2, INV-7)."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from hyops.control.dispatch import slot_of
from hyops.control.execution import attempt_id_of
from hyops.control.explain import Stand
from hyops.control.reconcile import answer_slot
from hyops.model.approval import Approval
from hyops.model.base import Record
from hyops.model.dsse import sign_record
from hyops.model.execution import AttemptOutcome
from hyops.model.reconciliation import Reconciliation, ReconciliationStatement
from hyops.model.vocabulary import Outcome
from hyops.ports.starts import Hindrance
from hyops.services.explain import Circumstances, Explainer, ExplainStores
from hyops.services.inbox import Refusals, StageName, odd_slot, slot_for
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals, failover
from hyops.testing.records import MemoryRecordStore

LOST = failover(outcome=Outcome.UNKNOWN)
ASKED_AT = LOST.request.timestamp_utc
ELSE = LOST.plan.digest()
LATE = LOST.outcome.timestamp_utc + timedelta(hours=1)
KINDS = ("decisions", "requests", "approvals", "executions", "attempts", "outcomes")

pytestmark = pytest.mark.req("UX-2", "INV-7")


class Loop:
    """The stores of four stages that serve."""

    def __init__(self) -> None:
        self.stores = {kind: MemoryRecordStore() for kind in KINDS}
        self.refusals = {stage: MemoryRecordStore() for stage in ("dispatch", "approval", "execution")}
        self.serving = frozenset(self.refusals)
        self.noted: dict[str, Hindrance] = {}

    def put(self, kind: str, record: Record, slot: str | None = None) -> None:
        """As its stage writes it."""
        self.stores[kind].create(record.record_id, record.encoded(), slot=slot)

    def stand(self, now: datetime = LATE, surely: datetime | None = None) -> Stand:
        """Where the one decision stands."""
        stores = ExplainStores(**self.stores, refusals=self.refusals)
        explainer = Explainer(stores, {}, {}, Circumstances(self.serving, [], self.noted.get), VERIFIER)
        (found,) = explainer.explain(None, now, surely)
        return found.stand


@pytest.fixture
def ended() -> Loop:
    """A run whose end nobody knows."""
    loop = Loop()
    records = (LOST.decision, LOST.request, LOST.approvals[0], LOST.execution, LOST.attempt, LOST.outcome)
    for kind, record in zip(KINDS, records, strict=True):
        loop.put(kind, record)
    return loop


def answer(outcome: Outcome, *, word: bool = False) -> AttemptOutcome:
    """What answers the unknown end: the runner's proof, or Ada's word."""
    given = None
    if word:
        statement = ReconciliationStatement(
            operator=APPROVER,
            signed_at=LATE,
            attempt_id=LOST.attempt.attempt_id,
            run_id=LOST.attempt.run_id,
            service="pg",
            outcome_digest=LOST.outcome.digest(),
            outcome="failed",
            looked_at=["the console"],
            reason="it is off",
            runner_said="nothing",
        )
        given = Reconciliation(
            statement=statement, ssh_signature=SeedApprovals.sign(APPROVER, statement.signed_bytes())
        )
    changes = {
        "outcome_id": f"{LOST.outcome.outcome_id[:-3]}{'bbb' if word else 'aaa'}",
        "outcome": outcome,
        "reason": "by her word" if word else "proved by the runner",
        "reconciles": LOST.outcome.outcome_id,
        "reconciliation": given,
        "signature": None,
    }
    return sign_record(LOST.outcome.model_copy(update=changes), STAGES["execution"])


def test_a_run_that_was_reconciled_is_no_longer_unknown(ended: Loop) -> None:
    """It waits for an answer, and for nothing once there is one: a word, and whatever the word was, then the proof."""
    before = ended.stand()
    word, proof = answer(Outcome.FAILED, word=True), answer(Outcome.SUCCEEDED)

    assert (before.state, before.next) == ("unknown", f"hyops run reconcile {LOST.attempt.run_id}")
    ended.put("outcomes", word, answer_slot(word))
    assert (ended.stand().state, ended.stand().why) == ("failed", "by her word")
    ended.put("outcomes", proof, answer_slot(proof))
    assert (ended.stand().state, ended.stand().next) == ("succeeded", "nothing")


def test_a_proof_needs_no_word_before_it(ended: Loop) -> None:
    """The runner came back by itself."""
    ended.put("outcomes", answer(Outcome.FAILED))

    assert (ended.stand().state, ended.stand().why) == ("failed", "proved by the runner")


@pytest.fixture
def asked() -> Loop:
    """A request that waits."""
    loop = Loop()
    loop.put("decisions", LOST.decision)
    loop.put("requests", LOST.request)
    return loop


def refuse(loop: Loop, stage: StageName, slot: str, subject: Record, reason: str, digest: str | None = None) -> None:
    """As the stage records it."""
    Refusals(loop.refusals[stage], STAGES[stage], stage).record(
        slot, kind="request", subject=subject.record_id, digest=digest or subject.digest(), reason=reason, now=ASKED_AT
    )


def test_a_request_is_closed_by_what_closed_it_alone(asked: Loop) -> None:
    """A flood leaves it open, and so does what was said of other bytes under its name; also without any slots."""
    digest = LOST.request.digest()
    refuse(asked, "approval", slot_for("bad", LOST.request.record_id, "sha256:0"), LOST.request, "torn", ELSE)
    assert asked.stand(ASKED_AT).why.startswith("for approval: 0 of")
    refuse(asked, "approval", slot_for("flooded", digest), LOST.request, "101 approvals say yes")
    assert (asked.stand(ASKED_AT).state, asked.stand(ASKED_AT).why) == ("waiting", "101 approvals say yes")
    refuse(asked, "approval", slot_for("closed", digest), LOST.request, "it gives way to dispatch-1")
    asked.refusals["approval"].slots.clear()

    assert asked.stand(ASKED_AT).state == "refused"
    assert asked.stand(ASKED_AT).next == "hyops decision request"


def test_a_decision_and_an_execution_are_closed_by_their_own_refusals(asked: Loop) -> None:
    """What was said of a damaged one under that name counts no more when the true one is back."""
    asked.stores["requests"].records.clear()
    refuse(asked, "dispatch", slot_for("bad", LOST.decision.record_id, "sha256:0"), LOST.decision, "torn", ELSE)
    assert asked.stand(ASKED_AT).state != "ignored"
    refuse(asked, "dispatch", slot_of(LOST.decision, "ignored"), LOST.decision, "dry-run")
    assert asked.stand(ASKED_AT).why == "by the dispatcher: dry-run"

    asked.put("requests", LOST.request)
    asked.put("executions", LOST.execution)
    refuse(asked, "execution", slot_for("bad", LOST.execution.record_id, "sha256:0"), LOST.execution, "torn", ELSE)
    assert asked.stand(ASKED_AT).state != "refused"
    refuse(asked, "execution", slot_for("closed", LOST.execution.digest()), LOST.execution, "no policy here")
    assert asked.stand(ASKED_AT).why == "by the executor: no policy here"


@pytest.mark.req("LOOP-1", "DSP-4")
def test_what_nobody_foresaw_is_told_where_it_stands(asked: Loop) -> None:
    """A decision that could not be routed is closed; a request and an execution wait, and the reason is the stage's."""
    asked.put("executions", LOST.execution)
    refuse(asked, "execution", odd_slot(LOST.execution), LOST.execution, "it waits: a bug")
    assert (asked.stand(ASKED_AT).state, asked.stand(ASKED_AT).why.split(";")[0]) == ("held", "it waits: a bug")

    asked.stores["executions"].records.clear()
    refuse(asked, "approval", odd_slot(LOST.request), LOST.request, "it waits: another bug")
    assert (asked.stand(ASKED_AT).state, asked.stand(ASKED_AT).why) == ("waiting", "it waits: another bug")

    asked.stores["requests"].records.clear()
    refuse(asked, "dispatch", slot_of(LOST.decision, "bad"), LOST.decision, "cannot be routed: a bug")
    assert asked.stand(ASKED_AT).why == "by the dispatcher: cannot be routed: a bug"
    assert asked.stand(ASKED_AT).next.endswith("`hyops decision request`")


def say(loop: Loop, verdict: str, after_s: float, who: str = APPROVER, **more: object) -> str:
    """Somebody says something about the request; the id."""
    said = LOST.approvals[0].statement
    at = ASKED_AT + timedelta(seconds=after_s)
    statement = said.model_copy(update={"verdict": verdict, "signed_at": at, "approver": who, **more})
    loop.put("approvals", made := Approval.signed(statement, SeedApprovals.sign(who, statement.signed_bytes())))
    return made.approval_id


def given(loop: Loop, after_s: float = 60.0) -> str:
    """How many approvals it says are there."""
    return loop.stand(ASKED_AT + timedelta(seconds=after_s)).why


@pytest.mark.req("APR-1")
def test_who_says_yes_twice_is_one_person(asked: Loop) -> None:
    """Also through somebody who acts for them; and whether the signatures are good is said to be the stage's word."""
    assert given(asked) == "for approval: 0 of 1 or more given"
    say(asked, "grant", 1)
    say(asked, "grant", 2)
    say(asked, "grant", 3, "bob", on_behalf_of=APPROVER, delegation="approval-1")
    say(asked, "break-glass", 4, accepted_loss="all")
    assert given(asked) == "for approval: 1 of 1 or more given, as far as hyops-decision-consumer finds their " + (
        "signatures good"
    )
    say(asked, "break-glass", 5, "bob", accepted_loss="all")

    assert given(asked).startswith("for approval: 2 of 1")


@pytest.mark.req("APR-1")
def test_a_yes_that_was_taken_back_counts_no_more(asked: Loop) -> None:
    """As the stage counts: also one that somebody gave for them, and also one that is given again."""
    say(asked, "grant", 1)
    say(asked, "grant", 2, "bob", on_behalf_of=APPROVER, delegation="approval-1")
    assert given(asked).startswith("for approval: 1 of")
    say(asked, "withdraw", 3)
    say(asked, "grant", 4)

    assert given(asked) == "for approval: 0 of 1 or more given"


@pytest.mark.req("APR-1")
@pytest.mark.parametrize(
    "more", [{"request_digest": ELSE}, {"expires_at": ASKED_AT + timedelta(seconds=30)}], ids=["edited", "ended"]
)
def test_a_yes_to_other_bytes_or_of_the_past_counts_not(asked: Loop, more: dict[str, object]) -> None:
    """Each ends by itself; nobody has to refuse it first."""
    say(asked, "grant", 1, **more)

    assert given(asked) == "for approval: 0 of 1 or more given"


@pytest.mark.req("APR-1")
def test_what_the_stage_found_unfit_counts_not(asked: Loop) -> None:
    """With its reason."""
    approval_id = say(asked, "grant", 1, "eve")
    assert given(asked).startswith("for approval: 1 of")
    Refusals(asked.refusals["approval"], STAGES["approval"], "approval").record(
        "unfit-1",
        kind="approval",
        subject=approval_id,
        digest=ELSE,
        reason=f"{LOST.request.dispatch_id}: eve has no role",
        now=ASKED_AT,
    )

    why = f"for approval: 0 of 1 or more given; {approval_id} does not count: eve has no role"
    assert given(asked) == why


def test_a_damaged_attempt_is_named_and_its_outcome_still_counts(ended: Loop) -> None:
    """In the store of before as torn, by another key as not trusted; with its outcome it has ended as that says."""
    attempt_id = attempt_id_of(LOST.execution, "dispatch")
    for kind in ("attempts", "outcomes"):
        ended.stores[kind].records.clear()
    told = LOST.outcome.model_copy(update={"attempt_id": attempt_id, "signature": None})
    edited = LOST.attempt.encoded().replace(b"cloud-runner", b"clouD-runner")
    for damage in (edited, b'{"attempt_id":'):
        ended.stores["attempts"].records[attempt_id] = damage
        assert (ended.stand().state, attempt_id in ended.stand().why) == ("held up", True)
    del ended.stores["attempts"].records[attempt_id]
    ended.stores["attempts"].broken[f"{attempt_id}.json"] = "torn or not JSON"
    assert f"{attempt_id}: torn or not JSON" in ended.stand().why

    ended.put("outcomes", sign_record(told, STAGES["execution"]))
    assert (ended.stand().state, ended.stand().next) == ("unknown", f"hyops run reconcile {LOST.attempt.run_id}")


def test_what_the_executor_noted_of_an_execution_is_shown(asked: Loop) -> None:
    """Under the execution's id, as long as there is no attempt."""
    asked.put("executions", LOST.execution)
    by = Hindrance("2026-01-31T12:00:00Z", "Waits", "service pg has no policy here", "name it under `protected`")
    asked.noted[LOST.execution.execution_id] = by

    assert (asked.stand(ASKED_AT).why, asked.stand(ASKED_AT).next) == (by.message, by.hint)


@pytest.mark.req("LOOP-1", "UX-2")
def test_what_is_over_by_a_clock_that_stepped_is_not_called_expired(asked: Loop) -> None:
    """A request, then its execution: it waits until it is over for certain."""
    late = ASKED_AT + timedelta(days=400)
    for _ in range(2):
        assert [asked.stand(late).state, asked.stand(late, late).state] == ["expired", "expired"]
        doubted = asked.stand(late, ASKED_AT)
        assert (doubted.state, "nobody has confirmed" in doubted.why) == ("waiting", True)
        asked.put("executions", LOST.execution)
