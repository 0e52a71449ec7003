"""Whether the members are two, and whether what switches to one outlives the other (DEC-4, FAULTS 1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from hyops.control.proof.places import OPTION
from hyops.control.proof.rules import Finding
from hyops.model.policy import Member, ServicePolicy


def members(policy: ServicePolicy) -> Iterator[Finding]:
    """Every finding about members that only look like two."""
    known: dict[tuple[str, int], Member] = {}
    for index, member in enumerate(policy.members):
        twin = known.setdefault(_door(member), member)
        if twin is not member:
            text = f"{twin.host} and {member.host} are both asked for at {member.address}, port {member.port}"
            told = {twin.host: "lost", member.host: "lost with it, or well and looked at in its place"}
            yield Finding("member/one-address", ("members", index, "address"), text, told)
    for primary in policy.members:
        target = next(member for member in policy.members if member is not primary)  # as `evaluate` chooses it
        index = policy.members.index(target)
        if target.site == primary.site:
            text = f"{primary.host} and {target.host}, which replaces it, both stand in {primary.site}"
            yield Finding("member/one-site", ("members", index, "site"), text, {primary.site: "lost"})
        elif primary.site in _sites_of(policy, target.runner_ref):
            text = f"{target.runner_ref} runs the switch to {target.host}, and may be lost with {primary.site}"
            told = {primary.site: f"lost with {primary.host} and {target.runner_ref}"}
            yield Finding("member/runner-lost", ("members", index, "runner_ref"), text, told)


def _door(member: Member) -> tuple[str, int]:
    """Where a member is reached, however it is spelled."""
    text = member.address.strip().removesuffix(".").casefold()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text, member.port
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), member.port


def _sites_of(policy: ServicePolicy, runner: str) -> set[str]:
    """Where a runner stands: what the policy says, or else beside each member that it belongs to."""
    told = policy.options.get(OPTION)
    if isinstance(told, dict) and runner in told:
        return {str(told[runner])}
    return {member.site for member in policy.members if member.runner_ref == runner}
