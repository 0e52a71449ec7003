"""Whether the members are two, and whether what switches to one outlives the other (DEC-4, FAULTS 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hyops.control.proof.doors import door, host_of, ip_of
from hyops.control.proof.places import OPTION, alike
from hyops.control.proof.rules import Finding
from hyops.model.policy import Member, ServicePolicy

NAME_MAX = 253
HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*(?![0-9]+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
LOCAL = ("ip6-localhost", "ip6-loopback")


def members(policy: ServicePolicy) -> Iterator[Finding]:
    """Every finding about members that only look like two."""
    known: dict[tuple[str, int], Member] = {}
    for index, member in enumerate(policy.members):
        if why := _misplaced(member.address):
            text = f"{member.address!r} of {member.host} {why}"
            told = {member.host: "looked at by every vantage point, and never reached there"}
            yield Finding("member/address", ("members", index, "address"), text, told)
        twin = known.setdefault(door(member.address, member.port), member)
        if twin is not member:
            text = f"{twin.host} and {member.host} are both asked for at {member.address}, port {member.port}"
            told = {twin.host: "lost", member.host: "lost with it, or well and looked at in its place"}
            yield Finding("member/one-address", ("members", index, "address"), text, told)
    for primary in policy.members:
        target = next(member for member in policy.members if member is not primary)  # as `evaluate` chooses it
        index = policy.members.index(target)
        if alike(target.site) == alike(primary.site):
            text = f"{primary.host} and {target.host}, which replaces it, both stand in {primary.site}"
            yield Finding("member/one-site", ("members", index, "site"), text, {primary.site: "lost"})
        elif alike(primary.site) in _sites_of(policy, target.runner_ref):
            text = f"{target.runner_ref} runs the switch to {target.host}, and may be lost with {primary.site}"
            told = {primary.site: f"lost with {primary.host} and {target.runner_ref}"}
            yield Finding("member/runner-lost", ("members", index, "runner_ref"), text, told)


def _misplaced(address: str) -> str | None:
    """Why nobody, or everybody, is reached at an address; None when it may be some host's own."""
    known, name = ip_of(address), host_of(address)
    if address != address.strip():
        return "has blanks around it"
    if known is None:
        if len(name) > NAME_MAX or not HOST.fullmatch(name):
            return "is neither an IP address nor a host name"
        return "is whichever host is looking" if name.rpartition(".")[2] in ("localhost", *LOCAL) else None
    if known.is_loopback:
        return "is whichever host is looking"
    return "is no host's own address" if known.is_unspecified or known.is_multicast else None


def _sites_of(policy: ServicePolicy, runner: str) -> set[str]:
    """Where a runner stands: what the policy says, or else beside each member that it belongs to."""
    told = policy.options.get(OPTION)
    if isinstance(told, dict) and runner in told:
        return {alike(str(told[runner]))}
    return {alike(member.site) for member in policy.members if member.runner_ref == runner}
