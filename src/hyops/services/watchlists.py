"""What is to be looked at, given where each service is: one watchlist a source, for one service or many (DEC-2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hyops.model.observed import Mode
from hyops.model.policy import ASKED_BY_THE_SERVICE, Member, ServicePolicy, Signal
from hyops.ports.signals import Watched, Watchlist


def member_of(policy: ServicePolicy, mode: Mode, signal: Signal) -> Member:
    """Whom a signal is about now."""
    if signal.about == "primary":
        return policy.member(mode.primary)
    return next(member for member in policy.members if member.host != mode.primary)


def watchlist_of(
    policy: ServicePolicy, mode: Mode, vantage: str, *, witnesses: Sequence[str] = (), shared: bool = False
) -> Watchlist:
    """The signals of one vantage point with the addresses they mean now; `shared`: with the name of the service."""
    probe = policy.options.get("probe") or {}
    user, dbname = str(probe.get("user", "hyops")), str(probe.get("dbname", "postgres"))
    more = {"service": policy.service, "user": user, "dbname": dbname} if shared else {}
    watched = []
    for signal in policy.signals:
        if vantage not in signal.vantages and not (signal.source in ASKED_BY_THE_SERVICE and vantage == signal.source):
            continue
        about = member_of(policy, mode, signal)
        watched.append(
            Watched(
                signal=signal,
                host=about.host,
                address=about.address,
                port=about.port,
                endpoint=policy.endpoint.name,
                authority=policy.endpoint.authorities[0],
                **more,
            )
        )
    return Watchlist(vantage=vantage, watched=watched, user=user, dbname=dbname, witnesses=list(witnesses) or None)


def joined(vantage: str, of: Iterable[tuple[ServicePolicy, Mode]], witnesses: Mapping[str, Sequence[str]]) -> Watchlist:
    """One list for all services; of one service alone it is as it was before there were several."""
    services, near = list(of), witnesses.get(vantage, ())
    lists = [watchlist_of(p, m, vantage, witnesses=near, shared=len(services) > 1) for p, m in services]
    if len(lists) == 1:
        return lists[0]
    return Watchlist(vantage=vantage, watched=[w for one in lists for w in one.watched], witnesses=list(near) or None)
