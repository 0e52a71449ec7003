"""What is heard about a request when all approvals of a folder are read to it: its own, and what really counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hyops.control.hearing import YES_MAX, Heard, hear
from hyops.errors import NotApprovedError, PrerequisiteError
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.ports.signer import ApproverSignature
from hyops.testing.evidence import APPROVER, SeedApprovals
from hyops.testing.runs import approval_of, plan_of, spec_of, step

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
SOON = AT + timedelta(seconds=5)
REQUEST = spec_of(plan_of([step("a")]), at=AT).request
OTHER = spec_of(plan_of([step("b")]), at=AT).request
STANDS = {"verdict": "standing", "request_digest": None, "dispatch_id": None, "decision_types": ["failover"]}
POLICY = ApprovalPolicy(allow_standing=True)


def standing(service: str) -> Approval:
    """Somebody approved the plan in advance, for one service."""
    return approval_of(REQUEST, AT, service=service, occasions=["unplanned"], **STANDS)  # type: ignore[arg-type]


def heard(*said: Approval, verifier: object = None) -> Heard:
    """What counts for the request."""
    return hear(REQUEST, said, verifier or SeedApprovals(APPROVER), POLICY, SOON)  # type: ignore[arg-type]


@pytest.mark.req("APR-1", "INV-4")
def test_only_what_speaks_of_the_request_is_heard() -> None:
    """Its grant and its standing approval count; another service's and another request's are not even unfit."""
    own = [approval_of(REQUEST, AT), standing("pg")]
    others = [standing("mail"), approval_of(OTHER, AT), approval_of(OTHER, AT, verdict="reject")]
    found = heard(*own, *others)

    assert [v.approval for v in found.verified] == own
    assert (found.unfit, found.too_many) == ((), None)


class SaysAnother:
    """A verifier that finds every signature good, and somebody else's."""

    def __init__(self, principal: str, *roles: str) -> None:
        self.found = ApproverSignature(principal, frozenset(roles), "SHA256:x")

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Good, and of whom this verifier always says."""
        return self.found


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize(
    ("by", "verdict", "why"),
    [
        *(
            (SaysAnother("eve", "approver"), verdict, "was signed by eve")
            for verdict in ("grant", "reject", "withdraw")
        ),
        *((SaysAnother(APPROVER, "break-glass"), word, "has no role approver") for word in ("grant", "reject")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_signed_must_be_who_it_names_and_hold_the_role(by: SaysAnother, why: str, verdict: str) -> None:
    """A yes and a no alike: neither counts, and each is reported."""
    found = heard(approval_of(REQUEST, AT, verdict=verdict), verifier=by)

    assert found.verified == ()
    assert [why in unfit.reason for unfit in found.unfit] == [True]


class Blind:
    """A verifier whose list of signers is gone."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Cannot say."""
        raise PrerequisiteError("allowed_signers: missing")


@pytest.mark.req("APR-1", "INV-4")
def test_who_cannot_verify_hears_nothing_at_all() -> None:
    """Not to be able to look is no silence: a no could be among them."""
    with pytest.raises(PrerequisiteError):
        heard(approval_of(REQUEST, AT, verdict="reject"), verifier=Blind())


class Unlisted:
    """A verifier that knows nobody, and counts."""

    asked = 0

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Nobody."""
        self.asked += 1
        raise NotApprovedError(f"{principal} is not an allowed signer")


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize(("yeses", "verified"), [(YES_MAX, YES_MAX), (YES_MAX + 1, 0)])
def test_a_yes_costs_a_verification_up_to_the_limit(yeses: int, verified: int) -> None:
    """At the limit all are verified and none above it, while every no is, however many."""
    said = [approval_of(REQUEST, AT, note=f"yes {n}") for n in range(yeses)]
    noes = [approval_of(REQUEST, AT, verdict="reject", note=f"no {n}") for n in range(2 * YES_MAX)]
    verifier = Unlisted()
    found = heard(*said, *noes, verifier=verifier)

    assert verifier.asked == verified + len(noes)
    assert (found.too_many is None) == (verified > 0)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
@pytest.mark.parametrize(
    "words", [{}, {"service": "pg", "occasions": ["unplanned"], **STANDS}], ids=["grant", "stands"]
)
def test_a_yes_under_another_name_does_not_count(words: dict[str, object]) -> None:
    """Its words and its signature are good, and its name is not theirs: refused, beside the first or alone."""
    good = approval_of(REQUEST, AT, **words)  # type: ignore[arg-type]
    copy = good.model_copy(update={"approval_id": "approval-20260314T030001Z-" + good.approval_id[-8:]})
    both, alone = heard(good, copy), heard(copy)

    assert [v.approval for v in both.verified] == [good]
    assert [unfit.approval_id for unfit in (*both.unfit, *alone.unfit)] == [copy.approval_id] * 2
    assert alone.unfit[0].reason.startswith(f"it is filed as {copy.approval_id}, and what was signed is ")
    assert alone.verified == ()


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("verdict", ["reject", "withdraw"])
def test_a_no_is_heard_under_every_name(verdict: str) -> None:
    """Who signed it said it: a name that is wrong makes no yes of it."""
    no = approval_of(REQUEST, AT, verdict=verdict).model_copy(update={"approval_id": "approval-b"})

    assert [v.approval for v in heard(no).verified] == [no]
