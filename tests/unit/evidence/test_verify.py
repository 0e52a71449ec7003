"""Records must be signed by whom they should be and tell one story; the first that does not is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.errors import EvidenceError
from hyops.evidence import bundle as bundles
from hyops.evidence.assemble import Story
from hyops.evidence.chain import BadRecordError, Fault
from hyops.evidence.verify import Verified, verify, verify_path
from hyops.model import canonical
from hyops.model.dsse import sign_record
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome
from hyops.testing import evidence as seeds

Write = Callable[..., Path]


def check(path: Path) -> Verified:
    """Verify with the test's keys."""
    return verify_path(path, seeds.VERIFIER, seeds.APPROVALS)


def refused(path: Path) -> BadRecordError:
    """The refusal of a bundle that must not verify."""
    with pytest.raises(BadRecordError) as caught:
        check(path)
    return caught.value


def with_result(story: Story, role: str = "runner:cloud-runner", **changes: Any) -> Story:
    """The story with another result, which the runner's key signs."""
    assert story.run_return is not None
    result = sign_record(story.run_return.result.model_copy(update=changes), seeds.STAGES[role])
    return replace(story, run_return=replace(story.run_return, result=result))


def result_of(story: Story) -> RunResult:
    """The runner's result."""
    assert story.run_return is not None
    return story.run_return.result


@pytest.mark.req("EVD-1", "EVD-2")
def test_a_switch_verifies_with_public_keys_alone(bundle: Path) -> None:
    """Bundle, public keys and allowed signers are enough, and everything that EVD-1 asks for is in it."""
    verified = check(bundle)

    kinds = {link.entry.kind for link in verified.contents.links}
    assert kinds >= {"decision", "plan", "request", "approval", "execution", "attempt", "journal", "fence-receipt"}
    assert kinds >= {"step", "run-result", "outcome", "loss", "actuals"}
    assert verified.records == len(verified.contents.links)


@pytest.mark.req("EVD-2")
def test_a_tar_says_the_same_as_the_directory(bundle: Path, tmp_path: Path) -> None:
    """One file is as good as a directory, and has the same bytes each time it is made."""
    bundles.pack(bundle, tmp_path / "one.tar")
    bundles.pack(bundle, tmp_path / "two.tar")

    assert check(tmp_path / "one.tar").head == check(bundle).head
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_a_forged_success_is_named_although_the_chain_was_written_anew(write: Write) -> None:
    """Whoever holds the control host's key can write a new chain, but not what the runner signed."""
    switch = seeds.failover(outcome=Outcome.FAILED)
    forged = sign_record(switch.outcome.model_copy(update={"outcome": Outcome.SUCCEEDED}), seeds.STAGES["execution"])
    story = Story(
        decision=switch.decision,
        inputs=switch.inputs,
        request=switch.request,
        plan=switch.plan,
        approvals=switch.approvals,
        execution=switch.execution,
        attempt=switch.attempt,
        run_return=switch.run_return,
        outcome=forged,
    )

    bad = refused(write(story))

    assert (bad.fault, "outcome/" in bad.what) == (Fault.CONTRADICTION, True)
    assert "it says succeeded, the runner signed failed" in bad.why


@pytest.mark.req("EVD-2", "INV-8")
@pytest.mark.fault(18)
def test_a_result_of_success_with_a_failed_step_is_named(story: Story, write: Write) -> None:
    """A runner that signs success over failed steps contradicts itself."""
    steps = list(result_of(story).steps)
    steps[3] = steps[3].model_copy(update={"outcome": Outcome.FAILED})

    bad = refused(write(with_result(story, steps=steps)))

    assert bad.fault is Fault.CONTRADICTION
    assert "steps did not: cutover" in bad.why


@pytest.mark.req("EVD-2", "FEN-1")
@pytest.mark.fault(31)
def test_an_edited_receipt_is_named(story: Story, write: Write) -> None:
    """A receipt of a weaker class cannot be made a stronger one afterwards, even by the runner's result."""
    steps = list(result_of(story).steps)
    receipt = {**steps[0].outputs["receipt"], "receipt_class": "observed"}
    steps[0] = steps[0].model_copy(update={"outputs": {**steps[0].outputs, "receipt": receipt}})

    bad = refused(write(with_result(story, steps=steps)))

    assert (bad.fault, "fence-receipt" in bad.what) == (Fault.BAD_SIGNATURE, True)


@pytest.mark.req("INV-2")
def test_a_raised_generation_without_a_receipt_is_named(story: Story, write: Write) -> None:
    """A run that raised the generation hands back what proved the fence, or its evidence does not hold."""
    steps = list(result_of(story).steps)
    steps[0] = steps[0].model_copy(update={"outputs": {}})

    bad = refused(write(with_result(story, steps=steps)))

    assert (bad.fault, "INV-2" in bad.why) == (Fault.MISSING, True)


@pytest.mark.req("EVD-2", "INV-2", "GEN-1")
@pytest.mark.parametrize("promoted", [False, True])
def test_a_run_that_only_found_a_raised_generation_claims_no_promotion(
    story: Story, write: Write, promoted: bool
) -> None:
    """It failed in its fence step and tells the new generation: that verifies, until it also names a new primary."""
    assert story.run_return is not None
    assert story.outcome is not None
    first = result_of(story).steps[0].model_copy(update={"outcome": Outcome.FAILED, "outputs": {"generation_after": 8}})
    journal = seeds.journal_of(story.outcome.run_id, result_of(story).started_at, [first])
    changes: dict[str, Any] = {"outcome": Outcome.FAILED, "exit_code": 15, "reason": "stale", "endpoints": {}}
    changes |= {"primary_after": "cloud-db" if promoted else None, "phases_s": {}}
    changes["journal_head"] = canonical.digest_bytes(journal.split(b"\n")[-2])
    late = with_result(story, steps=[first], journal_records=journal.count(b"\n"), **changes)
    told = story.outcome.model_copy(update=changes | {"result": result_of(late).body()})
    assert late.run_return is not None
    late = replace(
        late,
        run_return=replace(late.run_return, journal=journal),
        outcome=sign_record(told, seeds.STAGES["execution"]),
    )

    if promoted:
        assert "without a fence receipt" in refused(write(late)).why
    else:
        assert check(write(late)).records > 0


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize("role", ["execution", "decision", "approval"])
def test_a_result_signed_by_another_role_is_named(story: Story, write: Write, role: str) -> None:
    """A trusted key speaks only for its role: the control host cannot sign what a runner did."""
    bad = refused(write(with_result(story, role=role)))

    assert (bad.fault, "run-result" in bad.what) == (Fault.WRONG_ROLE, True)


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize("role", ["decision", "dispatch", "approval", "runner:cloud-runner"])
def test_a_chain_by_a_key_without_that_right_is_refused(story: Story, write: Write, role: str) -> None:
    """Only the stage that closes attempts writes evidence."""
    bad = refused(write(story, role=role))

    assert (bad.fault, bad.line) == (Fault.WRONG_ROLE, 1)


@pytest.mark.req("EVD-2")
def test_an_execution_signed_by_the_dispatcher_is_named(story: Story, write: Write) -> None:
    """The stage that asks cannot also say that it was approved."""
    assert story.execution is not None
    forged = sign_record(story.execution, seeds.STAGES["dispatch"])

    bad = refused(write(replace(story, execution=forged)))

    assert (bad.fault, "execution" in bad.what) == (Fault.WRONG_ROLE, True)


@pytest.mark.req("INV-4", "EVD-2")
@pytest.mark.fault(11)
def test_one_changed_word_of_the_plan_is_named(story: Story, write: Write) -> None:
    """The plan in the bundle is the one that was requested and approved, byte for byte."""
    assert story.plan is not None
    other = story.plan.model_copy(update={"inputs": {"source": "cloud-db", "target": "onprem-db"}})

    bad = refused(write(replace(story, plan=other)))

    assert bad.fault is Fault.CONTRADICTION
    assert "plan" in bad.why


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"request_digest": "sha256:" + "0" * 64}, Fault.CONTRADICTION),
        ({"plan_digest": "sha256:" + "0" * 64}, Fault.CONTRADICTION),
        ({"verdict": "reject"}, Fault.CONTRADICTION),
        ({"expires_at": seeds.START + timedelta(seconds=1.353)}, Fault.CONTRADICTION),
        ({"signed_at": seeds.START + timedelta(minutes=20)}, Fault.CONTRADICTION),
        ({"approver": "mallory@example.org"}, Fault.BAD_SIGNATURE),
    ],
)
def test_an_approval_that_does_not_cover_the_run_is_named(
    story: Story, write: Write, changes: dict[str, Any], fault: Fault
) -> None:
    """Signed for another request or plan, rejected, expired, too late, or by somebody unlisted: named."""
    approval = story.approvals[0]
    statement = approval.statement.model_copy(update=changes)
    signature = seeds.SeedApprovals.sign(statement.approver, statement.signed_bytes())
    other = approval.model_copy(update={"statement": statement, "ssh_signature": signature})

    bad = refused(write(replace(story, approvals=(other,))))

    assert (bad.fault, "approval" in bad.what) == (fault, True)


@pytest.mark.req("APR-1", "EVD-2")
def test_an_edited_approval_is_named(story: Story, write: Write) -> None:
    """A statement that was changed after it was signed is refused."""
    approval = story.approvals[0]
    edited = approval.model_copy(update={"statement": approval.statement.model_copy(update={"note": "anything"})})

    bad = refused(write(replace(story, approvals=(edited,))))

    assert (bad.fault, "approval" in bad.what) == (Fault.BAD_SIGNATURE, True)


@pytest.mark.req("APR-3", "EVD-2")
def test_an_approval_that_nobody_can_check_is_not_assumed(bundle: Path) -> None:
    """Without allowed signers the bundle stays unproven instead of half proven."""
    with pytest.raises(BadRecordError, match="allowed-signers") as caught:
        verify(bundles.load(bundle), seeds.VERIFIER, None)

    assert caught.value.fault is Fault.UNCHECKED
    assert "--allowed-signers" in caught.value.hint


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.fault(10)
def test_a_known_person_without_the_role_is_no_approver(bundle: Path) -> None:
    """A good signature by somebody who may not approve proves nothing."""
    bystander = seeds.SeedApprovals(seeds.APPROVER, roles=frozenset({"break-glass"}))

    with pytest.raises(BadRecordError, match="has not the role approver"):
        verify(bundles.load(bundle), seeds.VERIFIER, bystander)


@pytest.mark.req("EVD-2", "DNS-3")
def test_success_without_a_step_of_the_plan_is_named(story: Story, write: Write) -> None:
    """A runner that leaves out the verification of traffic cannot sign success."""
    steps = [step for step in result_of(story).steps if step.step_id != "verify-traffic"]

    bad = refused(write(with_result(story, steps=steps)))

    assert "steps did not: verify-traffic" in bad.why


@pytest.mark.req("APR-1")
def test_a_missing_approval_is_named(story: Story, write: Write) -> None:
    """An execution that names an approval which is not there is the bad record."""
    bad = refused(write(replace(story, approvals=())))

    assert (bad.fault, "execution" in bad.what) == (Fault.MISSING, True)


@pytest.mark.req("EVD-2", "BP-4")
@pytest.mark.fault(31)
def test_a_journal_with_a_line_missing_is_named(story: Story, write: Write) -> None:
    """The runner signed the head of its journal: a journal with another content is not that one."""
    assert story.run_return is not None
    raw = story.run_return.journal.splitlines(keepends=True)
    for number in range(len(raw)):
        shorter = b"".join(raw[:number] + raw[number + 1 :])

        bad = refused(write(replace(story, run_return=replace(story.run_return, journal=shorter))))

        assert (bad.fault, "run-result" in bad.what) == (Fault.CONTRADICTION, True)


@pytest.mark.req("EVD-2")
def test_a_journal_that_is_no_text_is_carried_as_it_is(story: Story, write: Write) -> None:
    """A hostile runner's bytes become evidence too, and are refused when they are verified."""
    assert story.run_return is not None
    hostile = story.run_return.journal + b"\xff\xfe\n"

    bad = refused(write(replace(story, run_return=replace(story.run_return, journal=hostile))))

    assert "its journal is damaged" in bad.why


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_attached_files_are_covered(bundle: Path) -> None:
    """A changed, missing or added file is named with the record that speaks of it."""
    log = bundle / "files" / "runner.log"
    content = log.read_bytes()

    log.write_bytes(content + b"x")
    assert refused(bundle).fault is Fault.ALTERED
    log.unlink()
    assert refused(bundle).fault is Fault.MISSING
    log.write_bytes(content)
    (bundle / "files" / "extra.log").write_bytes(b"x")
    assert refused(bundle).fault is Fault.ADDED


@pytest.mark.req("EVD-2", "RUN-6")
@pytest.mark.fault(18)
def test_what_is_no_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Links, foreign files, empty folders and things that are not there: one clear error, nothing unpacked."""
    (bundle / "files" / "link").symlink_to("/etc/passwd")
    with pytest.raises(EvidenceError, match="no part of a bundle"):
        check(bundle)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvidenceError, match=r"no evidence\.jsonl"):
        check(tmp_path / "empty")
    with pytest.raises(EvidenceError, match="No such file"):
        check(tmp_path / "absent")
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(EvidenceError, match="not a bundle"):
        check(tmp_path / "text.tar")


@pytest.mark.req("INV-7")
def test_a_refused_request_is_closed_evidence_too(story: Story, write: Write) -> None:
    """A request that nobody approved has a sealed bundle that says that nothing ran."""
    bare = Story(request=story.request, decision=story.decision, plan=story.plan)

    verified = check(write(bare))

    assert "nothing ran, or the runner's result is not known" in verified.remarks


@pytest.mark.req("INV-7")
def test_an_attempt_whose_runner_was_lost_is_closed_as_unknown(story: Story, write: Write) -> None:
    """Without a runner's result the outcome may be unknown, and then verifies as that; success never does."""
    assert story.outcome is not None
    unknown = story.outcome.model_copy(update={"outcome": Outcome.UNKNOWN, "result": {}, "journal_head": None})
    lost = replace(story, run_return=None, outcome=sign_record(unknown, seeds.STAGES["execution"]))
    success = replace(story, run_return=None)

    assert check(write(lost)).contents.placed["outcome"].record.outcome is Outcome.UNKNOWN
    assert refused(write(success)).fault is Fault.MISSING


@pytest.mark.req("EVD-2")
def test_a_signed_result_is_not_evidence_of_another_run(story: Story, write: Write) -> None:
    """A result replayed from an earlier run does not fit this attempt."""
    bad = refused(write(with_result(story, run_id="run-20250101T000000Z-00000000")))

    assert bad.fault is Fault.CONTRADICTION


@pytest.mark.req("EVD-2")
def test_the_head_pins_a_bundle_from_outside(story: Story, bundle: Path, write: Write) -> None:
    """The digest that verification returns is another one as soon as anything in the bundle is."""
    other = write(replace(story, attachments={"inputs.json": canonical.encode({"n": 1})}))

    assert check(bundle).head != check(other).head


@pytest.mark.req("RUN-6", "INV-7", "VOC-5")
@pytest.mark.fault(18)
def test_a_return_that_the_executor_refused_is_kept_and_proves_nothing(story: Story, write: Write) -> None:
    """A forged result closes the attempt as unknown; it is attached as it came, and the bundle still holds."""
    assert story.outcome is not None
    unknown = story.outcome.model_copy(
        update={"outcome": Outcome.UNKNOWN, "result": {}, "journal_head": None, "generation_after": None}
    )
    forged = with_result(story, role="decision")

    verified = check(write(replace(forged, outcome=sign_record(unknown, seeds.STAGES["execution"]))))

    assert "run-result" not in verified.contents.placed
    assert b"succeeded" in verified.contents.files["returned-result.json"]


@pytest.mark.req("DEC-5", "EVD-2")
def test_inputs_of_another_decision_are_named(story: Story, write: Write) -> None:
    """The inputs in the bundle are those that the decision names by digest."""
    bad = refused(write(replace(story, inputs=seeds.inputs(now_s=99.0))))

    assert (bad.fault, "inputs" in bad.what) == (Fault.CONTRADICTION, True)
