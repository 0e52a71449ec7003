"""Who asked for a switch: the signature in the recorded inputs, and the key that decision and request name (APR-1)."""

from __future__ import annotations

from collections.abc import Iterator

from hyops.errors import NotApprovedError
from hyops.evidence.chain import BadRecordError, Fault
from hyops.evidence.contents import Contents
from hyops.model.asking import statement_of
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import DecisionInputs
from hyops.ports.signer import ApprovalVerifier


def unproved(found: Contents, verifier: ApprovalVerifier | None) -> Iterator[BadRecordError]:
    """Where a key is said to have asked that did not sign; an older request, or one without `--key`, names none."""
    inputs, decision, request = found.get(DecisionInputs), found.get(Decision), found.get(DispatchRequest)
    if decision is not None and request is not None:
        key = request.record.requester_key
        if key is not None and key != decision.record.requester_key:
            yield request.bad(Fault.CONTRADICTION, "it names another key of who asked than the decision")
    if inputs is None or decision is None:
        return
    asked = inputs.record.asked
    proof = asked.proof if asked else None
    if (proof.key_fingerprint if proof else None) != decision.record.requester_key:
        yield inputs.bad(Fault.CONTRADICTION, "it does not say whose key asked for the decision")
    if asked is None or proof is None:
        return
    if verifier is None:
        yield inputs.bad(Fault.UNCHECKED, "who asked cannot be checked without --allowed-signers")
        return
    policy = inputs.record.policy
    data = statement_of(asked, service=policy.service, env=policy.env, signed_at=proof.signed_at).signed_bytes()
    try:
        who = verifier.verify(asked.requested_by, data, proof.ssh_signature, proof.signed_at)
    except NotApprovedError as exc:
        yield inputs.bad(Fault.BAD_SIGNATURE, f"who asked: {exc.message}")
        return
    if who.key_fingerprint != proof.key_fingerprint:
        yield inputs.bad(Fault.CONTRADICTION, f"{who.key_fingerprint} asked, and not {proof.key_fingerprint}")
