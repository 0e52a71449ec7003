"""Where vantage points and members stand, and whether the loss of a site is decided at all (DEC-4, FAULTS 1, 30)."""

from __future__ import annotations

from collections.abc import Iterator

from hyops.control import decision
from hyops.control.checks import is_wal
from hyops.control.proof.claims import described
from hyops.control.proof.rules import Finding
from hyops.control.proof.situation import STAND_IN, Setting, Situation, Word, places_of
from hyops.control.proof.table import Row, acts
from hyops.model.policy import Member, ServicePolicy, Signal
from hyops.model.vocabulary import DrMode

OPTION = "vantage_sites"


def vantages_of(policy: ServicePolicy) -> list[str]:
    """The vantage points that have a vote."""
    return sorted({v for s in policy.signals if s.about == "primary" and s.weight > 0 for v in s.vantages})


def alike(site: str) -> str:
    """A site by its name, whatever the case: `Onprem` is no other building than `onprem`."""
    return site.strip().casefold()


def sites_of(policy: ServicePolicy) -> dict[str, str]:
    """The site of each vantage point that has one: `options.vantage_sites`, then hosts and runners of members."""
    told = policy.options.get(OPTION)
    own = {str(name): str(site) for name, site in told.items()} if isinstance(told, dict) else {}
    known = {member.runner_ref: member.site for member in policy.members}
    known |= {member.host: member.site for member in policy.members}
    return {name: alike(site) for name, site in {**known, **own}.items()}


def places(setting: Setting) -> Iterator[Finding]:
    """Every finding about sites."""
    policy, sites = setting.policy, sites_of(setting.policy)
    vantages = vantages_of(policy)
    for vantage in vantages:
        if vantage not in sites:
            yield Finding(
                "vantage/unplaced", ("options", OPTION, vantage), f"{vantage} has no site", {vantage: "somewhere"}
            )
    found = {sites.get(vantage) for vantage in vantages}
    if len(found) == 1 and None not in found and len(vantages) > 1:
        (site,) = found
        text = f"{', '.join(vantages)} all stand in {site}"
        yield Finding("vantage/one-site", ("signals",), text, {str(site): "its uplink breaks"})
    else:
        yield from _outvoting(setting, sites, vantages)
    for member in policy.members:
        row = Row(lost(policy, member, sites), None, 0)
        emission = decision.evaluate(setting.inputs(row.situation))
        if acts(emission) or policy.dr_mode is DrMode.DENY:
            continue
        row = Row(row.situation, emission, 0)
        why = emission.decision.rationale if emission else "nothing is decided"
        away = {vantage for vantage in vantages if sites.get(vantage) == alike(member.site)}
        text = f"{member.site} is lost with {member.host} and {', '.join(sorted(away)) or 'no vantage point'}: {why}"
        yield Finding("site/loss-undecided", ("quorum",), text, described(policy, row))


def _outvoting(setting: Setting, sites: dict[str, str], vantages: list[str]) -> Iterator[Finding]:
    """Every site whose vantage points move the service by themselves, although all others see the primary."""
    policy = setting.policy
    for site in sorted({sites[vantage] for vantage in vantages if vantage in sites}):
        blind = [vantage for vantage in vantages if sites.get(vantage) == site]
        if len(blind) < 2:  # one alone is `act/one-vantage`
            continue
        words = {}
        for signal, vantage in places_of(policy):
            seen = Word.BAD if is_wal(signal) else Word.OK
            if signal.about == "primary":
                seen = Word.ERROR if vantage == STAND_IN else Word.BAD if vantage in blind else Word.OK
            words[signal.name, vantage] = seen
        emission = decision.evaluate(setting.inputs(Situation(words)))
        if acts(emission):
            text = f"{' and '.join(blind)} stand in {site}, and move the service although all others see the primary"
            yield Finding("vantage/one-site", ("quorum",), text, described(policy, Row(Situation(words), emission, 0)))


def lost(policy: ServicePolicy, member: Member, sites: dict[str, str]) -> Situation:
    """The site of a member that is primary is gone, with every vantage point in it; all else is well."""
    words = {}
    for signal, vantage in places_of(policy):
        words[signal.name, vantage] = (
            Word.ABSENT if sites.get(vantage) == alike(member.site) else _seen(signal, vantage)
        )
    return Situation(words, "home" if member.host == policy.preferred else member.host)


def _seen(signal: Signal, vantage: str) -> Word:
    if signal.about == "target":
        return Word.BAD if is_wal(signal) else Word.OK
    return Word.ERROR if vantage == STAND_IN else Word.BAD  # Prometheus may be lost with the site
