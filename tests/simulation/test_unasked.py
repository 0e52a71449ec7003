"""A switch runs without people only where all who may want them say no; each alone keeps it waiting (VOC-4, APR-3)."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.control.decision import asked_inputs, operator_decision
from hyops.model.approval import ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import Asked
from hyops.model.policy import ServicePolicy
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, Occasion, Outcome, RequestStatus
from hyops.runner.admission import Rules, admit
from simulation.world import VERIFIER, World, policy, routes

NOBODY = ApprovalPolicy(allow_unapproved=True)
FREE: dict[str, Any] = {"service": {"requires_approval": False}, "route": {"requires_approval": False}, "env": False}
Body = dict[str, Any]


def unasked(
    service: Body | None = None,
    route: Body | None = None,
    env: bool = False,
    stage: ApprovalPolicy = NOBODY,
    runner: ApprovalPolicy = NOBODY,
) -> World:
    """A lost site, in a world where nobody is asked but by what is given. Its runner admits by its real rules."""
    body = routes(dispatcher_require_approval=env).body()
    body["dispatcher_routes"]["failover"] |= {} if route is None else route
    world = World(
        service_policy=policy(**({"requires_approval": False} if service is None else service)),
        service_routes=routes(**body),
        approval_policy=stage,
    )
    rules = Rules("cloud-runner", "cloud", VERIFIER, world.approvers, runner)

    def admits(spec: RunSpec) -> None:
        admit(spec, rules, now=world.clock.now(), generation_seen=0)

    world.runners["cloud-runner"].admits = admits
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.settle()
    return world


@pytest.mark.req("VOC-4", "DSP-2", "APR-3")
@pytest.mark.parametrize("word", [{}, {"requires_approval": False}])
def test_what_the_loop_triggers_runs_without_people_where_all_say_so(word: Body) -> None:
    """The route's own word, or that of the dispatcher where the route has none; it is queued, and runs to its end."""
    world = unasked(route=word)

    (request,) = world.records("requests", DispatchRequest)
    assert (request.status, request.approvals_needed) == (RequestStatus.QUEUED, 0)
    assert world.disk["approvals"].ids() == []
    assert len(world.runners["cloud-runner"].started) == 1
    assert [one.outcome for one in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.req("VOC-4", "DSP-2", "APR-3", "GATE-1", "GATE-3")
@pytest.mark.parametrize(
    "who",
    [
        {"service": {}},
        {"service": {"requires_approval": True}},
        {"service": {"requires_approval": False, "level": "recommend"}},
        {"route": {"requires_approval": True}},
        {"route": {"requires_approval": False, "approvals_required": 1}},
        {"env": True},
        {"stage": ApprovalPolicy()},
        {"runner": ApprovalPolicy()},
    ],
)
def test_whoever_wants_people_to_be_asked_keeps_it_waiting(who: Body) -> None:
    """Policy, level, route, dispatcher, approval stage or runner: nothing runs, and a yes is all that is missing."""
    world = unasked(**who)

    assert world.runners["cloud-runner"].started == []
    assert Outcome.SUCCEEDED not in [one.outcome for one in world.outcomes()]
    if "runner" not in who:  # by then an execution was made of it, and its refusal ends it
        assert world.disk["executions"].ids() == []
        world.say_yes()
        world.settle()
        assert len(world.runners["cloud-runner"].started) == 1


def decided(known: ServicePolicy) -> Decision:
    """What the loop decides on a lost site."""
    world = World(service_policy=known)
    world.watch(3)
    world.site_dies()
    world.watch(2)
    return world.decisions()[0]


@pytest.mark.req("VOC-4", "DEC-1")
def test_the_policy_frees_only_what_is_triggered() -> None:
    """A recommendation asks people, whatever the policy says; so does whatever a person asks for."""
    assert decided(policy()).requires_approval
    assert not decided(policy(requires_approval=False)).requires_approval
    assert decided(policy(requires_approval=False, level="recommend")).requires_approval
    free = World(service_policy=policy(requires_approval=False))
    wish = Asked(decision_type=DecisionType.FAILOVER, occasion=Occasion.PLANNED, rationale="now", requested_by="bob")
    asked = asked_inputs(free.policy, free.stages[0]["decision"].mode, wish, free.clock.now())
    assert operator_decision(asked).requires_approval
