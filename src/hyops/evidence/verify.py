"""Verify a bundle offline: the chain, every signature and its role, and that the records agree (EVD-2, fault 31).

Needed are the bundle, the trusted public keys and the allowed signers; nothing is fetched. What cannot be checked is
not assumed: an approval without allowed signers to check it against makes the bundle unproven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyops.errors import NotApprovedError, RecordError
from hyops.evidence import asked, chain, derive, links
from hyops.evidence import bundle as bundles
from hyops.evidence.chain import CHAIN_ROLES, BadRecordError, Fault
from hyops.evidence.contents import Contents, Placed, contents
from hyops.model import dsse
from hyops.model.approval import Approval
from hyops.model.base import Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.fence import FenceReceipt
from hyops.model.quorum import Absent, Yes, carriers, marked
from hyops.model.run import RunResult
from hyops.ports.signer import ApprovalVerifier, Verifier

STAGE_ROLES: dict[type[Record], str] = {
    Decision: "decision",
    DispatchRequest: "dispatch",
    Execution: "approval",
    Attempt: "execution",
    AttemptOutcome: "execution",
}


@dataclass(frozen=True)
class Verified:
    """A bundle that holds: what it says, and the digest that pins it from outside."""

    contents: Contents
    head: str
    records: int
    remarks: Sequence[str]
    """What holds only as far as policy allows, such as an unsigned decision or a standing approval."""


def verify(bundle: bundles.Bundle, verifier: Verifier, approvals: ApprovalVerifier | None) -> Verified:
    """Check everything.

    Raises:
        BadRecordError: names the first bad record, what is wrong with it and why.
    """
    read = chain.read(bundle.chain, verifier)
    if not verifier.roles(read[0].keyid) & CHAIN_ROLES:
        raise BadRecordError(Fault.WRONG_ROLE, 1, "record 0, opened", "its key may not write evidence")
    found = contents(read, bundle.files)
    faults: list[BadRecordError] = []
    faults += _signatures(found, verifier)
    faults += _approvals(found, approvals)
    faults += asked.unproved(found, approvals)
    faults += _reconciliation(found, approvals)
    faults += links.contradictions(found)
    faults = faults or list(derive.departure(found))
    if faults:
        raise min(faults, key=lambda fault: fault.line)
    return Verified(found, read[-1].digest, len(read), list(links.remarks(found)))


def verify_path(path: Path, verifier: Verifier, approvals: ApprovalVerifier | None) -> Verified:
    """The same for a bundle directory or tar.

    Raises:
        EvidenceError: it is no bundle. BadRecordError: as `verify`.
    """
    return verify(bundles.load(path), verifier, approvals)


def _signatures(found: Contents, verifier: Verifier) -> list[BadRecordError]:
    faults: list[BadRecordError] = []
    request = found.get(DispatchRequest)
    for kind, role in STAGE_ROLES.items():
        placed = found.get(kind)
        if placed is None:
            continue
        unsigned = placed.record.signature is None
        if isinstance(placed.record, Execution) and placed.record.takeover is not None:
            role = f"runner:{placed.record.runner_ref}"  # no approval stage was left: the runner counted them itself
        if kind is Decision and unsigned and request is not None and not request.record.source_decision_signed:
            continue  # a hand-written decision: the request says so, and approvers saw it (DSP-3)
        faults += _signature(placed, role, verifier)
    execution = found.get(Execution)
    runner = f"runner:{execution.record.runner_ref}" if execution else "runner:(no execution)"
    result = found.get(RunResult)
    if result is not None:
        faults += _signature(result, runner, verifier)
    for receipt in found.all(FenceReceipt):
        faults += _signature(receipt, runner, verifier)
    return faults


def _signature(
    placed: Placed[Record] | Placed[RunResult] | Placed[FenceReceipt], role: str, verifier: Verifier
) -> list[BadRecordError]:
    try:
        keyid = dsse.verify_record(placed.record, verifier)
    except RecordError as exc:
        return [placed.bad(Fault.BAD_SIGNATURE, exc.message)]
    if role not in verifier.roles(keyid):
        return [placed.bad(Fault.WRONG_ROLE, f"signed by {keyid}, which may not speak as {role}")]
    return []


def _approvals(found: Contents, verifier: ApprovalVerifier | None) -> list[BadRecordError]:
    faults: list[BadRecordError] = []
    said: list[tuple[Yes, str | None]] = []
    absent: dict[str, Absent] = {}
    for placed in found.all(Approval):
        if verifier is None:
            faults.append(placed.bad(Fault.UNCHECKED, "cannot be checked without --allowed-signers"))
            continue
        statement = placed.record.statement
        try:
            signed = statement.signed_bytes()
            who = verifier.verify(statement.approver, signed, placed.record.ssh_signature, statement.signed_at)
        except NotApprovedError as exc:
            faults.append(placed.bad(Fault.BAD_SIGNATURE, exc.message))
            continue
        glass = statement.verdict == "break-glass"
        role = "break-glass" if glass else "approver"
        if role not in who.roles and statement.on_behalf_of is None:  # else it is of whom they act for
            faults.append(placed.bad(Fault.WRONG_ROLE, f"{who.principal} has not the role {role}"))
        if statement.verdict == "delegate":
            absent[placed.record.approval_id] = Absent(who.principal, who.key_fingerprint)
        else:
            yes = Yes(placed.record.approval_id, who.principal, who.key_fingerprint, glass)
            said.append((yes, statement.delegation))
    spoken = [replace(yes, acts_for=absent.get(under)) if under is not None else yes for yes, under in said]
    return faults or _carried(found, spoken)


def _carried(found: Contents, said: Sequence[Yes]) -> list[BadRecordError]:
    """The people who said yes may carry the request, and are as many as request and execution say that it took."""
    execution, request = found.get(Execution), found.get(DispatchRequest)
    if execution is None or request is None:
        return []
    summary, requester = execution.record.approval, request.record.requester
    if execution.record.takeover is not None:
        requester = execution.record.takeover.by
    required = max(request.record.approvals_needed, summary.needed or 0)
    try:
        if summary.mode == "marker":
            marked(summary.approved_by, required=required, requester=requester)
        elif said:
            carriers(said, required=required, requester=requester, key=request.record.requester_key)
    except NotApprovedError as exc:
        return [execution.bad(Fault.CONTRADICTION, f"its approvals do not carry it: {exc.message}")]
    return []


def _reconciliation(found: Contents, verifier: ApprovalVerifier | None) -> list[BadRecordError]:
    """A person's word about an end that nobody proved: signed by somebody who may, and what the outcome repeats."""
    placed = found.get(AttemptOutcome)
    if placed is None or placed.record.reconciliation is None:
        return []
    outcome, given = placed.record, placed.record.reconciliation
    statement = given.statement
    if verifier is None:
        return [placed.bad(Fault.UNCHECKED, "the word in it cannot be checked without --allowed-signers")]
    told = (statement.attempt_id, statement.run_id, statement.service, statement.outcome)
    told_after = (statement.generation_after, statement.primary_after)
    if told != (outcome.attempt_id, outcome.run_id, outcome.service, str(outcome.outcome)) or told_after != (
        outcome.generation_after,
        outcome.primary_after,
    ):
        return [placed.bad(Fault.CONTRADICTION, "it does not say what the person signed")]
    try:
        who = verifier.verify(statement.operator, statement.signed_bytes(), given.ssh_signature, statement.signed_at)
    except NotApprovedError as exc:
        return [placed.bad(Fault.BAD_SIGNATURE, exc.message)]
    return [] if "approver" in who.roles else [placed.bad(Fault.WRONG_ROLE, f"{who.principal} may not close a run")]
