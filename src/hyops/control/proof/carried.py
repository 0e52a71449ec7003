"""Whether a route carries into its plan what the policy says: the plan is made of the route (FEN-1, DSP-1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hyops.control.proof.fences import OF_A_LOST_SITE, obtainable
from hyops.engine import safety
from hyops.errors import HyopsError
from hyops.model.base import Part
from hyops.model.dispatch import Route
from hyops.model.plan import Plan
from hyops.model.policy import Endpoint, Lease, Member, ServicePolicy
from hyops.model.vocabulary import DecisionType

Said = tuple[str, str, str]
"""Rule, key of the route, what is wrong."""


@dataclass(frozen=True)
class Move:
    """From where to where a decision leads."""

    decision_type: DecisionType
    primary: Member
    target: Member


def carried(policy: ServicePolicy, move: Move | None, chosen: Route, plan: Plan | None) -> Iterator[Said]:
    """Every difference. `plan`: what the route makes; where it promotes nothing, hosts and endpoint are its own.

    What an input means where there is no plan is guessed from its name, as in the shipped blueprints.
    """
    given = chosen.inputs
    yield from _receipts(policy, given)
    steps = [] if plan is None else [step for step in plan.steps if step.module_ref in safety.FENCES | safety.PROMOTES]
    if move is None or (plan is not None and not steps):
        yield from _lease(policy, given)
        return
    if "lease" in given:
        yield from _other("fence/route", "lease", Lease, given["lease"], policy.lease)
    said = [given, *(step.inputs for step in steps)]
    for key, host in (("source", move.primary.host), ("target", move.target.host)):
        if wrong := [one[key] for one in said if key in one and one[key] != host]:
            text = f"{key} is {wrong[0]}, and this {move.decision_type} leads from {move.primary.host} to "
            yield "route/direction", f"inputs.{key}" if key in given else "target_ref", text + move.target.host
    if "members" in given:
        yield from _members(policy, given["members"])
    if "endpoint" in given:
        yield from _other("route/inputs", "endpoint", Endpoint, given["endpoint"], policy.endpoint)


def _receipts(policy: ServicePolicy, given: Mapping[str, Any]) -> Iterator[Said]:
    if "receipts" not in given:
        return
    receipts = given["receipts"]
    if not isinstance(receipts, list):
        yield "fence/route", "inputs.receipts", f"receipts is {receipts!r}, which is no list of receipt classes"
        return
    named, accepted = set(map(str, receipts)), set(map(str, policy.receipts))
    if more := sorted(named - accepted):
        text = f"the route accepts {', '.join(more)}, the policy {', '.join(policy.receipts)}"
        yield "fence/route", "inputs.receipts", text
    elif obtainable(policy) and not named & set(map(str, OF_A_LOST_SITE)):
        text = (
            f"of a host that does not answer the policy accepts {', '.join(sorted(obtainable(policy)))}, the route none"
        )
        yield "fence/route", "inputs.receipts", text


def _lease(policy: ServicePolicy, given: Mapping[str, Any]) -> Iterator[Said]:
    """What a blueprint of somebody's own is told of the lease."""
    lease, ours = given.get("lease"), policy.lease.body()
    if isinstance(lease, dict) and (other := sorted(k for k in ours.keys() & lease.keys() if lease[k] != ours[k])):
        text = f"the route's lease.{other[0]} is {lease[other[0]]}, the policy's {ours[other[0]]}"
        yield "fence/route", "inputs.lease", text


def _members(policy: ServicePolicy, given: Any) -> Iterator[Said]:
    theirs = {str(one.get("host")): one for one in given if isinstance(one, dict)} if isinstance(given, list) else {}
    ours = {member.host: member for member in policy.members}
    if not isinstance(given, list) or set(theirs) != set(ours) or len(given) != len(ours):
        text = f"the route's members are {', '.join(sorted(theirs)) or given!r}, the policy's {', '.join(ours)}"
        yield "route/inputs", "inputs.members", text
        return
    for host, member in ours.items():
        yield from _other("route/inputs", "members", Member, theirs[host], member, f"{host}: ")


def _other(rule: str, key: str, kind: type[Part], given: Any, policy: Part, whose: str = "") -> Iterator[Said]:
    """Where one part differs, with its defaults, from the policy's."""
    try:
        theirs, ours = kind.of(given, source=f"the route's {key}").body(), policy.body()
    except HyopsError as exc:
        yield rule, f"inputs.{key}", f"{whose}{exc.message}"
        return
    if other := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        name = other[0]
        text = f"{whose}the route's {key}.{name} is {theirs.get(name)}, the policy's {ours.get(name)}"
        yield rule, f"inputs.{key}", text
