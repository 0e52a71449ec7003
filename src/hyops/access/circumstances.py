"""What is known of a run before anybody looks at the network: where it goes, and why (ACC-1, ACC-2)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyops.errors import UnsafePlanError
from hyops.model.access import PublicAccess
from hyops.model.plan import Plan
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Occasion

WORKSTATION = "workstation-direct"


@dataclass(frozen=True)
class Target:
    """One host that the run must reach."""

    host: str
    address: str
    site: str | None = None


@dataclass(frozen=True)
class Circumstances:
    """One run. `failed_site` is set when the run is there because that site failed."""

    plane: ExecutionPlane
    runner_ref: str
    runner_site: str
    env: str
    blueprint_ref: str
    decision_type: DecisionType
    targets: tuple[Target, ...] = ()
    failed_site: str | None = None
    break_glass: bool = False
    public: PublicAccess | None = None
    run_id: str = ""
    site_networks: Mapping[str, list[str]] = field(default_factory=dict)

    def site_at(self, address: str) -> str | None:
        """The declared site that an address lies in; None when no declared network holds it."""
        try:
            wanted = ipaddress.ip_address(address)
        except ValueError:
            return None
        held = [
            (network.prefixlen, site)
            for site, networks in self.site_networks.items()
            for network in map(ipaddress.ip_network, networks)
            if network.version == wanted.version and wanted in network
        ]
        return max(held)[1] if held else None


def plane_of(word: str) -> ExecutionPlane:
    """The plane of a word that a person typed.

    Raises:
        UnsafePlanError: `workstation-direct`, or no plane at all; another one is never put in its place (GATE-3).
    """
    if word == WORKSTATION:
        raise UnsafePlanError(
            f"{WORKSTATION} is refused: recovery and burst run from a standing runner, never from a workstation",
            hint=f"choose one of {', '.join(ExecutionPlane)}",
        )
    try:
        return ExecutionPlane(word)
    except ValueError:
        raise UnsafePlanError(f"execution plane {word!r}: one of {', '.join(ExecutionPlane)}") from None


def targets_of(plan: Plan, occasion: Occasion, host_sites: Mapping[str, str]) -> tuple[Target, ...]:
    """The hosts that must be reached: the plan's target, and its source too when it is asked to hand over.

    After a failure the source is not among them: that it does not answer is why the run is there.
    """
    named = [plan.inputs.get("target")]
    if occasion is Occasion.PLANNED:
        named.append(plan.inputs.get("source"))
    members = {str(m.get("host")): m for m in _mappings(plan.inputs.get("members"))}
    found = []
    for value in named:
        told: Mapping[str, Any] = value if isinstance(value, Mapping) else members.get(str(value), {})
        host, address = told.get("host", value), told.get("address")
        if isinstance(host, str) and isinstance(address, str):
            site = host_sites.get(host) or told.get("site")
            found.append(Target(host, address, str(site) if site else None))
    return tuple(found)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
