"""Where a policy wants to see a person at a security key, every yes shows one, at stage and runner (APR-1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from hyops.control.approval import judge
from hyops.control.hearing import hear
from hyops.errors import NotApprovedError
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.execution import ApprovalSummary
from hyops.model.presence import Presence, unseen
from hyops.ports.signer import ApproverSignature
from hyops.runner.admission import Rules, admit
from hyops.testing.evidence import VERIFIER, SeedApprovals
from hyops.testing.runs import approval_of, plan_of, reissued, spec_of, step

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
SOON = AT + timedelta(seconds=5)
SPEC = spec_of(plan_of([step("a")]), at=AT)
UNTOUCHED, TOUCHED, BOTH = Presence(False, False), Presence(True, False), Presence(True, True)
ONLY_PIN = Presence(False, True)
TOUCH, PIN = ApprovalPolicy(require_touch=True), ApprovalPolicy(require_pin=True)
EVERYTHING = ApprovalPolicy(require_touch=True, require_pin=True, allow_standing=True, allow_delegation=True)
ROLES = frozenset({"approver", "break-glass"})
STANDS = {"verdict": "standing", "request_digest": None, "dispatch_id": None, "decision_types": ["failover"]}
STANDS |= {"service": "pg", "occasions": ["unplanned"]}
GLASS = {"verdict": "break-glass", "accepted_loss": "30 s", "note": "burnt"}
AWAY = {"verdict": "delegate", "dispatch_id": None, "request_digest": None, "plan_digest": None, "delegate": "dan"}
AWAY |= {"services": ["pg"], "decision_types": ["failover"], "starts_at": AT.isoformat()}


class Keys:
    """Who signs with which key: what it says of the person, or None for a key in a file."""

    def __init__(self, keys: Mapping[str, Presence | None]) -> None:
        self._keys = keys

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Who signed, and what is known of the person."""
        known = SeedApprovals(*self._keys, roles=ROLES, presence=self._keys.get(principal))
        return known.verify(principal, data, ssh_signature, at)


def at_both(policy: ApprovalPolicy, keys: Mapping[str, Presence | None], *said: Approval) -> tuple[str, str]:
    """What the approval stage and the runner say: `ready`, or what is wrong."""
    heard = hear(SPEC.request, said, Keys(keys), policy, SOON)
    verdict = judge(SPEC.request, heard, policy, SOON)
    stage = "ready" if verdict.state == "ready" else "; ".join(u.reason for u in verdict.unfit) or verdict.reason
    summary = ApprovalSummary(required=True, approval_ids=[a.approval_id for a in said], mode="signed")
    spec = reissued(SPEC, request=SPEC.request, approvals=said, summary=summary)
    try:
        admit(spec, Rules("cloud-runner", "cloud", VERIFIER, Keys(keys), policy), now=SOON, generation_seen=0)
    except NotApprovedError as exc:
        return stage, exc.message
    return stage, "ready"


def said(approver: str = "ada", **more: object) -> Approval:
    """A yes to the request; `more` replaces fields."""
    return approval_of(SPEC.request, AT, approver=approver, **more)  # type: ignore[arg-type]


@pytest.mark.req("APR-1")
@pytest.mark.parametrize(
    ("policy", "presence"),
    [
        (ApprovalPolicy(), None),
        (ApprovalPolicy(), UNTOUCHED),
        (TOUCH, TOUCHED),
        (TOUCH, BOTH),
        (PIN, ONLY_PIN),
        (EVERYTHING, BOTH),
    ],
)
def test_who_was_seen_counts(policy: ApprovalPolicy, presence: Presence | None) -> None:
    """Any key where nothing is required; a touched one, one with its PIN, or both, where that is."""
    assert at_both(policy, {"ada": presence}, said()) == ("ready", "ready")


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "APR-3")
@pytest.mark.parametrize(
    ("policy", "presence", "says"),
    [
        (TOUCH, None, "not signed with a security key"),
        (PIN, None, "not signed with a security key"),
        (TOUCH, UNTOUCHED, "was not touched"),
        (TOUCH, ONLY_PIN, "was not touched"),
        (PIN, TOUCHED, "did not ask for the PIN"),
        (EVERYTHING, TOUCHED, "did not ask for the PIN"),
        (EVERYTHING, ONLY_PIN, "was not touched"),
    ],
)
@pytest.mark.parametrize("words", [{}, STANDS, GLASS], ids=["grant", "standing", "break-glass"])
def test_who_was_not_seen_does_not_count(
    policy: ApprovalPolicy, presence: Presence | None, says: str, words: dict[str, object]
) -> None:
    """A key in a file, one that nobody touched, one without its PIN: no grant, no standing one, no broken glass."""
    policy = policy.model_copy(update={"allow_standing": True})
    stage, runner = at_both(policy, {"ada": presence}, said(**words))

    assert (says in stage, says in runner) == (True, True)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"ada": None, "dan": BOTH}, "its delegation: it was not signed with a security key"),
        ({"ada": BOTH, "dan": None}, "it was not signed with a security key"),
        ({"ada": BOTH, "dan": BOTH}, "ready"),
    ],
)
def test_who_gives_and_who_acts_are_both_seen(keys: dict[str, Presence | None], says: str) -> None:
    """A delegation is a yes in advance: the absent person's key is looked at as well as that of who acts."""
    under = said(**AWAY)
    grant = said("dan", on_behalf_of="ada", delegation=under.approval_id)
    stage, runner = at_both(EVERYTHING, keys, under, grant)

    assert (says in stage, says in runner) == (True, True)


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("verdict", ["reject", "withdraw"])
def test_a_no_needs_no_security_key(verdict: str) -> None:
    """It is heard whatever key signed it: who lost the key in the night can still stop what it allowed."""
    yes, no = said("bob"), said("ada", verdict=verdict)
    heard = hear(SPEC.request, [yes, no], Keys({"ada": None, "bob": BOTH}), EVERYTHING, SOON)

    assert sorted(v.approval.statement.verdict for v in heard.verified) == ["grant", verdict]


@pytest.mark.req("APR-1")
def test_one_of_two_keys_is_not_enough() -> None:
    """The policy wants two people: the one without a security key does not count as one of them."""
    policy = ApprovalPolicy(required=2, require_touch=True)
    stage, runner = at_both(policy, {"ada": TOUCHED, "bob": None}, said(), said("bob"))

    assert ("security key" in stage, "security key" in runner) == (True, True)
    assert at_both(policy, {"ada": TOUCHED, "bob": TOUCHED}, said(), said("bob")) == ("ready", "ready")


@pytest.mark.req("APR-1")
def test_nothing_is_asked_where_nothing_is_required() -> None:
    """Whatever a key says, or none does."""
    assert {unseen(presence, touch=False, pin=False) for presence in (None, UNTOUCHED, BOTH)} == {None}
