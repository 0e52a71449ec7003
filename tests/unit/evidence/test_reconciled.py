"""Evidence of an end that nobody proved: its own bundle, and the person's word in it is checked like an approval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.control.reconcile import closed_by_word, unknown_now
from hyops.evidence.assemble import Story
from hyops.evidence.chain import BadRecordError
from hyops.evidence.verify import verify_path
from hyops.model.dsse import sign_record
from hyops.model.execution import ApprovalSummary, AttemptOutcome
from hyops.model.reconciliation import Reconciliation, ReconciliationStatement
from hyops.ports.signer import ApproverSignature
from hyops.testing import evidence as seeds
from simulation.world import policy

NOW = seeds.START + timedelta(minutes=5)
WHO = "carl@example.org"


def reconciled(story: Story, **changes: Any) -> AttemptOutcome:
    """The outcome that Ada's word gives the attempt of the story; `changes` go into the record afterwards."""
    attempt = story.attempt
    assert attempt is not None
    unknown = unknown_now(attempt, NOW)
    statement = ReconciliationStatement(
        operator=WHO,
        signed_at=NOW,
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        service=attempt.service,
        outcome_digest=unknown.digest(),
        outcome="failed",
        looked_at=["both databases"],
        reason="the runner burned",
        runner_said="unreachable: no route",
    )
    given = Reconciliation(statement=statement, ssh_signature=seeds.SeedApprovals.sign(WHO, statement.signed_bytes()))
    by = ApproverSignature(WHO, frozenset({"approver"}), "SHA256:x")
    made = closed_by_word(attempt, unknown, given, by, policy(service=attempt.service), NOW)
    return sign_record(made.model_copy(update=changes), seeds.STAGES["execution"])


def told(story: Story, outcome: AttemptOutcome) -> Story:
    """The story with that end, and nothing from the runner."""
    return dataclasses.replace(story, outcome=outcome, run_return=None)


def marked(story: Story) -> Story:
    """The story, approved by a marker file: no signature but the one over the word needs the signers."""
    assert story.execution is not None
    assert story.attempt is not None
    by = ApprovalSummary(required=True, approval_ids=["approval-1"], approved_by=["ada"], mode="marker")
    unsigned = story.execution.model_copy(update={"approval": by})
    execution = sign_record(unsigned, seeds.STAGES["approval"])
    attempt = seeds.attempt_of(execution, story.attempt.timestamp_utc)
    return dataclasses.replace(story, approvals=(), execution=execution, attempt=attempt)


@pytest.mark.req("EVD-1", "VOC-5")
def test_a_word_is_evidence_beside_the_unknown_end(story: Story, write: Callable[..., Path]) -> None:
    """The bundle has its own name, verifies, and says that the end is not proved and by whose word it is closed."""
    outcome = reconciled(story)
    path = write(told(story, outcome))
    verified = verify_path(path, seeds.VERIFIER, seeds.SeedApprovals(seeds.APPROVER, WHO))

    assert path.name == f"{outcome.run_id}-reconciled"
    assert any("not proved" in remark and WHO in remark for remark in verified.remarks)


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize("case", ["said otherwise", "edited", "no role", "unlisted", "no signers"])
def test_a_word_that_was_not_given_is_named(story: Story, write: Callable[..., Path], case: str) -> None:
    """The outcome says more than the person signed, the signature is over other bytes, or the person may not."""
    story = marked(story)
    outcome = reconciled(story)
    signers: seeds.SeedApprovals | None = seeds.SeedApprovals(seeds.APPROVER, WHO)
    if case == "said otherwise":
        outcome = reconciled(story, generation_after=8, primary_after="cloud-db")
    elif case == "edited":
        given = outcome.reconciliation
        assert given is not None
        statement = given.statement.model_copy(update={"reason": "all is well"})
        outcome = reconciled(story, reconciliation=given.model_copy(update={"statement": statement}))
    elif case == "no role":
        signers = seeds.SeedApprovals(seeds.APPROVER, WHO, roles=frozenset({"break-glass"}))
    elif case == "unlisted":
        signers = seeds.SeedApprovals(seeds.APPROVER)
    else:
        signers = None
    path = write(told(story, outcome))

    with pytest.raises(BadRecordError, match=r"outcome/.*(person signed|not over these|may not close|listed|allowed)"):
        verify_path(path, seeds.VERIFIER, signers)
