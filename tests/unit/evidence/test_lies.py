"""Bundles that verify by every signature and lie: rebuilt by somebody who holds the key that writes chains."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from hyops.control.decision import asked_inputs, operator_decision
from hyops.errors import EvidenceError
from hyops.evidence import bundle as bundles
from hyops.evidence import chain, links
from hyops.evidence.assemble import Story
from hyops.evidence.chain import FILE, BadRecordError, ChainWriter, Fault
from hyops.evidence.contents import contents
from hyops.evidence.verify import verify_path
from hyops.model import canonical
from hyops.model.access import ResolvedAccess
from hyops.model.approval import Approval
from hyops.model.asking import AskedProof, statement_of
from hyops.model.dispatch import ApprovalDemand
from hyops.model.dsse import sign_record
from hyops.model.execution import ApprovalSummary
from hyops.model.observed import Asked, DecisionInputs
from hyops.model.vocabulary import DecisionType, Occasion, Outcome, ReceiptClass
from hyops.ports.signer import ApproverSignature
from hyops.testing import evidence as seeds
from hyops.testing.clock import EPOCH

Write = Callable[..., Path]
SIGNER = seeds.STAGES["execution"]
BOB = "bob@example.org"


@dataclass
class Said:
    """One entry that can be forged."""

    kind: str
    at: datetime
    body: dict[str, Any]
    name: str
    digest: str


Forge = Callable[[list[Said]], list[Said]]


def rebuilt(bundle: Path, forge: Forge) -> Path:
    """The bundle with other entries, in a chain that is sound and signed by the key that writes chains."""
    links = chain.read((bundle / FILE).read_bytes(), seeds.VERIFIER)
    said = [
        Said(li.entry.kind, li.entry.at, dict(li.entry.content), li.name, li.subjects[li.name]) for li in links[:-1]
    ]
    sealed_at = links[-1].entry.at
    (bundle / FILE).unlink()
    writer = ChainWriter(bundle / FILE, SIGNER)
    for one in forge(said):
        writer.append(one.kind, one.at, one.body, {one.name: one.digest})
    writer.seal(sealed_at)
    writer.close()
    return bundle


def named(path: Path, approvals: seeds.SeedApprovals = seeds.APPROVALS) -> BadRecordError:
    """The refusal of a bundle that must not verify."""
    with pytest.raises(BadRecordError) as caught:
        verify_path(path, seeds.VERIFIER, approvals)
    return caught.value


def without(*kinds: str) -> Forge:
    """Leave out what may not be known."""
    return lambda said: [one for one in said if one.kind not in kinds]


def changed(kind: str, **changes: Any) -> Forge:
    """Say something else, with the digest that fits."""

    def forge(said: list[Said]) -> list[Said]:
        for one in said:
            if one.kind == kind:
                one.body = {key: value for key, value in {**one.body, **changes}.items() if value is not None}
                one.digest = canonical.digest(one.body)
        return said

    return forge


def index_of(said: list[Said], kind: str) -> int:
    """Where the first entry of a kind stands."""
    return next(number for number, one in enumerate(said) if one.kind == kind)


def test_a_bundle_that_is_rebuilt_as_it_was_verifies(bundle: Path) -> None:
    """The control run: what the forgeries below change is what they are refused for."""
    assert verify_path(rebuilt(bundle, lambda said: said), seeds.VERIFIER, seeds.APPROVALS).records > 0


@pytest.mark.req("EVD-1", "EVD-2", "INV-7")
@pytest.mark.fault(31)
@pytest.mark.parametrize(
    "kinds",
    [
        ("run-result", "step", "journal", "fence-receipt", "outcome"),
        ("run-result", "step", "journal", "fence-receipt"),
        ("outcome", "actuals"),
        ("outcome",),
        ("actuals",),
        ("decision", "inputs", "actuals"),
        ("decision",),
        ("inputs",),
        ("plan",),
        ("request",),
        ("execution",),
        ("attempt",),
        ("execution", "attempt"),
        ("loss", "actuals"),
        ("loss",),
        ("step",),
        ("fence-receipt",),
    ],
)
def test_a_record_of_a_run_that_is_left_out_is_named(bundle: Path, kinds: tuple[str, ...]) -> None:
    """A run is told with all that led to it and all that came of it, or the bundle does not hold."""
    bad = named(rebuilt(bundle, without(*kinds)))

    assert bad.fault in {Fault.MISSING, Fault.CONTRADICTION}


@pytest.mark.req("EVD-1", "EVD-2")
@pytest.mark.parametrize("kinds", [("actuals",), ("request",)])
def test_a_request_that_never_ran_is_told_whole_too(story: Story, write: Write, kinds: tuple[str, ...]) -> None:
    """Also a bundle in which nothing ran says what was asked, and what was achieved."""
    bare = write(Story(request=story.request, decision=story.decision, plan=story.plan))

    assert named(rebuilt(bare, without(*kinds))).fault is Fault.MISSING


@pytest.mark.req("EVD-1", "EVD-2")
@pytest.mark.fault(25, 31)
@pytest.mark.parametrize(
    "lie",
    [{"rpa_s": 0.0}, {"source": "a guess"}, {"in_doubt": 0}, {"client_gap_s": 0.1}, {"surviving": 18342, "lost": 0}],
)
def test_a_loss_that_the_runner_did_not_count_is_named(bundle: Path, lie: dict[str, Any]) -> None:
    """All of the loss is what the run counted and signed, not only its numbers of rows."""
    bad = named(rebuilt(bundle, changed("loss", **lie)))

    assert (bad.fault, bad.what.endswith(", loss")) == (Fault.CONTRADICTION, True)
    assert next(iter(sorted(lie))) in bad.why


@pytest.mark.req("EVD-1", "EVD-2")
def test_a_loss_of_a_run_that_counted_none_is_named(write: Write) -> None:
    """A count that no step made is nobody's."""
    switch, whole = seeds.failover(outcome=Outcome.FAILED), seeds.failover().run_return.result
    loss = next(step.outputs["loss"] for step in whole.steps if "loss" in step.outputs)

    def invent(said: list[Said]) -> list[Said]:
        place = index_of(said, "attachment")
        return [*said[:place], Said("loss", said[0].at, loss, "loss", canonical.digest(loss)), *said[place:]]

    bad = named(rebuilt(write(Story(**vars(switch))), invent))

    assert (bad.fault, bad.what.endswith(", loss")) == (Fault.ADDED, True)


@pytest.mark.req("EVD-1", "EVD-2")
@pytest.mark.fault(31)
@pytest.mark.parametrize(
    "lie", [{"objectives": {"rto_s": 99999.0, "rpo_s": 99999.0}}, {"objectives": {}}, {"rta_s": 0.5}, {"rpo": "missed"}]
)
def test_prettier_actuals_or_objectives_are_named(bundle: Path, lie: dict[str, Any]) -> None:
    """What was promised stands in the policy that the decision was computed from; what was achieved follows."""
    bad = named(rebuilt(bundle, changed("actuals", **lie)))

    assert (bad.fault, bad.what.endswith(", actuals")) == (Fault.CONTRADICTION, True)
    assert next(iter(lie)) in bad.why


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
@pytest.mark.parametrize("part", ["bundle", "service", "format", "digest", "name", "more"])
def test_a_bundle_that_opens_as_another_one_is_named(bundle: Path, part: str) -> None:
    """The first entry names this bundle, its service and its own digest."""

    def forge(said: list[Said]) -> list[Said]:
        if part == "digest":
            said[0].digest = "sha256:" + "0" * 64
        elif part == "name":
            said[0].name = "bundle/run-20250101T000000Z-00000000"
        else:
            said[0].body[part] = "other"
            said[0].digest = canonical.digest(said[0].body)
        return said

    bad = named(rebuilt(bundle, forge))

    assert (bad.fault, bad.line) == (Fault.CONTRADICTION, 1)


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
def test_an_end_before_its_beginning_is_named(bundle: Path) -> None:
    """The entries stand in the order in which they came about."""

    def forge(said: list[Said]) -> list[Said]:
        outcome = said.pop(index_of(said, "outcome"))
        return [said[0], outcome, *said[1:]]

    bad = named(rebuilt(bundle, forge))

    assert (bad.fault, bad.line, "outcome/" in bad.what) == (Fault.REORDERED, 2, True)


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
@pytest.mark.parametrize("kind", ["approval", "fence-receipt", "step", "attachment", "journal"])
def test_an_entry_that_stands_twice_is_named(bundle: Path, kind: str) -> None:
    """Three copies of one approval are not three approvals."""

    def forge(said: list[Said]) -> list[Said]:
        place = index_of(said, kind)
        return [*said[: place + 1], *[said[place]] * 2, *said[place + 1 :]]

    if kind == "journal":  # a journal line is named by its number, so a copy of it has the wrong name already
        assert named(rebuilt(bundle, forge)).fault is Fault.ALTERED
    else:
        assert named(rebuilt(bundle, forge)).fault is Fault.REPEATED


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
@pytest.mark.parametrize("kind", ["", "opened", "request", "journal", "actuals"])
def test_other_times_than_the_records_give_are_named(bundle: Path, kind: str) -> None:
    """An entry's time is that of its record; the bundle was not written before what is in it."""

    def forge(said: list[Said]) -> list[Said]:
        for one in said:
            one.at = datetime(2001, 1, 1, tzinfo=UTC) if kind in ("", one.kind) else one.at
        return said

    assert named(rebuilt(bundle, forge)).fault is Fault.CONTRADICTION


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize(("early_s", "holds"), [(290.0, True), (310.0, False)])
def test_a_stage_does_not_come_before_the_one_it_follows_from(
    story: Story, write: Write, early_s: float, holds: bool
) -> None:
    """A clock that was set back a little is no lie; an outcome from long before its attempt is one."""
    assert story.outcome is not None
    assert story.attempt is not None
    at = story.attempt.timestamp_utc - timedelta(seconds=early_s)
    early = sign_record(story.outcome.model_copy(update={"timestamp_utc": at}), SIGNER)
    path = write(replace(story, outcome=early))

    if holds:
        assert verify_path(path, seeds.VERIFIER, seeds.APPROVALS).records > 0
    else:
        assert "was made before attempt/" in named(path).why


def approved(story: Story, *approvals: Approval, **changes: Any) -> Story:
    """The story carried by other approvals; `changes` go into what the execution says of them."""
    assert story.execution is not None
    assert story.attempt is not None
    summary = ApprovalSummary(
        required=True,
        approval_ids=[one.approval_id for one in approvals],
        approved_by=[one.statement.approver for one in approvals],
        mode="signed",
    ).model_copy(update=changes)
    execution = sign_record(story.execution.model_copy(update={"approval": summary}), seeds.STAGES["approval"])
    attempt = seeds.attempt_of(execution, story.attempt.timestamp_utc)
    unknown = {"attempt_id": attempt.attempt_id, "run_id": attempt.run_id, "outcome": Outcome.UNKNOWN, "result": {}}
    unknown |= {"journal_head": None, "generation_after": None, "primary_after": None}
    assert story.outcome is not None
    outcome = sign_record(story.outcome.model_copy(update=unknown), SIGNER)
    return replace(story, approvals=approvals, execution=execution, attempt=attempt, outcome=outcome, run_return=None)


def another(approval: Approval, number: int, **changes: Any) -> Approval:
    """A second approval, signed."""
    statement = approval.statement.model_copy(update=changes)
    signature = seeds.SeedApprovals.sign(statement.approver, statement.signed_bytes())
    return Approval(approval_id=f"approval-{number}", statement=statement, ssh_signature=signature)


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.parametrize(
    ("changes", "fault", "why"),
    [
        ({}, None, ""),
        ({"approval_ids": [], "approved_by": []}, Fault.ADDED, "does not rest on it"),
        ({"approved_by": [BOB]}, Fault.CONTRADICTION, "does not name the approver"),
        ({"mode": "standing"}, Fault.CONTRADICTION, "not of the mode standing"),
        ({"mode": "break-glass"}, Fault.CONTRADICTION, "not of the mode break-glass"),
    ],
)
def test_an_execution_says_who_carried_it(
    story: Story, write: Write, changes: dict[str, Any], fault: Fault | None, why: str
) -> None:
    """The approvals in the bundle are those that the execution rests on, with their people and their mode."""
    path = write(approved(story, *story.approvals, **changes))

    if fault is None:
        assert verify_path(path, seeds.VERIFIER, seeds.APPROVALS).records > 0
    else:
        bad = named(path)
        assert (bad.fault, why in bad.why) == (fault, True)


@pytest.mark.req("APR-1", "APR-3")
def test_a_run_without_the_approval_that_was_required_is_named(story: Story, write: Write) -> None:
    """The request asked for an approval, and the execution names none."""
    bad = named(write(approved(story, mode="none")))

    assert (bad.fault, "approval was required" in bad.why) == (Fault.MISSING, True)


def planned(**changes: Any) -> Story:
    """A switch that a person asked for, as `hyops decision request` records it; `changes` go into its policy."""
    known = seeds.inputs()
    asked = Asked(
        decision_type=DecisionType.FAILOVER, occasion=Occasion.PLANNED, rationale="kernel upgrade", requested_by=BOB
    )
    policy = known.policy.model_copy(update=changes)
    return asked_for(asked_inputs(policy, known.mode, asked, known.at))


def asked_for(known: DecisionInputs, **changes: Any) -> Story:
    """What came of a decision with these inputs; `changes` are forged into the decision."""
    decision = operator_decision(known).model_copy(update=changes)
    switch = seeds.after(sign_record(decision, seeds.STAGES["decision"]), known)
    return Story(**{f.name: getattr(switch, f.name) for f in fields(switch)})


@pytest.mark.req("EVD-1", "EVD-2")
@pytest.mark.parametrize(
    ("rto_s", "rpo_s", "verdicts"),
    [(60.0, 1.0, ("met", "met")), (1.0, 0.001, ("missed", "missed")), (None, None, ("no-objective",) * 2)],
)
def test_a_planned_switch_is_judged_by_its_objectives(
    write: Write, rto_s: float | None, rpo_s: float | None, verdicts: tuple[str, str]
) -> None:
    """The request of a person records the policy, so recovery time and loss are held against what was promised."""
    verified = verify_path(write(planned(rto_s=rto_s, rpo_s=rpo_s)), seeds.VERIFIER, seeds.APPROVALS)

    actuals = verified.contents.placed["actuals"].record
    assert (actuals.rto, actuals.rpo) == verdicts
    assert (actuals.objectives.rto_s, actuals.measured_from, actuals.first_failed_at) == (rto_s, "attempt", None)
    assert not any("objectives" in remark for remark in verified.remarks)


@pytest.mark.req("EVD-2")
@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("dropped", "inputs that it was computed from are not"),
        ("milder", "from other inputs"),
        ("other-service", "of another service"),
        ("other-person", "who asked"),
        ("nobody", "who asked"),
    ],
)
def test_the_inputs_of_a_planned_switch_are_its_own(write: Write, case: str, why: str) -> None:
    """Dropped, with a milder objective, of another service, or as if another or nobody had asked: named."""
    story = planned(rto_s=1.0)
    known = story.inputs
    assert known is not None
    if case == "dropped":
        story = replace(story, inputs=None)
    elif case == "milder":
        softer = known.policy.model_copy(update={"rto_s": 3600.0})
        story = replace(story, inputs=known.model_copy(update={"policy": softer}))
    elif case == "other-service":
        foreign = known.policy.model_copy(update={"service": "mail"})
        story = asked_for(known.model_copy(update={"policy": foreign}), service="pg")
    else:
        story = asked_for(known, requested_by="carl" if case == "other-person" else None)

    assert why in named(write(story)).why


def asked_with_a_key(**changes: Any) -> DecisionInputs:
    """The inputs of a switch that Bob asked for and signed; `changes` go into the proof, or into what was asked."""
    known = seeds.inputs()
    asked = Asked(
        decision_type=DecisionType.FAILOVER, occasion=Occasion.PLANNED, rationale="kernel upgrade", requested_by=BOB
    )
    policy = known.policy
    data = statement_of(asked, service=policy.service, env=policy.env, signed_at=known.at).signed_bytes()
    proof = {"signed_at": known.at, "key_fingerprint": f"SHA256:{BOB}"}
    proof |= {"ssh_signature": seeds.SeedApprovals.sign(BOB, data)}
    made = AskedProof(**{**proof, **{key: value for key, value in changes.items() if key in proof}})
    rest = {key: value for key, value in changes.items() if key not in proof}
    return asked_inputs(policy, known.mode, asked.model_copy(update={"proof": made, **rest}), known.at)


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.fault(10)
def test_who_asked_is_verified_offline(write: Write) -> None:
    """With allowed signers; without them nobody can say who asked, and it is said."""
    path = write(asked_for(asked_with_a_key()))

    assert verify_path(path, seeds.VERIFIER, seeds.SeedApprovals(seeds.APPROVER, BOB)).records
    with pytest.raises(BadRecordError) as told:
        verify_path(path, seeds.VERIFIER, None)
    assert told.value.fault is Fault.UNCHECKED


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("changes", "forged", "why"),
    [
        ({"ssh_signature": "fake bob 00"}, {}, "who asked: the signature is not over these bytes"),
        ({"rationale": "another word"}, {}, "who asked: the signature is not over these bytes"),
        ({"requested_by": "carl"}, {}, "who asked: carl is not an allowed signer"),
        ({"key_fingerprint": "SHA256:other"}, {}, "asked, and not SHA256:other"),
        ({}, {"requester_key": None}, "whose key asked"),
        ({}, {"requester_key": "SHA256:other"}, "whose key asked"),
    ],
)
def test_whoever_did_not_ask_is_named(write: Write, changes: dict[str, Any], forged: dict[str, Any], why: str) -> None:
    """Other words, another person, another key, a key that is left out: the bundle is refused, with the reason."""
    path = write(asked_for(asked_with_a_key(**changes), **forged))
    with pytest.raises(BadRecordError) as told:
        verify_path(path, seeds.VERIFIER, seeds.SeedApprovals(seeds.APPROVER, BOB))

    assert why in told.value.why


class OneKey(seeds.SeedApprovals):
    """Everybody signs with the same key."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """As good as it is, by that key."""
        return replace(super().verify(principal, data, ssh_signature, at), key_fingerprint="SHA256:same")


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.fault(10)
def test_the_key_that_asked_does_not_approve_alone(write: Write) -> None:
    """Bob asked and another name approved, and it was one key."""
    path = write(asked_for(asked_with_a_key(key_fingerprint="SHA256:same")))
    with pytest.raises(BadRecordError) as told:
        verify_path(path, seeds.VERIFIER, OneKey(seeds.APPROVER, BOB))

    assert "cannot be the only approver" in told.value.why


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.fault(10)
def test_a_request_names_the_key_of_its_decision(write: Write) -> None:
    """A dispatcher that puts another key there is named."""
    story = asked_for(asked_with_a_key())
    request = story.request.model_copy(update={"requester_key": "SHA256:other", "signature": None})
    path = write(replace(story, request=sign_record(request, seeds.STAGES["dispatch"])))
    with pytest.raises(BadRecordError) as told:
        verify_path(path, seeds.VERIFIER, seeds.SeedApprovals(seeds.APPROVER, BOB))

    assert "another key of who asked" in told.value.why


@pytest.mark.req("EVD-1", "EVD-2")
def test_a_decision_without_inputs_has_no_objectives(story: Story, write: Write) -> None:
    """One that was written by hand, or asked for with an older hyops, judges no objective, and says why."""
    assert story.decision is not None
    assert story.execution is not None
    decision = sign_record(story.decision.model_copy(update={"inputs_digest": None}), seeds.STAGES["decision"])
    changes = {"source_decision_digest": decision.digest(), "source_decision_id": decision.decision_id}
    request = sign_record(story.request.model_copy(update=changes), seeds.STAGES["dispatch"])
    execution = story.execution.model_copy(update={"source_request_digest": request.digest()})
    said = another(story.approvals[0], 1, request_digest=request.digest())
    asked = replace(story, decision=decision, request=request, execution=execution, inputs=None)

    verified = verify_path(write(approved(asked, said)), seeds.VERIFIER, seeds.APPROVALS)

    assert verified.contents.placed["actuals"].record.rto == "no-objective"
    assert any("no policy with objectives" in remark for remark in verified.remarks)


@pytest.mark.req("APR-1", "EVD-2")
@pytest.mark.fault(10)
@pytest.mark.parametrize("second", [None, BOB])
def test_who_asked_does_not_approve_alone(story: Story, write: Write, second: str | None) -> None:
    """A requester's own yes carries nothing; with a second person's it does."""
    request = sign_record(story.request.model_copy(update={"requester": seeds.APPROVER}), seeds.STAGES["dispatch"])
    assert story.execution is not None
    execution = story.execution.model_copy(update={"source_request_digest": request.digest()})
    people = [seeds.APPROVER, *([second] if second else [])]
    said = [
        another(story.approvals[0], number, approver=who, request_digest=request.digest())
        for number, who in enumerate(people)
    ]
    path = write(approved(replace(story, request=request, execution=execution), *said))
    signers = seeds.SeedApprovals(seeds.APPROVER, BOB)

    if second:
        assert verify_path(path, seeds.VERIFIER, signers).records > 0
    else:
        bad = named(path, signers)
        assert (bad.fault, "cannot be the only approver" in bad.why) == (Fault.CONTRADICTION, True)


def counted(story: Story, asked: int | None, people: Sequence[str], **changes: Any) -> Story:
    """The story whose request demands so many approvals (None: an older one says nothing), carried by these people."""
    assert story.execution is not None
    demand = None if asked is None else ApprovalDemand(required=asked)
    request = sign_record(story.request.model_copy(update={"approvals": demand}), seeds.STAGES["dispatch"])
    execution = story.execution.model_copy(update={"source_request_digest": request.digest()})
    said = [
        another(story.approvals[0], number, approver=who, request_digest=request.digest())
        for number, who in enumerate(people)
    ]
    return approved(replace(story, request=request, execution=execution), *said, **changes)


@pytest.mark.req("APR-1", "APR-3", "EVD-2")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("asked", "people", "changes", "why"),
    [
        (1, [seeds.APPROVER], {"needed": 1}, None),
        (2, [seeds.APPROVER, BOB], {"needed": 2}, None),
        (2, [seeds.APPROVER], {"needed": 2}, "1 of 2 approvals"),
        (2, [seeds.APPROVER], {"needed": 1}, "1 of 2 approvals"),
        (2, [seeds.APPROVER, BOB], {"needed": 1}, "it took 1 approvals, and the request needs 2"),
        (2, [seeds.APPROVER, BOB], {}, None),
        (2, [seeds.APPROVER], {}, "1 of 2 approvals"),
        (2, [BOB, BOB], {"needed": 2}, "1 of 2 approvals"),
        (1, [seeds.APPROVER], {"needed": 3}, "1 of 3 approvals"),
        (None, [seeds.APPROVER], {}, None),
        (None, [seeds.APPROVER], {"needed": 2}, "1 of 2 approvals"),
    ],
)
def test_as_many_people_said_yes_as_it_took(
    story: Story, write: Write, asked: int | None, people: list[str], changes: dict[str, Any], why: str | None
) -> None:
    """The request's own number, or the larger one of the stage that counted: fewer people, or fewer said, is named."""
    path = write(counted(story, asked, people, **changes))
    signers = seeds.SeedApprovals(seeds.APPROVER, BOB)

    if why is None:
        remarks = verify_path(path, seeds.VERIFIER, signers).remarks
        assert any("does not say how many approvals" in remark for remark in remarks) is (asked is None)
    else:
        bad = named(path, signers)
        assert (bad.fault, why in bad.why) == (Fault.CONTRADICTION, True)


@pytest.mark.req("APR-1", "INV-4", "EVD-2")
@pytest.mark.parametrize("case", ["edited", "signed-anew", "dropped"])
def test_a_lowered_number_of_approvals_is_named(story: Story, write: Write, case: str) -> None:
    """Two were asked for and one came: the request is rewritten to need one, or to say nothing, also with its key."""
    one = counted(story, 2, [seeds.APPROVER])
    assert one.execution is not None
    lowered = one.request.model_copy(update={"approvals": None if case == "dropped" else ApprovalDemand(required=1)})
    if case != "edited":
        lowered = sign_record(lowered, seeds.STAGES["dispatch"])
        execution = one.execution.model_copy(update={"source_request_digest": lowered.digest()})
        one = approved(replace(one, execution=execution), *one.approvals)
    bad = named(write(replace(one, request=lowered)))

    assert (bad.fault, bad.what.split(", ")[1].split("/")[0]) == (
        (Fault.BAD_SIGNATURE, "request") if case == "edited" else (Fault.CONTRADICTION, "approval")
    )


@pytest.mark.req("APR-2", "APR-3", "EVD-2")
@pytest.mark.parametrize(("by", "holds"), [(["ada"], False), (["ada", "ada"], False), (["ada", "bob"], True)])
def test_markers_are_counted_too(story: Story, write: Write, by: list[str], holds: bool) -> None:
    """Unsigned markers prove nobody, but the execution must name as many people as the request asks for."""
    words = {"mode": "marker", "approval_ids": ["m"], "approved_by": by}
    path = write(counted(story, 2, [], **words))

    if holds:
        assert "approval mode: marker" in verify_path(path, seeds.VERIFIER, seeds.APPROVALS).remarks
    else:
        assert "of 2 people stand in markers" in named(path).why


def with_receipt(story: Story, **changes: Any) -> Story:
    """The story whose runner signed another receipt."""
    assert story.run_return is not None
    assert story.outcome is not None
    result = story.run_return.result
    issued = seeds.receipt(result.run_id, result.steps[0].ended_at).model_copy(update=changes)
    receipt = sign_record(issued, seeds.STAGES["runner:cloud-runner"])
    first = result.steps[0].model_copy(update={"outputs": {"receipt": receipt.body(), "generation_after": 8}})
    steps = [first, *result.steps[1:]]
    told = sign_record(result.model_copy(update={"steps": steps}), seeds.STAGES["runner:cloud-runner"])
    outcome = sign_record(story.outcome.model_copy(update={"result": told.body()}), SIGNER)
    return replace(story, run_return=replace(story.run_return, result=told), outcome=outcome)


@pytest.mark.req("INV-2", "EVD-2")
def test_a_receipt_for_another_target_is_named(story: Story, write: Write) -> None:
    """The fence was proved for one target, and another host was promoted."""
    bad = named(write(with_receipt(story, target="other-db")))

    assert (bad.fault, "another target" in bad.why) == (Fault.CONTRADICTION, True)


@pytest.mark.req("APR-4", "EVD-2")
@pytest.mark.parametrize("verdict", ["none", "unnamed"])
def test_a_break_glass_counts_for_its_own_request_only(story: Story, write: Write, verdict: str) -> None:
    """A receipt that rests on a break-glass needs one for this request, that the execution rests on."""
    broken = with_receipt(story, receipt_class=ReceiptClass.BREAK_GLASS)
    if verdict == "none":
        bad = named(write(broken))
        assert (bad.fault, "no signed break-glass" in bad.why) == (Fault.MISSING, True)
        return
    words = {"verdict": "break-glass", "accepted_loss": "1 s", "note": "fire", "approver": BOB}
    foreign = another(story.approvals[0], 1, **words, request_digest="sha256:" + "0" * 64, dispatch_id="dispatch-1")
    people = seeds.SeedApprovals(seeds.APPROVER, BOB, roles=frozenset({"approver", "break-glass"}))

    path = write(replace(broken, approvals=(*story.approvals, foreign)))
    bad = named(path, people)
    read = bundles.load(path)
    all_bad = list(links.contradictions(contents(chain.read(read.chain, seeds.VERIFIER), read.files)))

    assert (bad.fault, "does not rest on it" in bad.why) == (Fault.ADDED, True)
    assert any("no signed break-glass" in one.why for one in all_bad)


@pytest.mark.req("EVD-2")
@pytest.mark.fault(31)
@pytest.mark.parametrize("more", ["bytes", "tar", "zeros"])
def test_nothing_follows_the_end_of_a_tar(bundle: Path, tmp_path: Path, more: str) -> None:
    """A second tar behind the first would show another story to another reader; padding is no story."""
    path = tmp_path / "one.tar"
    bundles.pack(bundle, path)
    data = path.read_bytes()
    path.write_bytes(data + {"bytes": b"x", "tar": data, "zeros": bytes(10240)}[more])

    if more == "zeros":
        assert verify_path(path, seeds.VERIFIER, seeds.APPROVALS).records > 0
    else:
        with pytest.raises(EvidenceError, match="follows the end"):
            bundles.load(path)


def tar_of(path: Path, *members: tuple[str, bytes]) -> Path:
    """A tar with these members, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


@pytest.mark.req("EVD-2", "RUN-6")
def test_a_tar_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    """The second member would hide the first one."""
    with pytest.raises(EvidenceError, match=r"'evidence\.jsonl' is no part of a bundle"):
        bundles.load(tar_of(tmp_path / "twice.tar", (FILE, b"one\n"), (FILE, b"two\n")))


@pytest.mark.req("RUN-6")
@pytest.mark.parametrize("form", ["tar", "directory"])
@pytest.mark.parametrize("limit", ["COUNT_MAX", "BYTES_MAX"])
def test_a_bundle_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, limit: str) -> None:
    """Neither many files nor large ones are read without end; up to the limit they are."""
    members = [(FILE, b"x" * 10), *((f"files/{number}", b"x" * 10) for number in range(3))]
    path = tmp_path / "bundle"
    if form == "tar":
        tar_of(path, *members)
    else:
        (path / "files").mkdir(parents=True)
        for name, data in members:
            (path / name).write_bytes(data)
    enough = {"COUNT_MAX": 4, "BYTES_MAX": 40}[limit]

    monkeypatch.setattr(bundles, limit, enough)
    assert len(bundles.load(path).files) == 3
    monkeypatch.setattr(bundles, limit, enough - 1)
    with pytest.raises(EvidenceError, match="more than"):
        bundles.load(path)


@pytest.mark.req("RUN-6")
def test_a_tar_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A file with a hole of a gigabyte costs nothing to make, and is refused by its size."""
    path = tar_of(tmp_path / "large.tar", (FILE, b"x"))
    os.truncate(path, bundles.BYTES_MAX + bundles.SLACK_BYTES_MAX + 1)

    with pytest.raises(EvidenceError, match="not a regular file of at most"):
        bundles.load(path)


@pytest.mark.req("EVD-2", "UX-1")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes to it, and the verifier says so at once."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(EvidenceError, match="not a regular file"):
        bundles.load(tmp_path / "pipe")


@pytest.mark.req("EVD-1", "GATE-3", "INV-6")
@pytest.mark.parametrize("plane", ["runner-local", "public-ephemeral"])
def test_a_run_that_reached_its_targets_otherwise_than_approved_is_named(
    story: Story, write: Write, plane: str
) -> None:
    """The runner signs how it reached them; another plane than the approved one is a contradiction."""
    assert story.run_return is not None
    access = ResolvedAccess.of(
        {"schema": "hyops/access/v1", "plane": plane, "runner_ref": "cloud-runner", "resolved_at": EPOCH.isoformat()}
    )
    result = sign_record(
        story.run_return.result.model_copy(update={"access": access}), seeds.STAGES["runner:cloud-runner"]
    )
    assert story.outcome is not None
    outcome = sign_record(story.outcome.model_copy(update={"result": result.body()}), SIGNER)
    told = replace(story, run_return=replace(story.run_return, result=result), outcome=outcome)

    path = write(told)

    if plane == "runner-local":
        assert verify_path(path, seeds.VERIFIER, seeds.APPROVALS).records > 0
    else:
        bad = named(path)
        assert (bad.fault, "by public-ephemeral, which was not approved" in bad.why) == (Fault.CONTRADICTION, True)
