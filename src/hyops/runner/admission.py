"""May this run make effects here? Judged by the runner itself, by what it trusts, before any act (RUN-1, INV-4).

The dispatcher is not believed: signatures are checked against the runner's own trusted keys, approvals against its own
allowed signers, digests against the bytes that will run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hyops.errors import (
    NotApprovedError,
    PrerequisiteError,
    RecordError,
    StaleGenerationError,
    UnsafePlanError,
)
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.base import Record
from hyops.model.delegation import misfit, not_allowed
from hyops.model.dsse import verify_record
from hyops.model.plan import Plan, planned_ref
from hyops.model.quorum import Absent, Yes, carriers, marked, unacknowledged
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, Level, Occasion, RequestStatus
from hyops.ports.signer import ApprovalVerifier, ApproverSignature, Verifier
from hyops.runner import takeover_rules

APPROVER, BREAK_GLASS = "approver", "break-glass"
TAKEOVER_APPROVALS = 2  # nobody else looks at it: neither an approval stage nor a dispatcher of that day
FUTURE_MAX_S = 300.0  # as the approval stage allows: an approver's own clock may be a little ahead


@dataclass(frozen=True)
class Rules:
    """What this runner holds against a spec. `host_sites` maps a host to its site."""

    runner_ref: str
    site: str
    verifier: Verifier
    approvals: ApprovalVerifier
    policy: ApprovalPolicy = field(default_factory=ApprovalPolicy)
    host_sites: Mapping[str, str] = field(default_factory=dict)
    takeover_approvals: int = TAKEOVER_APPROVALS


def admit(spec: RunSpec, rules: Rules, *, now: datetime, generation_seen: int) -> list[str]:
    """Return who approved; raise the refusal otherwise.

    Raises:
        UnsafePlanError: a digest, id or field does not fit the others: these are not the bytes that were approved.
        RecordError: a record is not signed by a key that may. NotApprovedError: approvals missing, stale, forged.
        StaleGenerationError: the service has moved on. PrerequisiteError: this runner is in the failed site.
    """
    admissible(spec, rules, now=now, generation_seen=generation_seen)
    return _approved(spec, rules, now)


def admissible(spec: RunSpec, rules: Rules, *, now: datetime, generation_seen: int) -> None:
    """Return when all but the approvals is as `admit` wants it; raises as `admit` does."""
    _fits(spec, rules.runner_ref)
    _by_whom_it_may(spec, rules)
    _signed(spec.request, "dispatch", rules.verifier)
    if spec.request.source_decision_signed:
        _signed(spec.decision, "decision", rules.verifier)
    _its_only_run(spec)
    _fresh(spec, now)
    if spec.generation < generation_seen:
        raise StaleGenerationError(f"generation {spec.generation} is older than {generation_seen}, seen by this runner")
    _outside_the_failed_site(spec, rules)


def _fits(spec: RunSpec, runner_ref: str) -> None:
    plan, execution, request, decision = spec.plan, spec.execution, spec.request, spec.decision
    digest = plan.digest()
    pairs: dict[str, tuple[Any, ...]] = {
        "plan digest": (digest, execution.plan_digest, request.plan_digest),
        "runner_ref": (runner_ref, plan.runner_ref, execution.runner_ref, request.runner_ref),
        "service": (spec.service, plan.service, execution.service, request.service),
        "generation": (spec.generation, execution.generation, request.generation),
        "occasion": (spec.occasion, execution.occasion, request.occasion),
        "decision_type": (plan.decision_type, execution.decision_type, request.decision_type, decision.decision_type),
        "execution_plane": (plan.execution_plane, execution.execution_plane, request.execution_plane),
        "env": (plan.env, execution.target_env, request.target_env),
        "target_kind": (execution.target_kind, request.target_kind),
        "target_ref": (
            plan.blueprint_ref,
            *(planned_ref(one.target_kind, one.target_ref) for one in (execution, request)),
        ),
        "dispatch_id": (request.dispatch_id, execution.source_dispatch_id),
        "request digest": (request.digest(), execution.source_request_digest),
        "decision digest": (decision.digest(), request.source_decision_digest),
        "decision_id": (decision.decision_id, request.source_decision_id),
    }
    for name in ("service", "generation"):  # a hand-written decision leaves them open; the execution does not (DSP-3)
        pairs[name] = tuple(value for value in pairs[name] if value is not None)
    if faults := [f"{name}: {' / '.join(map(str, values))}" for name, values in pairs.items() if len(set(values)) > 1]:
        raise UnsafePlanError("not the bytes that were approved: " + "; ".join(faults))


def _signed(record: Record, role: str, verifier: Verifier) -> None:
    keyid = verify_record(record, verifier)
    if role not in verifier.roles(keyid):
        raise RecordError(f"{record.kind} {record.record_id}: its key may not sign as {role}")


def _by_whom_it_may(spec: RunSpec, rules: Rules) -> None:
    """The approval stage says that a run may begin; of a standby order this runner itself does, and of nothing else."""
    role = f"runner:{rules.runner_ref}" if takeover_rules.is_takeover(spec) else "approval"
    _signed(spec.execution, role, rules.verifier)


def _its_only_run(spec: RunSpec) -> None:
    """An execution runs once: its signed bytes say under which id, so that no second id makes a second run (INV-4)."""
    if spec.run_id != (wanted := spec.execution.run_id()):
        raise UnsafePlanError(f"run {spec.run_id}: execution {spec.execution.execution_id} runs as {wanted} only")


def _by_this_clock(why: str, now: datetime) -> NotApprovedError:
    """A refusal that a wrong clock makes too, of this host or of the one that signed: it names what it went by."""
    return NotApprovedError(
        f"{why}, and here it is {_time(now)}",
        hint="is that the time? Else set the clock that is wrong; `hyops approval show` says what to ask for anew",
    )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _fresh(spec: RunSpec, now: datetime) -> None:
    for what, expires_at in (("execution", spec.execution.expires_at), ("request", spec.request.expires_at)):
        if expires_at <= now:
            raise _by_this_clock(f"the {what} expired at {_time(expires_at)}", now)
    if spec.decision.expires_at is not None and spec.decision.expires_at <= now:
        raise _by_this_clock(f"the decision expired at {_time(spec.decision.expires_at)}", now)
    if spec.request.status not in (RequestStatus.AWAITING_APPROVAL, RequestStatus.QUEUED):
        raise NotApprovedError(f"the request is {spec.request.status}")


def _outside_the_failed_site(spec: RunSpec, rules: Rules) -> None:
    """An unplanned move, either way, is never run from the site that failed (RUN-2)."""
    moves = spec.plan.decision_type in (DecisionType.FAILOVER, DecisionType.FAILBACK)
    if spec.occasion is not Occasion.UNPLANNED or not moves:
        return
    if "source" not in spec.plan.inputs:
        return
    failed = failed_site(spec.plan, rules.host_sites)
    if failed is None:
        raise PrerequisiteError("the site of the plan's source is not known to this runner", hint="set host_sites")
    if failed == rules.site:
        raise PrerequisiteError(
            f"this runner is in {failed}, the site that failed", hint="dispatch to a runner in another site"
        )


def failed_site(plan: Plan, host_sites: Mapping[str, str]) -> str | None:
    """Where the plan's source is: this runner's own knowledge first, then what the plan says."""
    source = plan.inputs.get("source")
    host = source.get("host") if isinstance(source, Mapping) else source
    told = source.get("site") if isinstance(source, Mapping) else None
    return host_sites.get(str(host)) or (str(told) if told else None)


def _approved(spec: RunSpec, rules: Rules, now: datetime) -> list[str]:
    if not (spec.request.requires_approval or spec.execution.approval.required):
        if not rules.policy.allow_unapproved:
            raise NotApprovedError("this runner runs nothing without an approval")
        return []
    summary, requester = spec.execution.approval, spec.request.requester
    needed = max(
        rules.policy.required, spec.request.approvals_needed, summary.needed or 0
    )  # the strictest wins (APR-3)
    if (takeover := spec.execution.takeover) is not None:
        needed, requester = max(needed, rules.takeover_approvals), takeover.by
        takeover_rules.refuse_what_is_not_of_today(spec, rules.policy, now)
    elif summary.mode == "marker" and rules.policy.mode == "marker":
        people = marked(summary.approved_by, required=needed, requester=requester)
        if missing := unacknowledged(spec.request.warnings, summary.acknowledged_warnings or ()):
            raise NotApprovedError(f"its marker: {missing}")
        return people
    given = {a.approval_id: a for a in spec.approvals if a.statement.verdict == "delegate"}
    said, named = [], set()
    for approval in spec.approvals:
        if approval.approval_id in given:
            continue
        who = _granted_by(approval, spec, rules, now)
        # in a takeover it stands in for what no quorum said, not for people: nobody knows who types there
        glass = takeover is None and approval.statement.verdict == BREAK_GLASS
        acts_for = None
        if approval.statement.on_behalf_of is not None:
            acts_for = _acts_for(approval, given, spec, rules, now)
            named.add(approval.statement.delegation)
        said.append(Yes(approval.approval_id, who.principal, who.key_fingerprint, glass, acts_for))
    if unused := sorted(set(given) - named):
        raise NotApprovedError(f"no approval acts under the delegation {unused[0]}")
    key, unknown = spec.request.requester_key, rules.policy.doubts(spec.request)
    carried = carriers(said, required=needed, requester=requester, key=key, unknown=unknown)
    return sorted(yes.principal for yes in carried)


def _granted_by(approval: Approval, spec: RunSpec, rules: Rules, now: datetime) -> ApproverSignature:
    """Who signed, when this is a valid grant; every approval that is not genuine refuses the run."""
    statement, request = approval.statement, spec.request
    who = rules.approvals.verify(statement.approver, statement.signed_bytes(), approval.ssh_signature, now)
    name = f"approval {approval.approval_id} of {who.principal}"
    if statement.request_digest is not None and statement.request_digest != request.digest():
        raise NotApprovedError(f"{name} is for another request")
    if statement.verdict in ("reject", "withdraw"):
        raise NotApprovedError(f"{who.principal} said {statement.verdict}")
    if statement.plan_digest is not None and statement.plan_digest != spec.plan.digest():
        raise NotApprovedError(f"{name} is for another plan")
    if statement.signed_at > now + timedelta(seconds=FUTURE_MAX_S):
        raise _by_this_clock(f"{name} was signed in the future, at {_time(statement.signed_at)}", now)
    if not statement.signed_at <= statement.expires_at or statement.expires_at <= now:
        raise _by_this_clock(f"{name} expired at {_time(statement.expires_at)}", now)
    if statement.verdict == "standing":
        _standing(approval, spec, rules, name)
    role = BREAK_GLASS if statement.verdict == "break-glass" else APPROVER
    if role not in who.roles and statement.on_behalf_of is None:  # else the role is that of whom they act for
        raise NotApprovedError(f"{name}: no role {role!r} here")
    if (unseen := rules.policy.unseen(who.presence)) is not None:
        raise NotApprovedError(f"{name}: {unseen}")
    if missing := unacknowledged(request.warnings, statement.acknowledged_warnings):
        raise NotApprovedError(f"{name}: {missing}")
    return who


def _acts_for(approval: Approval, given: Mapping[str, Approval], spec: RunSpec, rules: Rules, now: datetime) -> Absent:
    """Who is spoken for, when they said so themselves, this runner takes such words, and they still hold."""
    statement, found = approval.statement, given.get(approval.statement.delegation or "")
    name = f"approval {approval.approval_id} for {statement.on_behalf_of}"
    why: str | None = f"its delegation {statement.delegation} did not come with it"
    if found is not None:
        kind = spec.plan.decision_type
        why = misfit(statement, found.statement, service=spec.service, decision_type=kind, at=now)
        why = why or not_allowed(found.statement, rules.policy)
    if found is None or why is not None:
        raise _by_this_clock(f"{name}: {why}", now)
    words = found.statement
    absent = rules.approvals.verify(words.approver, words.signed_bytes(), found.ssh_signature, now)
    if absent.principal != words.approver or APPROVER not in absent.roles:
        raise NotApprovedError(f"{name}: no role {APPROVER!r} here")
    if (unseen := rules.policy.unseen(absent.presence)) is not None:
        raise NotApprovedError(f"{name}: its delegation: {unseen}")
    return Absent(absent.principal, absent.key_fingerprint)


def _standing(approval: Approval, spec: RunSpec, rules: Rules, name: str) -> None:
    statement = approval.statement
    if not rules.policy.allow_standing:
        raise NotApprovedError(f"{name} is a standing one, which this runner does not take")
    if (too_long := rules.policy.too_long(statement)) is not None:
        raise NotApprovedError(f"{name}: {too_long}")
    if not spec.request.source_decision_signed:
        raise NotApprovedError(f"{name} is a standing one, which needs a signed decision")
    if spec.request.level is not Level.TRIGGER:
        raise NotApprovedError(f"{name} is a standing one, which needs level trigger")
    fits = (
        statement.service == spec.service
        and spec.plan.decision_type in statement.decision_types
        and spec.occasion in statement.occasions
    )
    if not fits:
        raise NotApprovedError(f"{name} stands for something else than {spec.occasion} {spec.plan.decision_type}")
