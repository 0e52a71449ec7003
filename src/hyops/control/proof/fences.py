"""Whether a switch can prove what it must before it promotes, and whether people are asked (INV-2, FEN-1, APR-3)."""

from __future__ import annotations

from collections.abc import Iterator

from hyops.control.dispatch import Ignored, choose, route
from hyops.control.proof.rules import Finding, Where
from hyops.control.proof.situation import NOW
from hyops.control.proof.table import Row, acts
from hyops.errors import UnsafePlanError
from hyops.model.decision import Decision
from hyops.model.dispatch import Route
from hyops.model.plan import Plan
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes, kind_of
from hyops.model.vocabulary import DecisionType, Level, ReceiptClass

OF_A_LOST_SITE = {ReceiptClass.LEASE_EXPIRED, ReceiptClass.POWERED_OFF}
MAX_AGE_S = 3600.0


def fences(policy: ServicePolicy) -> Iterator[Finding]:
    """Whether some accepted receipt can be had of a site that answers nothing, and whether the way back is people's."""
    if not obtainable(policy):
        accepted = ", ".join(policy.receipts)
        text = f"receipts {accepted}: none of them can be had of a host that does not answer"
        yield Finding("fence/unobtainable", ("receipts",), text, {policy.preferred: "lost with its site"})
    option = policy.options.get("failback")
    if option is not None and option != "never":
        text = f"options.failback is {option!r}; only `never` means anything"
        yield Finding("failback/option", ("options", "failback"), text, {"mode": "away, both members stable"})


def obtainable(policy: ServicePolicy) -> set[ReceiptClass]:
    """The classes that the policy accepts and that a lost site can still give."""
    found = OF_A_LOST_SITE & set(policy.receipts)
    if policy.lease.on_loss == "stay" or not policy.lease.endpoints:
        found.discard(ReceiptClass.LEASE_EXPIRED)
    return found


def routed(policy: ServicePolicy, rows: list[Row], routes: Routes) -> Iterator[Finding]:
    """What becomes of every kind of decision in the table, by the dispatcher's own rules."""
    kinds: dict[DecisionType, Row] = {}
    for row in rows:
        if acts(row.emission) and row.emission is not None:
            kinds.setdefault(row.emission.decision.decision_type, row)
    for kind, row in sorted(kinds.items()):
        assert row.emission is not None
        yield from _of_kind(policy, routes, kind, row.emission.decision)


def _of_kind(policy: ServicePolicy, routes: Routes, kind: DecisionType, made: Decision) -> Iterator[Finding]:
    told = {"decision": f"{made.decision_type} ({made.level})"}
    chosen = choose(made, routes)
    word = next((word for word in routes.dispatcher_routes if kind_of(word) is kind), None)
    where: Where = ("dispatcher_routes", word) if word else ("dispatcher_routes",)
    if chosen is None or made.env != routes.env:
        why = (
            f"no route for {kind}"
            if chosen is None
            else f"{policy.service} is in {made.env}, the routes in {routes.env}"
        )
        yield Finding("route/missing", where if chosen is None else ("env",), why, told, of_routes=True)
        return
    if made.level is Level.TRIGGER and _asks_nobody(made, routes):
        text = f"a triggered {kind} asks for nobody's yes: requires_approval is off and approvals_required is not set"
        yield Finding("approval/none", where, text, told, of_routes=True)
    given = chosen.inputs.get("receipts")
    more = sorted(set(map(str, given)) - set(policy.receipts)) if isinstance(given, list) else []
    if more:
        text = f"the route accepts {', '.join(more)}, the policy {', '.join(policy.receipts)}"
        yield Finding("fence/route", where, text, told, of_routes=True)
    lease = chosen.inputs.get("lease")
    if isinstance(lease, dict):
        ours = policy.lease.body()
        other = sorted(key for key in ours.keys() & lease.keys() if lease[key] != ours[key])
        if other:
            text = f"the route's lease.{other[0]} is {lease[other[0]]}, the policy's {ours[other[0]]}"
            yield Finding("fence/route", where, text, told, of_routes=True)


def _asks_nobody(made: Decision, routes: Routes) -> bool:
    """What the dispatcher makes of it when nothing but route and environment ask for approval."""
    bare = made.model_copy(update={"requires_approval": False})
    told = route(bare, source_file="table", signed=True, routes=routes, plan_for=_no_plan, now=NOW, max_age_s=MAX_AGE_S)
    return not isinstance(told, Ignored) and told.request.approvals_needed == 0


def _no_plan(route: Route, decision: Decision) -> Plan:
    raise UnsafePlanError(f"{route.target_ref} is not planned here")
