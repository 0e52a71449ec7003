"""Who may act for an approver who is away, and every way in which nobody may (APR-1, fault 10)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from hyops.control.approval import judge
from hyops.control.hearing import hear
from hyops.errors import NotApprovedError, RecordError
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.execution import ApprovalSummary
from hyops.ports.signer import ApproverSignature
from hyops.runner.admission import Rules, admit
from hyops.testing.evidence import VERIFIER, SeedApprovals
from hyops.testing.runs import approval_of, plan_of, reissued, spec_of, step

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
SOON = AT + timedelta(seconds=5)
SPEC = spec_of(plan_of([step("a")]), at=AT)
POLICY = ApprovalPolicy(allow_delegation=True)


class Signers:
    """Known signers with their roles; a seed signature is good for who made it."""

    def __init__(self, roles: Mapping[str, frozenset[str]]) -> None:
        self.roles = roles

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Who signed."""
        roles = self.roles.get(principal, frozenset())
        return SeedApprovals(*self.roles, roles=roles).verify(principal, data, ssh_signature, at)


KNOWN = {"ada": frozenset({"approver"}), "bob": frozenset({"approver"}), "dan": frozenset[str]()}


def given(approver: str = "ada", **more: object) -> Approval:
    """Ada lets Dan act for her, for a week around now; `more` replaces fields."""
    body = {"verdict": "delegate", "dispatch_id": None, "request_digest": None, "plan_digest": None, "delegate": "dan"}
    body |= {"services": ["pg"], "decision_types": ["failover"], "signed_at": (AT - timedelta(days=2)).isoformat()}
    body |= {"starts_at": (AT - timedelta(days=1)).isoformat(), "expires_at": (AT + timedelta(days=6)).isoformat()}
    return approval_of(SPEC.request, AT, approver=approver, **{**body, **more})  # type: ignore[arg-type]


def grant(under: Approval, approver: str = "dan", absent: str = "ada") -> Approval:
    """Dan says yes for Ada."""
    return approval_of(SPEC.request, AT, approver=approver, on_behalf_of=absent, delegation=under.approval_id)


def back(under: Approval, approver: str = "ada") -> Approval:
    """It is taken back."""
    words = {"dispatch_id": None, "request_digest": None, "plan_digest": None, "delegation": under.approval_id}
    return approval_of(SPEC.request, AT, approver=approver, verdict="withdraw", **words)


def at_stage(*said: Approval, policy: ApprovalPolicy = POLICY, known: Mapping[str, frozenset[str]] = KNOWN) -> str:
    """`ready`, or what is wrong."""
    heard = hear(SPEC.request, said, Signers(known), policy, SOON)
    verdict = judge(SPEC.request, heard, policy, SOON)
    return verdict.state if verdict.state == "ready" else "; ".join(u.reason for u in verdict.unfit) or verdict.reason


def at_runner(*said: Approval, policy: ApprovalPolicy = POLICY, known: Mapping[str, frozenset[str]] = KNOWN) -> str:
    """The same of a runner that is handed all of it."""
    summary = ApprovalSummary(required=True, approval_ids=[a.approval_id for a in said], mode="signed")
    spec = reissued(SPEC, request=SPEC.request, approvals=said, summary=summary)
    try:
        admit(spec, Rules("cloud-runner", "cloud", VERIFIER, Signers(known), policy), now=SOON, generation_seen=0)
    except NotApprovedError as exc:
        return exc.message
    return "ready"


@pytest.mark.req("APR-1", "INV-7")
def test_a_known_signer_without_a_role_acts_for_an_approver_and_the_execution_says_so() -> None:
    """Ready at both sides; the summary names both people and the delegation, and it ends with the delegation."""
    under = given(expires_at=(AT + timedelta(minutes=2)).isoformat())
    said = (under, grant(under))
    verdict = judge(SPEC.request, hear(SPEC.request, said, Signers(KNOWN), POLICY, SOON), POLICY, SOON)

    assert (at_stage(*said), at_runner(*said)) == ("ready", "ready")
    assert verdict.summary is not None
    assert verdict.summary.approved_by == ["dan"]
    assert verdict.summary.note == "dan for ada"
    assert [(one.approval_id, one.on_behalf_of) for one in verdict.summary.delegations or ()] == [
        (under.approval_id, "ada")
    ]
    assert verdict.expires_at == AT + timedelta(minutes=2)


LATER = (AT + timedelta(seconds=1)).isoformat()
REFUSED: dict[str, tuple[Approval, str, str, str]] = {  # the delegation, who acts, for whom -> why not
    "another gave it": (given("bob"), "dan", "ada", "given by bob"),
    "to another": (given(delegate="eve"), "dan", "ada", "is to eve"),
    "another service": (given(services=["mail"]), "dan", "ada", "not for failover of pg"),
    "another type": (given(decision_types=["failback"]), "dan", "ada", "not for failover of pg"),
    "not begun": (given(starts_at=LATER), "dan", "ada", "before its delegation began"),
    "over": (given(expires_at=LATER), "dan", "ada", "ended at"),
    "too long": (given(expires_at=(AT + timedelta(days=14)).isoformat()), "dan", "ada", "the policy allows 14.0"),
    "no delegation": (approval_of(SPEC.request, AT, approver="ada", note="x"), "dan", "ada", "delegation"),
    "of one without a role": (given("dan", delegate="bob"), "bob", "dan", "no role"),
    "of a stranger": (given("mallory"), "dan", "mallory", "not an allowed signer"),
    "to a stranger": (given(delegate="mallory"), "mallory", "ada", "not an allowed signer"),
    "forged": (given().model_copy(update={"ssh_signature": "fake"}), "dan", "ada", "not over these bytes"),
}


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
@pytest.mark.parametrize("name", REFUSED)
def test_a_delegation_that_does_not_cover_it_is_refused_at_both_sides(name: str) -> None:
    """With the reason; the grant alone carries nothing."""
    under, who, absent, why = REFUSED[name]
    yes = grant(under, who, absent)
    only = (under, yes) if name != "no delegation" else (yes,)

    assert why in at_stage(*only)
    assert why in at_runner(*only)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_a_policy_without_delegations_takes_none() -> None:
    """As every policy is until it says otherwise."""
    under = given()
    found = (
        at_stage(under, grant(under), policy=ApprovalPolicy()),
        at_runner(under, grant(under), policy=ApprovalPolicy()),
    )

    assert ["allows no delegations" in why for why in found] == [True, True]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_what_is_taken_back_carries_nothing_and_nobody_else_takes_it_back() -> None:
    """By who gave it; another's word, and one with a bad signature, end nothing."""
    under = given()
    forged = back(under).model_copy(update={"ssh_signature": "fake"})

    assert "took its delegation back" in at_stage(under, grant(under), back(under))
    assert at_stage(under, grant(under), back(under, "bob"), forged) == "ready"
    assert "said withdraw" in at_runner(under, grant(under), back(under))


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("who", ["ada", "dan"])
def test_either_of_the_two_takes_a_grant_back(who: str) -> None:
    """The one who signed it, who needs no role for that, and the one it was signed for."""
    under = given()
    withdrawn = approval_of(SPEC.request, AT, approver=who, verdict="withdraw")

    assert at_stage(under, grant(under), withdrawn) == "0 of 1 approvals are there"


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
def test_what_is_taken_back_is_taken_back_under_every_name() -> None:
    """The same words filed anew are not believed: a name is theirs alone, whether they were taken back or not."""
    under = given()
    again = under.model_copy(update={"approval_id": "approval-b"})

    assert "its delegation: it is filed as approval-b" in at_stage(again, grant(again))
    assert "its delegation: it is filed as approval-b" in at_stage(under, back(under), again, grant(again))
    assert "took its delegation back" in at_stage(under, back(under), grant(under))


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_a_delegation_that_nothing_names_is_refused_by_the_runner() -> None:
    """What has no part in the approval has no place in the run."""
    assert "no approval acts under" in at_runner(given(), approval_of(SPEC.request, AT, approver="bob"))


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.parametrize(
    ("verdict", "more"),
    [
        ("break-glass", {"on_behalf_of": "ada", "delegation": "approval-1", "accepted_loss": "1 s", "note": "x"}),
        ("reject", {"on_behalf_of": "ada", "delegation": "approval-1"}),
        ("delegate", {"on_behalf_of": "ada", "delegation": "approval-1"}),
        ("grant", {"on_behalf_of": "ada"}),
        ("grant", {"delegation": "approval-1"}),
        ("grant", {"delegate": "dan"}),
    ],
)
def test_nothing_but_a_plain_grant_is_said_for_another(verdict: str, more: dict[str, object]) -> None:
    """No break-glass, no rejection, no delegation of a delegation: such words are no record at all."""
    with pytest.raises(RecordError):
        approval_of(SPEC.request, AT, approver="dan", verdict=verdict, **more)  # type: ignore[arg-type]
