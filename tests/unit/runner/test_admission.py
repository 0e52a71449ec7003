"""A runner admits only what was approved byte for byte, by whom it knows, for a service that has not moved on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hyops.control.execution import attempt_of
from hyops.errors import (
    HyopsError,
    NotApprovedError,
    PrerequisiteError,
    RecordError,
    StaleGenerationError,
    UnsafePlanError,
)
from hyops.model.approval import ApprovalPolicy
from hyops.model.dispatch import ApprovalDemand
from hyops.model.dsse import sign_record
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, Level, Occasion, RequestStatus
from hyops.ports.signer import ApproverSignature
from hyops.runner import admission
from hyops.runner.admission import Rules, admit
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals
from hyops.testing.runs import approval_of, plan_of, reissued, spec_of, step

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
SOON = AT + timedelta(seconds=5)
RULES = Rules("cloud-runner", "cloud", VERIFIER, SeedApprovals(APPROVER, "bob@example.org"))


def _spec(**more: object) -> RunSpec:
    return spec_of(plan_of([step("a")]), at=AT, **more)  # type: ignore[arg-type]


def _admit(spec: RunSpec, rules: Rules = RULES, *, now: datetime = SOON, seen: int = 0) -> list[str]:
    return admit(spec, rules, now=now, generation_seen=seen)


@pytest.mark.req("INV-4", "APR-1")
def test_an_approved_run_is_admitted() -> None:
    """Everything in order: the answer is who approved."""
    assert _admit(_spec()) == [APPROVER]


def _with_approval(spec: RunSpec, **statement: object) -> RunSpec:
    return spec.model_copy(update={"approvals": [approval_of(spec.request, AT, **statement)]})  # type: ignore[arg-type]


def _resigned(spec: RunSpec, field: str, role: str, **change: object) -> RunSpec:
    record = getattr(spec, field).model_copy(update=change)
    return spec.model_copy(update={field: sign_record(record, STAGES[role])})


def _unsigned(spec: RunSpec, field: str) -> RunSpec:
    return spec.model_copy(update={field: getattr(spec, field).model_copy(update={"signature": None})})


OTHER = "sha256:" + "1" * 64
TAMPERED: list[tuple[str, Callable[[RunSpec], RunSpec], type[HyopsError], str]] = [
    ("plan", lambda s: s.model_copy(update={"plan": plan_of([step("b")])}), UnsafePlanError, "plan digest"),
    ("generation", lambda s: s.model_copy(update={"generation": 8}), UnsafePlanError, "generation: 8 / 7"),
    ("occasion", lambda s: s.model_copy(update={"occasion": Occasion.PLANNED}), UnsafePlanError, "occasion"),
    ("service", lambda s: s.model_copy(update={"service": "mail"}), UnsafePlanError, "service"),
    ("request edited", lambda s: _resigned(s, "request", "dispatch", rationale="x"), UnsafePlanError, "request digest"),
    (
        "decision swapped",
        lambda s: _resigned(s, "decision", "decision", rationale="x"),
        UnsafePlanError,
        "decision dig",
    ),
    ("env", lambda s: _resigned(s, "execution", "approval", target_env="other"), UnsafePlanError, "env: "),
    ("execution unsigned", lambda s: _unsigned(s, "execution"), RecordError, "unsigned"),
    ("request unsigned", lambda s: _unsigned(s, "request"), RecordError, "unsigned"),
    ("decision unsigned", lambda s: _unsigned(s, "decision"), RecordError, "unsigned"),
    (
        "execution edited",
        lambda s: s.model_copy(update={"execution": s.execution.model_copy(update={"rationale": "x"})}),
        RecordError,
        "not over these bytes",
    ),
    ("execution by dispatch", lambda s: _resigned(s, "execution", "dispatch"), RecordError, "may not sign as approval"),
    ("request by decision", lambda s: _resigned(s, "request", "decision"), RecordError, "may not sign as dispatch"),
    ("no approval", lambda s: s.model_copy(update={"approvals": []}), NotApprovedError, "0 of 1"),
    ("foreign approver", lambda s: _with_approval(s, approver="eve@example.org"), NotApprovedError, "not an allowed"),
    ("other request", lambda s: _with_approval(s, request_digest=OTHER), NotApprovedError, "another request"),
    ("other plan", lambda s: _with_approval(s, plan_digest=OTHER), NotApprovedError, "another plan"),
    ("rejected", lambda s: _with_approval(s, verdict="reject"), NotApprovedError, "said reject"),
    (
        "approval expired",
        lambda s: _with_approval(s, expires_at=(AT + timedelta(seconds=1)).isoformat()),
        NotApprovedError,
        "expired",
    ),
    (
        "approval from the future",
        lambda s: _with_approval(
            s, signed_at=(AT + timedelta(days=1)).isoformat(), expires_at=(AT + timedelta(days=2)).isoformat()
        ),
        NotApprovedError,
        "in the future",
    ),
    (
        "approval edited",
        lambda s: s.model_copy(
            update={
                "approvals": [
                    s.approvals[0].model_copy(
                        update={"statement": s.approvals[0].statement.model_copy(update={"note": "edited"})}
                    )
                ]
            }
        ),
        NotApprovedError,
        "not over these bytes",
    ),
    (
        "break-glass without role",
        lambda s: _with_approval(s, verdict="break-glass", accepted_loss="10 s", note="fire"),
        NotApprovedError,
        "no role 'break-glass'",
    ),
    (
        "standing not taken",
        lambda s: _with_approval(
            s,
            verdict="standing",
            request_digest=None,
            dispatch_id=None,
            service="pg",
            decision_types=["failover"],
            occasions=["unplanned"],
        ),
        NotApprovedError,
        "standing",
    ),
]


@pytest.mark.req("INV-4", "APR-1", "INV-8")
@pytest.mark.fault(10, 11)
@pytest.mark.parametrize(
    ("change", "error", "message"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED]
)
def test_anything_else_is_refused(change: Callable[[RunSpec], RunSpec], error: type[HyopsError], message: str) -> None:
    """One field, signature or approval changed: the refusal names it."""
    with pytest.raises(error, match=message):
        _admit(change(_spec()))


@pytest.mark.req("INV-4", "RUN-1")
@pytest.mark.fault(10)
def test_what_was_approved_for_another_environment_is_refused() -> None:
    """Request and execution for another environment than the plan's, each properly signed: refused for that alone."""
    spec = _spec()
    request = spec.request.model_copy(update={"target_env": "elsewhere"})
    refused = f"were approved: env: {spec.plan.env} / {spec.plan.env} / elsewhere$"
    with pytest.raises(UnsafePlanError, match=refused):
        _admit(reissued(spec, request=request, approvals=[approval_of(request, AT)]))

    run = _resigned(spec, "execution", "approval", target_env="elsewhere")
    refused = f"were approved: env: {spec.plan.env} / elsewhere / {spec.plan.env}$"
    with pytest.raises(UnsafePlanError, match=refused):
        _admit(run.model_copy(update={"run_id": run.execution.run_id()}))


@pytest.mark.req("DSP-2", "INV-4")
@pytest.mark.fault(10)
def test_a_single_module_is_admitted_as_the_target_that_people_approved() -> None:
    """Request and execution name the module, the plan the blueprint of one step that was made of it; nothing else."""
    plan = plan_of([step("noop", module="native/noop")])
    named = plan.model_copy(update={"blueprint_ref": "module/native/noop@v1"})
    assert _admit(spec_of(named, at=AT, module="native/noop")) == [APPROVER]

    for other, module in ((plan, "native/noop"), (named, "native/count-loss")):
        with pytest.raises(UnsafePlanError, match="were approved: target_ref: "):
            _admit(spec_of(other, at=AT, module=module))
    run = _resigned(spec_of(named, at=AT, module="native/noop"), "execution", "approval", target_kind="blueprint")
    with pytest.raises(UnsafePlanError, match="were approved: target_kind: blueprint / module; target_ref: "):
        _admit(run.model_copy(update={"run_id": run.execution.run_id()}))


@pytest.mark.req("LOOP-2", "APR-1")
@pytest.mark.fault(10)
def test_an_old_execution_is_not_run() -> None:
    """Ten minutes later the same bytes are refused."""
    with pytest.raises(NotApprovedError, match="expired"):
        _admit(_spec(), now=AT + timedelta(minutes=11))


@pytest.mark.req("INV-5", "UX-1")
@pytest.mark.parametrize(
    ("off", "why"),
    [
        (timedelta(hours=1), "the execution expired at 2026-03-14"),
        (-timedelta(hours=1), "signed in the future, at 2026"),
    ],
)
def test_a_refusal_by_a_wrong_clock_says_what_that_clock_says(off: timedelta, why: str) -> None:
    """An hour ahead all is expired, an hour behind nothing is signed yet: whoever reads it sees both times."""
    with pytest.raises(NotApprovedError) as refused:
        _admit(_spec(), now=SOON + off)
    assert why in refused.value.message
    assert f"here it is {SOON + off:%Y-%m-%dT%H:%M:%SZ}" in refused.value.message
    assert "clock" in refused.value.hint


@pytest.mark.req("INV-4", "EXE-3")
@pytest.mark.fault(10)
def test_an_execution_has_one_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same signed execution under a second run id would be a second run: refused, and only by this guard."""
    spec = _spec()
    second = spec.model_copy(update={"run_id": spec.run_id[:-1] + ("0" if spec.run_id[-1] != "0" else "1")})
    with pytest.raises(UnsafePlanError, match=f"runs as {spec.run_id} only"):
        _admit(second)

    monkeypatch.setattr(admission, "_its_only_run", lambda spec: None)
    assert _admit(second) == [APPROVER]


@pytest.mark.req("INV-4", "EXE-3")
def test_both_sides_find_the_same_run_id() -> None:
    """What the executor records as the attempt's run id is what the runner admits."""
    spec = _spec()
    assert attempt_of(spec.execution, "dispatch", AT).run_id == spec.execution.run_id() == spec.run_id


@pytest.mark.req("GEN-1", "INV-3")
def test_a_generation_older_than_seen_is_refused() -> None:
    """The service moved on: generation 7 after 8 is refused, 7 after 7 is not."""
    with pytest.raises(StaleGenerationError):
        _admit(_spec(), seen=8)
    assert _admit(_spec(), seen=7)


@pytest.mark.req("RUN-1")
def test_a_plan_for_another_runner_is_refused() -> None:
    """Valid records for cloud-runner mean nothing on onprem-runner."""
    with pytest.raises(UnsafePlanError, match="runner_ref"):
        _admit(_spec(), replace(RULES, runner_ref="onprem-runner"))


@pytest.mark.req("RUN-2")
@pytest.mark.parametrize(
    ("source", "sites", "occasion", "refused"),
    [
        ("onprem-db", {"onprem-db": "cloud"}, Occasion.UNPLANNED, "the site that failed"),
        ("onprem-db", {"onprem-db": "onprem"}, Occasion.UNPLANNED, None),
        ("onprem-db", {}, Occasion.UNPLANNED, "not known"),
        ({"host": "onprem-db", "site": "cloud"}, {}, Occasion.UNPLANNED, "the site that failed"),
        ({"host": "onprem-db", "site": "onprem"}, {"onprem-db": "cloud"}, Occasion.UNPLANNED, "the site that failed"),
        ("onprem-db", {"onprem-db": "cloud"}, Occasion.PLANNED, None),
    ],
)
def test_a_runner_in_the_failed_site_is_refused(
    source: object, sites: dict[str, str], occasion: Occasion, refused: str | None
) -> None:
    """An unplanned move, either way, never runs from where the failure is; the runner's own map comes first."""
    rules = replace(RULES, host_sites=sites)
    for kind in (DecisionType.FAILOVER, DecisionType.FAILBACK):
        plan = plan_of([step("a")], inputs={"source": source}).model_copy(update={"decision_type": kind})
        spec = spec_of(plan, at=AT, occasion=occasion)
        if refused is None:
            assert _admit(spec, rules)
        else:
            with pytest.raises(PrerequisiteError, match=refused):
                _admit(spec, rules)


@pytest.mark.req("APR-1")
def test_two_of_two_needs_two_people() -> None:
    """The same person twice is one approval; two people are two."""
    rules, spec = replace(RULES, policy=ApprovalPolicy(required=2)), _spec()
    twice = spec.model_copy(update={"approvals": [spec.approvals[0], approval_of(spec.request, AT, note="again")]})
    with pytest.raises(NotApprovedError, match="1 of 2"):
        _admit(twice, rules)
    both = [spec.approvals[0], approval_of(spec.request, AT, approver="bob@example.org")]
    assert _admit(spec.model_copy(update={"approvals": both}), rules) == [APPROVER, "bob@example.org"]


@pytest.mark.req("APR-1", "APR-3", "INV-6")
@pytest.mark.parametrize("who", ["request", "execution", "policy"])
def test_the_strictest_number_of_approvals_counts(who: str) -> None:
    """Two demanded by the request, by the stage that counted them, or by this runner: one person is too few."""
    spec, two = _spec(), ApprovalPolicy(required=2)
    demand = ApprovalDemand(required=2 if who == "request" else 1)
    request = spec.request.model_copy(update={"approvals": demand})
    summary = spec.execution.approval.model_copy(update={"needed": 2 if who == "execution" else 1})
    rules = replace(RULES, policy=two if who == "policy" else ApprovalPolicy())
    said = [approval_of(request, AT), approval_of(request, AT, approver="bob@example.org")]
    with pytest.raises(NotApprovedError, match="1 of 2"):
        _admit(reissued(spec, request=request, approvals=said[:1], summary=summary), rules)
    assert _admit(reissued(spec, request=request, approvals=said, summary=summary), rules) == [
        APPROVER,
        "bob@example.org",
    ]


@pytest.mark.req("APR-2", "APR-3")
@pytest.mark.parametrize(
    ("by", "admitted"),
    [(["ada"], False), (["ada", "ada"], False), (["ada", "me"], False), (["ada", "bob"], True), ([], False)],
)
def test_markers_count_as_many_people_as_are_demanded(by: list[str], admitted: bool) -> None:
    """Where markers count, the request's number of people beside the requester must stand in them."""
    spec, rules = _spec(), replace(RULES, policy=ApprovalPolicy(mode="marker"))
    request = spec.request.model_copy(update={"approvals": ApprovalDemand(required=2), "requester": "me"})
    summary = spec.execution.approval.model_copy(update={"mode": "marker", "approval_ids": ["m"], "approved_by": by})
    marked = reissued(spec, request=request, approvals=[], summary=summary)
    if admitted:
        assert _admit(marked, rules) == by
    else:
        with pytest.raises(NotApprovedError, match="of 2 people stand in markers"):
            _admit(marked, rules)


@pytest.mark.req("APR-2", "APR-3", "DSP-3")
@pytest.mark.parametrize(
    ("acknowledged", "admitted"),
    [(None, False), (["gcp_quota: bad"], False), (["gcp_billing: bad"], True), (["gcp_billing: bad", "more"], True)],
)
def test_a_marker_acknowledges_what_the_execution_says(acknowledged: list[str] | None, admitted: bool) -> None:
    """A warning that no marker names is refused here as it is by the approval stage."""
    spec, rules = _spec(), replace(RULES, policy=ApprovalPolicy(mode="marker"))
    request = spec.request.model_copy(update={"warnings": ["gcp_billing: bad"]})
    said = {"mode": "marker", "approval_ids": ["m"], "approved_by": ["ada"], "acknowledged_warnings": acknowledged}
    marked = reissued(spec, request=request, approvals=[], summary=spec.execution.approval.model_copy(update=said))
    if admitted:
        assert _admit(marked, rules) == ["ada"]
    else:
        with pytest.raises(NotApprovedError, match="does not acknowledge: gcp_billing: bad"):
            _admit(marked, rules)


class OneKey:
    """Every principal signs with the same key."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Good, whoever is named."""
        return ApproverSignature(principal, frozenset({"approver"}), "SHA256:same")


@pytest.mark.req("APR-1")
def test_one_key_under_two_names_is_one_approval() -> None:
    """Two principals that share a key are not two people."""
    rules, spec = replace(RULES, policy=ApprovalPolicy(required=2), approvals=OneKey()), _spec()
    both = [spec.approvals[0], approval_of(spec.request, AT, approver="bob@example.org")]
    with pytest.raises(NotApprovedError, match="1 of 2"):
        _admit(spec.model_copy(update={"approvals": both}), rules)


@pytest.mark.req("APR-1")
def test_the_requester_alone_does_not_suffice() -> None:
    """Who asked for it may not be the only one who says yes."""
    spec = _spec()
    request = spec.request.model_copy(update={"requester": APPROVER})
    with pytest.raises(NotApprovedError, match="only approver"):
        _admit(reissued(spec, request=request, approvals=[approval_of(request, AT)]))


KNOWN = replace(RULES, policy=ApprovalPolicy(require_known_requester=True))


@pytest.mark.req("APR-1")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "asked",
    [
        {"requester": "root"},
        {"requester": "bob@example.org"},
        {"source_decision_signed": False},
        {"requester": "root", "requester_key": "SHA256:k", "source_decision_signed": False},
    ],
)
def test_a_requester_whom_nothing_proves_is_not_a_second_person(asked: dict[str, Any]) -> None:
    """A typed name, or a decision that was written by hand: two people carry it, and one does not."""
    spec = _spec()
    request = spec.request.model_copy(update=asked)
    both = [approval_of(request, AT), approval_of(request, AT, approver="bob@example.org")]
    with pytest.raises(NotApprovedError, match="so two people must approve"):
        _admit(reissued(spec, request=request, approvals=both[:1]), KNOWN)

    _admit(reissued(spec, request=request, approvals=both[:1]))
    _admit(reissued(spec, request=request, approvals=both), KNOWN)


@pytest.mark.req("APR-1")
@pytest.mark.fault(10)
def test_a_requester_whose_key_signed_leaves_one_other_person() -> None:
    """His own key carries nothing under whatever name; somebody else's does."""
    spec = _spec()
    _admit(spec, KNOWN)  # nobody asked: the loop decided
    theirs = spec.request.model_copy(update={"requester": "carl", "requester_key": "SHA256:carl"})
    _admit(reissued(spec, request=theirs, approvals=[approval_of(theirs, AT)]), KNOWN)
    own = RULES.approvals.verify(APPROVER, b"", SeedApprovals.sign(APPROVER, b""), AT).key_fingerprint
    mine = spec.request.model_copy(update={"requester": "carl", "requester_key": own})
    with pytest.raises(NotApprovedError, match="only approver"):
        _admit(reissued(spec, request=mine, approvals=[approval_of(mine, AT)]), KNOWN)


@pytest.mark.req("APR-3", "GATE-3")
def test_a_run_without_any_approval_needs_this_runners_consent() -> None:
    """Request and execution that waive the approval are refused, unless the runner's own policy allows it."""
    spec = _spec()
    request = spec.request.model_copy(update={"requires_approval": False, "status": RequestStatus.QUEUED})
    summary = spec.execution.approval.model_copy(update={"required": False, "mode": "none", "approval_ids": []})
    waived = reissued(spec, request=request, approvals=[], summary=summary)
    with pytest.raises(NotApprovedError, match="nothing without an approval"):
        _admit(waived)
    assert _admit(waived, replace(RULES, policy=ApprovalPolicy(allow_unapproved=True))) == []


@pytest.mark.req("DSP-3")
def test_warnings_must_have_been_acknowledged() -> None:
    """An approval that did not acknowledge the request's warning does not count."""
    spec = _spec(warnings=["gcp_billing: degraded"])
    assert _admit(spec)
    with pytest.raises(NotApprovedError, match="gcp_billing"):
        _admit(_with_approval(spec, acknowledged_warnings=[]))


@pytest.mark.req("APR-1", "VOC-4", "INV-4")
@pytest.mark.parametrize(
    ("change", "message"),
    [({"level": Level.RECOMMEND}, "level trigger"), ({"source_decision_signed": False}, "signed decision")],
)
def test_a_standing_approval_carries_only_a_signed_trigger(change: dict[str, object], message: str) -> None:
    """What was written by hand or merely recommended waits for people here too, whatever the approval stage said."""
    spec = _spec()
    request = spec.request.model_copy(update=change)
    approval = approval_of(
        request,
        AT,
        verdict="standing",
        request_digest=None,
        dispatch_id=None,
        service="pg",
        decision_types=["failover"],
        occasions=["unplanned"],
    )
    run = reissued(spec, request=request, approvals=[approval])
    with pytest.raises(NotApprovedError, match=message):
        _admit(run, replace(RULES, policy=ApprovalPolicy(allow_standing=True)))


@pytest.mark.req("APR-1")
@pytest.mark.parametrize(
    ("types", "occasions", "admitted"),
    [
        ([DecisionType.FAILOVER], ["unplanned"], True),
        ([DecisionType.FAILBACK], ["unplanned"], False),
        ([DecisionType.FAILOVER], ["planned"], False),
    ],
)
def test_a_standing_approval_covers_only_what_it_names(
    types: list[DecisionType], occasions: list[str], admitted: bool
) -> None:
    """Where the policy takes standing approvals, type and occasion must fit."""
    spec = _spec()
    standing = _with_approval(
        spec,
        verdict="standing",
        request_digest=None,
        dispatch_id=None,
        service="pg",
        decision_types=[str(t) for t in types],
        occasions=occasions,
    )
    rules = replace(RULES, policy=ApprovalPolicy(allow_standing=True))
    if admitted:
        assert _admit(standing, rules) == [APPROVER]
    else:
        with pytest.raises(NotApprovedError, match="something else"):
            _admit(standing, rules)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
@pytest.mark.parametrize(("lasts", "good"), [(timedelta(days=7), True), (timedelta(days=7, seconds=1), False)])
def test_the_runner_itself_bounds_a_standing_approval(lasts: timedelta, good: bool) -> None:
    """A dispatcher with a laxer policy cannot make this runner take one that was signed for longer."""
    run = _spec()
    standing = _with_approval(
        run,
        verdict="standing",
        dispatch_id=None,
        request_digest=None,
        service="pg",
        decision_types=["failover"],
        occasions=["unplanned"],
        expires_at=(AT + lasts).isoformat(),
    )
    rules = replace(RULES, policy=ApprovalPolicy(allow_standing=True, standing_max_s=7 * 86400.0))
    if good:
        assert _admit(standing, rules) == [APPROVER]
    else:
        with pytest.raises(NotApprovedError, match=r"7\.0 days, and the policy allows 7\.0"):
            _admit(standing, rules)
