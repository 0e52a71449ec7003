"""The approval stage and the runner judge the same signatures apart from each other, and never disagree."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.control import approval as stage
from hyops.control.approval import judge
from hyops.control.hearing import hear
from hyops.errors import NotApprovedError
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.dispatch import ApprovalDemand, DispatchRequest
from hyops.model.quorum import Yes, carriers
from hyops.ports.signer import ApproverSignature
from hyops.runner import admission
from hyops.runner.admission import Rules, admit
from hyops.testing.evidence import VERIFIER
from hyops.testing.runs import approval_of, plan_of, reissued, spec_of, step

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
SOON = AT + timedelta(seconds=5)
SPEC = spec_of(plan_of([step("a")]), at=AT)
Said = tuple[str, str, bool]  # who, with which key, by break-glass or not


class KeyIsTheSignature:
    """Everybody holds both roles, and the signature is the key's name."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Good, whoever is named."""
        return ApproverSignature(principal, frozenset({"approver", "break-glass"}), ssh_signature)


def _signed(request: DispatchRequest, said: list[Said]) -> list[Approval]:
    made = []
    for number, (who, key, glass) in enumerate(said):
        words = {"verdict": "break-glass", "accepted_loss": "1 s"} if glass else {}
        approval = approval_of(request, AT, approver=who, note=f"yes {number}", **words)  # type: ignore[arg-type]
        made.append(approval.model_copy(update={"ssh_signature": key}))
    return made


def both_sides(said: list[Said], required: int, requester: str | None, asked: int | None = None) -> tuple[bool, bool]:
    """Whether the stage lets it through, and whether the runner takes what the stage would hand on.

    `required` is what the policy of both demands, `asked` what the request does.
    """
    demand = None if asked is None else ApprovalDemand(required=asked)
    request = SPEC.request.model_copy(update={"requester": requester, "approvals": demand})
    approvals, policy = _signed(request, said), ApprovalPolicy(required=required)
    who = KeyIsTheSignature()
    verdict = judge(request, hear(request, approvals, who, policy, SOON), policy, SOON)
    carried = approvals
    if verdict.summary is not None:
        carried = [a for a in approvals if a.approval_id in verdict.summary.approval_ids]
    spec = reissued(SPEC, request=request, approvals=carried, summary=verdict.summary)
    try:
        names = admit(spec, Rules("cloud-runner", "cloud", VERIFIER, who, policy), now=SOON, generation_seen=0)
    except NotApprovedError:
        return verdict.state == "ready", False
    assert verdict.summary is None or set(names) <= set(verdict.summary.approved_by)
    return verdict.state == "ready", True


def plain(*names: str) -> list[Said]:
    """Ordinary approvals, each with a key of its own."""
    return [(name, f"key of {name}", False) for name in names]


GLASS: list[Said] = [("glass", "key of glass", True)]
TABLE: dict[str, tuple[list[Said], str]] = {  # who said yes -> for which `required` it runs
    "nobody": ([], ""),
    "one": (plain("ada"), "1"),
    "two": (plain("ada", "bob"), "12"),
    "three": (plain("ada", "bob", "cy"), "123"),
    "one twice": (plain("ada", "ada"), "1"),
    "one key, two names": ([("ada", "k", False), ("bob", "k", False)], "1"),
    "one name, two keys": ([("ada", "k", False), ("ada", "l", False)], "1"),
    "the requester": (plain("me"), ""),
    "the requester under two names": ([("me", "k", False), ("eve", "k", False)], ""),
    "the requester and one": (plain("me", "ada"), "12"),
    "break-glass": (GLASS, "123"),
    "break-glass twice": (GLASS * 2, "123"),
    "break-glass and one": (GLASS + plain("ada"), "123"),
    "the requester's break-glass": ([("me", "k", True)], ""),
    "the requester's break-glass under two names": ([("me", "k", True), ("eve", "k", False)], ""),
    "the requester's break-glass and one": ([("me", "k", True), *plain("ada")], "123"),
}


@pytest.mark.req("APR-1", "APR-3", "APR-4", "INV-4")
@pytest.mark.parametrize("required", [1, 2, 3])
@pytest.mark.parametrize("name", TABLE)
def test_a_quorum_is_the_same_at_both_sides(name: str, required: int) -> None:
    """What the stage lets through the runner takes, and what it holds back the runner refuses; whoever demands it."""
    said, runs = TABLE[name]
    wanted = str(required) in runs

    assert both_sides(said, required, "me") == (wanted, wanted)
    assert both_sides(said, 1, "me", asked=required) == (wanted, wanted)
    assert both_sides(said, required, "me", asked=1) == (wanted, wanted)


SAID = st.tuples(st.sampled_from(["ada", "bob", "cy", "me"]), st.sampled_from(["k", "l", "m", "n"]), st.booleans())


@pytest.mark.req("APR-1", "APR-4", "INV-4")
@given(said=st.lists(SAID, max_size=5), required=st.integers(1, 3), requester=st.sampled_from([None, "me", "ada"]))
def test_both_sides_always_agree(said: list[Said], required: int, requester: str | None) -> None:
    """Any names, keys, break-glasses, number and requester."""
    at_stage, at_runner = both_sides(said, required, requester)

    assert at_stage == at_runner


def _any_two(said: list[Yes], *, required: int, requester: str | None) -> list[Yes]:
    """The old runner's rule: a break-glass is one approval among others."""
    return carriers([Yes(y.approval_id, y.principal, y.key_fingerprint) for y in said], required=required, requester="")


def _alone(said: list[Yes], *, required: int, requester: str | None) -> list[Yes]:
    """The old stage's rule: a break-glass carries, whoever signed it."""
    return carriers(said, required=required, requester=None)


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.parametrize(
    ("side", "rule", "name", "required"),
    [
        (admission, _any_two, "break-glass", 2),
        (stage, _any_two, "break-glass", 2),
        (admission, _alone, "the requester's break-glass", 1),
        (stage, _alone, "the requester's break-glass", 1),
    ],
)
def test_another_rule_at_one_side_is_seen(
    monkeypatch: pytest.MonkeyPatch, side: object, rule: Callable[..., list[Yes]], name: str, required: int
) -> None:
    """With the rule of before on one side only, the two disagree."""
    monkeypatch.setattr(side, "carriers", lambda said, **words: rule(list(said), **words))
    at_stage, at_runner = both_sides(TABLE[name][0], required, "me")

    assert at_stage != at_runner
