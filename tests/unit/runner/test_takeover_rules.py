"""What is sealed for a takeover runs in no other way, and a takeover runs nothing else; each rule has its guard."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from hyops.errors import HyopsError, RecordError, UnsafePlanError
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Takeover
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Condition, Occasion
from hyops.runner import takeover_rules
from hyops.runner.admission import Rules, admit
from hyops.runner.takeover import taken_over
from hyops.testing.clock import EPOCH
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals
from hyops.testing.runs import approval_of, spec_of
from mutants import Guard, guards_of, without
from takeover_kit import BOB, GENERATION, later, order_for, plan_for

AT = later(EPOCH, 60)
HOSTS = {"onprem-db": "onprem", "cloud-db": "cloud"}
RULES = Rules(
    "cloud-runner", "cloud", VERIFIER, SeedApprovals(APPROVER, BOB, roles=frozenset({"approver", "break-glass"})),
    host_sites=HOSTS,
)  # fmt: skip
NOTE = Takeover(by=APPROVER, reason="both are gone", generation_seen=GENERATION)


def _spec(told: Takeover = NOTE, *, signer: str = "runner:cloud-runner", **statement: Any) -> RunSpec:
    order = order_for(EPOCH)
    signed_at = statement.pop("signed_at", AT)
    said = [approval_of(order.request, signed_at, approver=who, **statement) for who in (APPROVER, BOB)]
    return taken_over(order, said, told, RULES, STAGES[signer], epoch=1, now=AT)


def _with(spec: RunSpec, role: str, takeover: Takeover | None = NOTE, **request: object) -> RunSpec:
    """Another request behind the same execution, all of it signed by who has the keys."""
    changed: DispatchRequest = sign_record(spec.request.model_copy(update=request), STAGES["dispatch"])
    said = [approval_of(changed, AT, approver=who) for who in (APPROVER, BOB)]
    summary = spec.execution.approval.model_copy(update={"approval_ids": [a.approval_id for a in said]})
    change = {"source_request_digest": changed.digest(), "takeover": takeover, "approval": summary}
    execution = sign_record(spec.execution.model_copy(update={**change, **_occasion(request)}), STAGES[role])
    parts = {"request": changed, "execution": execution, "approvals": said, "run_id": execution.run_id()}
    return spec.model_copy(update={**parts, **_occasion(request)})


def _occasion(request: dict[str, object]) -> dict[str, object]:
    return {"occasion": request["occasion"]} if "occasion" in request else {}


def _ordinary() -> RunSpec:
    """A run of the loop, whose execution a runner has signed as its own takeover."""
    spec = spec_of(plan_for(), at=EPOCH, generation=GENERATION)
    return _with(spec, "runner:cloud-runner")


@functools.cache
def _cases() -> dict[str, RunSpec]:
    glass = NOTE.model_copy(update={"generation_seen": None, "accepted_loss": "all since 03:00"})
    other = {"verdict": "break-glass", "accepted_loss": "something else", "note": "dark"}
    return {
        "an order in an ordinary run": _with(_spec(), "approval", None),
        "a run of the loop as a takeover": _ordinary(),
        "an unsigned decision": _with(_spec(), "runner:cloud-runner", source_decision_signed=False),
        "a planned move": _with(_spec(), "runner:cloud-runner", occasion=Occasion.PLANNED),
        "a standing approval": _spec(
            verdict="standing", dispatch_id=None, request_digest=None, service="pg", decision_types=["failover"],
            occasions=["unplanned"],
        ),
        "an old approval": _spec(
            signed_at=later(AT, -3601), expires_at=later(AT, 60).isoformat()
        ),
        "no quorum and nobody accepts it": _spec(NOTE.model_copy(update={"generation_seen": None})),
        "no quorum and another loss": _spec(glass, **other),
        "begun by somebody who signed nothing": _spec(NOTE.model_copy(update={"by": "operator@example.org"})),
        "another generation at the quorum": _spec(NOTE.model_copy(update={"generation_seen": GENERATION + 1})),
    }  # fmt: skip


def _admitted(spec: RunSpec) -> bool:
    """Whether it begins, as the runner's job asks."""
    from dataclasses import replace

    from hyops.model.approval import ApprovalPolicy

    try:
        admit(spec, replace(RULES, policy=ApprovalPolicy(allow_standing=True)), now=AT, generation_seen=0)
        takeover_rules.refuse_a_strangers_beginning(spec)
    except HyopsError:
        return False
    return True


GUARDS = list(guards_of(takeover_rules))


@pytest.mark.req("INV-9", "INV-4", "INV-8", "APR-4")
@pytest.mark.fault(30)
def test_every_case_is_refused_and_the_good_one_is_not() -> None:
    """The control of what follows; and the source still has as many guards as were counted."""
    assert admit(_spec(), RULES, now=AT, generation_seen=0) == sorted([APPROVER, BOB])
    assert [name for name, spec in _cases().items() if _admitted(spec)] == []
    assert len(GUARDS) == 9


@pytest.mark.req("INV-9", "INV-4", "INV-8", "APR-4")
@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_without_any_one_guard_something_is_admitted(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """One `if ...: raise` is gone: one of the cases runs."""
    mutated = without(takeover_rules, guard)
    for name in ("is_takeover", "refuse_what_is_not_of_today", "refuse_a_strangers_beginning"):
        monkeypatch.setattr(takeover_rules, name, getattr(mutated, name))

    assert [name for name, spec in _cases().items() if _admitted(spec)] != []


SIGNERS: list[tuple[str, Callable[[], RunSpec]]] = [
    ("approval", lambda: _spec(signer="approval")),
    ("execution", lambda: _spec(signer="execution")),
]


@pytest.mark.req("INV-8", "INV-4")
@pytest.mark.parametrize(("who", "make"), SIGNERS)
def test_only_the_runner_itself_says_that_it_takes_over(who: str, make: Callable[[], RunSpec]) -> None:
    """No stage's key stands in for it: what began on another host is none of its takeovers."""
    with pytest.raises(RecordError, match="may not sign as runner:cloud-runner"):
        admit(make(), RULES, now=AT, generation_seen=0)


@pytest.mark.req("INV-4")
def test_an_order_whose_decision_has_no_condition_is_none() -> None:
    """Both records say what they are for."""
    spec = _spec()
    assert {spec.decision.condition, spec.request.condition} == {Condition.TAKEOVER}
    with pytest.raises(UnsafePlanError, match="no standby order"):
        takeover_rules.is_takeover(
            spec.model_copy(update={"decision": spec.decision.model_copy(update={"condition": None})})
        )
