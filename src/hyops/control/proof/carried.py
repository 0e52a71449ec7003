"""Whether a route carries into its plan what the policy says: the plan is made of the route (FEN-1, DSP-1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyops.control.proof.fences import OF_A_LOST_SITE, obtainable
from hyops.engine import safety
from hyops.errors import HyopsError
from hyops.model.base import Part
from hyops.model.dispatch import Route
from hyops.model.plan import Plan, Step
from hyops.model.policy import Endpoint, Lease, Member, ServicePolicy
from hyops.model.vocabulary import DecisionType

OWN = "native/"  # the modules whose inputs have these meanings; only they fence, promote and move the endpoint
Said = tuple[str, str, str]
"""Rule, key of the route, what is wrong."""


@dataclass(frozen=True)
class Move:
    """From where to where a decision leads."""

    decision_type: DecisionType
    primary: Member
    target: Member


def carried(policy: ServicePolicy, move: Move | None, chosen: Route, plan: Plan | None) -> Iterator[Said]:
    """Every difference, by rule and key. `plan`: what the route makes; where it promotes nothing, hosts and endpoint
    are its own. What a step says counts as much as what it is given: a blueprint may hold the values itself.

    What an input means where there is no plan is guessed from its name, as in the shipped blueprints.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for rule, key, text in _differences(policy, move, chosen, plan):
        found.setdefault((rule, key), []).append(text)
    for (rule, key), texts in found.items():
        yield rule, key, "; ".join(dict.fromkeys(texts))


def _differences(policy: ServicePolicy, move: Move | None, chosen: Route, plan: Plan | None) -> Iterator[Said]:
    steps = [step for step in plan.steps if step.module_ref.startswith(OWN)] if plan is not None else []
    said = _Said(chosen.inputs, steps)
    yield from _receipts(policy, said)
    moving = any(step.module_ref in safety.FENCES | safety.PROMOTES for step in steps)
    if move is None or (plan is not None and not moving):
        yield from _lease(policy, said)
        return
    for whose, key, lease in said.of("lease"):
        yield from _other(("fence/route", key), f"{whose}'s lease", Lease, lease, policy.lease)
    for name, host in (("source", move.primary.host), ("target", move.target.host)):
        if wrong := [(whose, key, one) for whose, key, one in said.of(name) if one != host]:
            whose, key, one = wrong[0]
            text = f"{whose}'s {name} is {one}, and this {move.decision_type} leads from {move.primary.host} to "
            yield "route/direction", key, text + move.target.host
    for whose, key, members in said.of("members"):
        yield from _members(policy, whose, key, members)
    for whose, key, endpoint in said.of("endpoint"):
        yield from _other(("route/inputs", key), f"{whose}'s endpoint", Endpoint, endpoint, policy.endpoint)


@dataclass(frozen=True)
class _Said:
    """What the route gives its plan, and what the steps of the plan hold."""

    given: Mapping[str, Any]
    steps: Sequence[Step]

    def of(self, name: str) -> Iterator[tuple[str, str, Any]]:
        """Whose word it is, the key of the route to look at, the word; a step's only where it is not the route's."""
        if name in self.given:
            yield "the route", f"inputs.{name}", self.given[name]
        for step in self.steps:
            if name in step.inputs and not (name in self.given and step.inputs[name] == self.given[name]):
                yield f"step {step.id}", "target_ref", step.inputs[name]


def _receipts(policy: ServicePolicy, said: _Said) -> Iterator[Said]:
    accepted = set(map(str, policy.receipts))
    for whose, key, receipts in said.of("receipts"):
        if not isinstance(receipts, list):
            yield "fence/route", key, f"{whose}'s receipts is {receipts!r}, which is no list of receipt classes"
            continue
        named = set(map(str, receipts))
        if more := sorted(named - accepted):
            text = f"{whose} accepts {', '.join(more)}, the policy {', '.join(policy.receipts)}"
            yield "fence/route", key, text
        elif obtainable(policy) and not named & set(map(str, OF_A_LOST_SITE)):
            known = ", ".join(sorted(obtainable(policy)))
            yield "fence/route", key, f"of a host that does not answer the policy accepts {known}, {whose} none"


def _lease(policy: ServicePolicy, said: _Said) -> Iterator[Said]:
    """What a blueprint of somebody's own is told of the lease."""
    ours = policy.lease.body()
    for whose, key, lease in said.of("lease"):
        if isinstance(lease, dict) and (other := sorted(k for k in ours.keys() & lease.keys() if lease[k] != ours[k])):
            text = f"{whose}'s lease.{other[0]} is {lease[other[0]]}, the policy's {ours[other[0]]}"
            yield "fence/route", key, text


def _members(policy: ServicePolicy, whose: str, key: str, given: Any) -> Iterator[Said]:
    theirs = {str(one.get("host")): one for one in given if isinstance(one, dict)} if isinstance(given, list) else {}
    ours = {member.host: member for member in policy.members}
    if not isinstance(given, list) or set(theirs) != set(ours) or len(given) != len(ours):
        text = f"{whose}'s members are {', '.join(sorted(theirs)) or repr(given)}, the policy's {', '.join(ours)}"
        yield "route/inputs", key, text
        return
    for host, member in ours.items():
        yield from _other(("route/inputs", key), f"{host}: {whose}'s members", Member, theirs[host], member)


def _other(place: tuple[str, str], what: str, kind: type[Part], given: Any, policy: Part) -> Iterator[Said]:
    """Where one part differs, with its defaults, from the policy's."""
    try:
        theirs, ours = kind.of(given, source=what).body(), policy.body()
    except HyopsError as exc:
        yield *place, exc.message
        return
    if other := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        name = other[0]
        yield *place, f"{what}.{name} is {theirs.get(name)}, the policy's {ours.get(name)}"
