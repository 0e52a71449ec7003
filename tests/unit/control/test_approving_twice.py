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
For = tuple[str, str]  # for whom, whose key signed the delegation


class KeyIsTheSignature:
    """Everybody holds both roles, and the signature is the key's name."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Good, whoever is named."""
        return ApproverSignature(principal, frozenset({"approver", "break-glass"}), ssh_signature)


def _signed(request: DispatchRequest, said: list[Said], acting: list[tuple[Said, For]]) -> list[Approval]:
    made = []
    for number, ((who, key, glass), absent) in enumerate([*((one, None) for one in said), *acting]):
        words = {"verdict": "break-glass", "accepted_loss": "1 s"} if glass else {}
        if absent is not None:
            made.append(given := delegation_of(AT, *absent, to=who))
            words = {"on_behalf_of": absent[0], "delegation": given.approval_id}
        approval = approval_of(request, AT, approver=who, note=f"yes {number}", **words)  # type: ignore[arg-type]
        made.append(approval.model_copy(update={"ssh_signature": key}))
    return made


def delegation_of(at: datetime, absent: str, key: str, *, to: str, **more: object) -> Approval:
    """Somebody away says who may act for them; `more` replaces fields."""
    body = {"verdict": "delegate", "dispatch_id": None, "request_digest": None, "plan_digest": None, "delegate": to}
    body |= {"services": ["pg"], "decision_types": ["failover"], "starts_at": (at - timedelta(days=1)).isoformat()}
    body |= {"signed_at": (at - timedelta(days=2)).isoformat(), **more}
    given = approval_of(SPEC.request, at, approver=absent, **body)  # type: ignore[arg-type]
    return given.model_copy(update={"ssh_signature": key})


def both_sides(
    said: list[Said],
    required: int,
    requester: str | None,
    asked: int | None = None,
    acting: list[tuple[Said, For]] | None = None,
) -> tuple[bool, bool]:
    """Whether the stage lets it through, and whether the runner takes what the stage would hand on.

    `required` is what the policy of both demands, `asked` what the request does, `acting` who speaks for whom.
    """
    demand = None if asked is None else ApprovalDemand(required=asked)
    request = SPEC.request.model_copy(update={"requester": requester, "approvals": demand})
    approvals, policy = _signed(request, said, acting or []), ApprovalPolicy(required=required, allow_delegation=True)
    who = KeyIsTheSignature()
    verdict = judge(request, hear(request, approvals, who, policy, SOON), policy, SOON)
    carried = approvals
    if verdict.summary is not None:
        carried = [a for a in approvals if a.approval_id in verdict.summary.record_ids]
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


def acts(who: str, absent: str) -> tuple[Said, For]:
    """Somebody speaks for another, each with a key of their own."""
    return ((who, f"key of {who}", False), (absent, f"key of {absent}"))


ACTING: dict[str, tuple[list[Said], list[tuple[Said, For]], str]] = {  # who says yes, who for whom -> runs for which
    "one for another": ([], [acts("dan", "ada")], "1"),
    "beside another": (plain("bob"), [acts("dan", "ada")], "12"),
    "the absent says it too": (plain("ada"), [acts("dan", "ada")], "1"),
    "the delegate says it too": (plain("dan"), [acts("dan", "ada")], "1"),
    "both say it too": (plain("ada", "dan"), [acts("dan", "ada")], "12"),
    "two delegations to one": ([], [acts("dan", "ada"), acts("dan", "bob")], "1"),
    "two delegates of one": ([], [acts("dan", "ada"), acts("eve", "ada")], "1"),
    "two delegates of two": ([], [acts("dan", "ada"), acts("eve", "bob")], "12"),
    "a chain": ([], [acts("dan", "ada"), acts("eve", "dan")], "1"),
    "each for the other": ([], [acts("dan", "ada"), acts("ada", "dan")], "1"),
    "for themselves under two names": ([], [(("dan", "k", False), ("ada", "k"))], "1"),
    "for the requester": ([], [acts("dan", "me")], ""),
    "the requester for another": ([], [acts("me", "ada")], ""),
    "for the requester, and one": (plain("bob"), [acts("dan", "me")], "12"),
    "for the requester under two names": ([("me", "k", False)], [(("dan", "key of dan", False), ("eve", "k"))], ""),
    "the requester, and for another": (plain("me"), [acts("dan", "ada")], "12"),
    "the requester's break-glass, and for them": ([("me", "k", True)], [(("dan", "l", False), ("me", "k"))], ""),
    "the requester's break-glass, and for another": ([("me", "k", True)], [acts("dan", "ada")], "123"),
}


@pytest.mark.req("APR-1", "APR-3", "APR-4", "INV-4")
@pytest.mark.parametrize("required", [1, 2, 3])
@pytest.mark.parametrize("name", ACTING)
def test_who_acts_for_another_is_counted_once_at_both_sides(name: str, required: int) -> None:
    """One voice with whom they act for, never the requester's second pair of eyes; whoever demands the number."""
    said, acting, runs = ACTING[name]
    wanted = str(required) in runs

    assert both_sides(said, required, "me", acting=acting) == (wanted, wanted)
    assert both_sides(said, 1, "me", asked=required, acting=acting) == (wanted, wanted)


WHO = st.tuples(st.sampled_from(["ada", "bob", "cy", "me"]), st.sampled_from(["k", "l", "m", "n"]))


@pytest.mark.req("APR-1", "INV-4")
@given(
    said=st.lists(SAID, max_size=3),
    acting=st.lists(st.tuples(WHO, WHO).filter(lambda pair: pair[0][0] != pair[1][0]), max_size=3),
    required=st.integers(1, 3),
)
def test_both_sides_agree_about_delegates(said: list[Said], acting: list[tuple[For, For]], required: int) -> None:
    """Any names and keys; and a delegation never makes more voices than people signed, nor fewer than without it."""
    speaking: list[tuple[Said, For]] = [((*who, False), absent) for who, absent in acting]
    at_stage, at_runner = both_sides(said, required, "me", acting=speaking)

    assert at_stage == at_runner
    names: dict[str, set[str]] = {}
    for who, key in [(who, key) for who, key, _ in said] + [one for pair in acting for one in pair]:
        names.setdefault(key, set()).add(who)
    if all(len(known) == 1 for known in names.values()):  # else a delegation may tell that two names are one person
        assert at_stage or not both_sides(said, required, "me")[0]
    if at_stage and not any(glass for _, _, glass in said):
        assert len({who for who, _, _ in said} | {who for (who, _), _ in acting}) >= required


@pytest.mark.req("APR-1")
@pytest.mark.fault(10)
@pytest.mark.parametrize(("who", "state"), [(("ada",), "waiting"), (("ada", "bob"), "ready"), (("bob",), "ready")])
def test_whose_key_asked_is_known_to_the_stage(who: tuple[str, ...], state: str) -> None:
    """Under another name than the one that she approves with."""
    request = SPEC.request.model_copy(update={"requester": "ada-at-work", "requester_key": "key of ada"})
    policy = ApprovalPolicy()
    heard = hear(request, _signed(request, plain(*who), []), KeyIsTheSignature(), policy, SOON)

    assert judge(request, heard, policy, SOON).state == state


def _any_two(said: list[Yes], *, required: int, **_: object) -> list[Yes]:
    """The old runner's rule: a break-glass is one approval among others."""
    return carriers([Yes(y.approval_id, y.principal, y.key_fingerprint) for y in said], required=required, requester="")


def _alone(said: list[Yes], *, required: int, **_: object) -> list[Yes]:
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
