"""`hyops approval`: see what waits, sign it with your own SSH key, or say no (APR-1 to APR-4)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hyops.cli.approval_options import CONFIG, JSON, VALID_FOR, Signing, signing
from hyops.cli.approval_order import grant_order
from hyops.cli.delegation import delegate, delegations
from hyops.cli.said import say

if TYPE_CHECKING:
    from hyops.model.approval import ApprovalStatement
    from hyops.model.dispatch import DispatchRequest
    from hyops.model.plan import Plan
    from hyops.services.desk import Desk, Waiting


LOOK = "`hyops explain` says what became of it, `hyops run cancel` stops what runs"


@click.group()
def approval() -> None:
    """List, show, grant, reject and verify approvals."""


for command in (grant_order, delegate, delegations):
    approval.add_command(command)


@approval.command("list")
@CONFIG
@click.option("--all", "everything", is_flag=True, help="Also what was executed, refused or has expired.")
@JSON
def list_requests(config: Path, everything: bool, as_json: bool) -> None:
    """What waits for approval."""
    found = [w for w in _desk(config).requests() if everything or w.state in ("waiting", "ready")]
    if as_json:
        click.echo(json.dumps([_line(w) for w in found]))
        return
    for waiting in found:
        request = waiting.request
        say(f"{request.dispatch_id}  {waiting.state:9} {request.service or '-'} {request.decision_type}")
        say(f"    {waiting.reason}; {request.rationale}")
    if not found:
        click.echo("nothing waits")


@approval.command()
@click.argument("dispatch_id")
@CONFIG
@JSON
def show(dispatch_id: str, config: Path, as_json: bool) -> None:
    """What a request would run, byte for byte, and what is still missing."""
    desk = _desk(config)
    waiting = desk.find(dispatch_id)
    plan = desk.plan(waiting.request) if waiting.request.plan_digest else None
    if as_json:
        click.echo(json.dumps({**_line(waiting), "plan": plan.body() if plan else None}))
    else:
        _show(waiting, plan, err=False)


@approval.command()
@click.argument("dispatch_id")
@click.option("--acknowledge", multiple=True, metavar="WARNING", help="A warning you have read; repeat for each.")
@click.option("--valid-for", "valid_s", type=VALID_FOR, default=1800.0, show_default=True, help="Seconds.")
@click.option("--break-glass", is_flag=True, help="Carry it alone; needs --accepted-loss and --note (APR-4).")
@click.option("--accepted-loss", help="With --break-glass: what you accept to lose.")
@click.option("--for", "absent", metavar="APPROVER", help="Act for somebody who delegated to you.")
@signing
def grant(
    dispatch_id: str,
    acknowledge: tuple[str, ...],
    valid_s: float,
    break_glass: bool,
    accepted_loss: str | None,
    absent: str | None,
    by: Signing,
) -> None:
    """Approve exactly what `show` prints, with your signature."""
    from hyops.errors import UsageError

    if break_glass and not ((accepted_loss or "").strip() and (by.note or "").strip()):
        raise UsageError("--break-glass needs --accepted-loss and --note")
    if break_glass and absent:
        raise UsageError("--break-glass is your own word: nobody says it for somebody else")
    desk = _desk(by.config)
    waiting = desk.find(dispatch_id)
    principal = by.principal
    statement = desk.statement(
        waiting.request,
        "break-glass" if break_glass else "grant",
        approver=principal,
        absent=absent,
        delegation=_delegation(by.config, waiting.request, principal, absent) if absent else None,
        valid_s=valid_s,
        acknowledged=acknowledge,
        note=by.note,
        accepted_loss=accepted_loss,
    )
    _show(waiting, desk.plan(waiting.request), err=True)
    _put(desk, statement, by, "Sign this?")


@approval.command()
@click.argument("dispatch_id")
@signing
def reject(dispatch_id: str, by: Signing) -> None:
    """Say no for good: the request can never run."""
    _say_no("reject", dispatch_id, by)


@approval.command()
@click.argument("dispatch_id")
@signing
def withdraw(dispatch_id: str, by: Signing) -> None:
    """Take back your approval of a request while nothing was sent; or a delegation or standing one (approval-...)."""
    if dispatch_id.startswith("approval-"):
        from hyops.cli.delegation import take_back

        return take_back(dispatch_id, by)
    return _say_no("withdraw", dispatch_id, by)


@approval.command()
@click.option("--plan", "plan_digest", required=True, metavar="DIGEST", help="The plan, as `show` prints it.")
@click.option("--service", required=True)
@click.option("--type", "kinds", multiple=True, default=("failover",), show_default=True)
@click.option("--occasion", "occasions", multiple=True, default=("unplanned",), show_default=True)
@click.option("--valid-for", "valid_s", type=VALID_FOR, default=30 * 86400.0, show_default=True, help="Seconds.")
@signing
def standing(
    plan_digest: str,
    service: str,
    kinds: tuple[str, ...],
    occasions: tuple[str, ...],
    valid_s: float,
    by: Signing,
) -> None:
    """Approve one plan in advance, for one service and named occasions, until a date."""
    from hyops.errors import UsageError
    from hyops.model.routes import kind_of
    from hyops.model.vocabulary import Occasion

    desk = _desk(by.config)
    try:
        types, when = [kind_of(word) for word in kinds], [Occasion(word) for word in occasions]
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    statement = desk.standing(plan_digest, service, types, when, approver=by.principal, valid_s=valid_s, note=by.note)
    click.echo(
        f"{service}: {', '.join(types)} ({', '.join(when)}) may run plan {plan_digest}\n"
        f"without asking again until {statement.expires_at:%Y-%m-%d %H:%M} UTC",
        err=True,
    )
    _put(desk, statement, by, "Sign this standing approval?")


@approval.command()
@CONFIG
@JSON
def verify(config: Path, as_json: bool) -> None:
    """Check the signature of every approval file; exit code 13 when one is bad."""
    from hyops.errors import NotApprovedError

    found = _desk(config).verify()
    if as_json:
        click.echo(json.dumps([{"approval_id": name, "fault": fault} for name, fault in found]))
    else:
        for name, fault in found:
            say(f"{name}  {fault or 'good'}")
    bad = [name for name, fault in found if fault]
    if bad and not as_json:
        raise NotApprovedError(f"{len(bad)} of {len(found)} approvals do not verify")
    if bad:
        sys.exit(NotApprovedError.exit_code)


def _desk(config: Path) -> Desk:
    from hyops import compose_operator as compose

    return compose.approval_desk(config)


def _delegation(config: Path, request: DispatchRequest, principal: str, absent: str) -> str:
    from hyops import compose_operator as compose

    return compose.delegation_desk(config).under(request, approver=principal, absent=absent)


def _say_no(verdict: Literal["reject", "withdraw"], dispatch_id: str, by: Signing) -> None:
    desk = _desk(by.config)
    waiting = desk.find(dispatch_id)
    statement = desk.statement(waiting.request, verdict, approver=by.principal, valid_s=86400.0, note=by.note)
    _show(waiting, None, err=True)
    _put(desk, statement, by, f"Sign this {verdict}?")
    if waiting.state == "executed":
        click.echo(f"an execution was made: nothing runs if none of it was sent yet; {LOOK}", err=True)


def _put(desk: Desk, statement: ApprovalStatement, by: Signing, question: str) -> None:
    made = by.put(desk, statement, question)
    said = {"approval_id": made.approval_id, "verdict": statement.verdict, "approver": statement.approver}
    click.echo(json.dumps(said) if by.as_json else f"{statement.verdict} by {statement.approver}: {made.approval_id}")


def _line(waiting: Waiting) -> dict[str, Any]:
    return {"state": waiting.state, "reason": waiting.reason, "request": waiting.request.body()}


def _needs(request: DispatchRequest) -> str:
    if request.approvals is None:
        return "approvals: it does not say how many, so the approval stage's policy does"
    return f"{request.approvals.required} of role {request.approvals.role}, or more where the policy says so"


def _asked(request: DispatchRequest) -> str:
    """Who asked, and whether anybody proved it."""
    proof = f"proved by {request.requester_key}" if request.requester_key else "a name that nobody proved"
    return f"by {request.requester}" + ("" if request.requester_known and not request.requester_key else f", {proof}")


def _wishes(plan: Plan) -> list[str]:
    """What the decision asks of this plan beyond its steps (DEC-1a)."""
    lines = (
        [f"size      {plan.workload_profile_ref}: {plan.inputs.get('workload')}"] if plan.workload_profile_ref else []
    )
    if plan.secondary_backup_copy_required:
        lines.append("gate      a second copy of the backup is verified before anything changes")
    if plan.secret_sync_profile:
        lines.append(f"secrets   profile {plan.secret_sync_profile}")
    if plan.cutover is not None:
        left = "  DNS STAYS AS IT IS: clients are not moved" if plan.cutover.mode == "none" else ""
        lines.append(f"traffic   {plan.cutover.mode}{left}")
    return lines


def _show(waiting: Waiting, plan: Plan | None, *, err: bool) -> None:
    request = waiting.request
    lines = [
        f"request   {request.dispatch_id} ({waiting.state}: {waiting.reason})",
        f"digest    {request.digest()}",
        f"what      {request.decision_type} of {request.service} ({request.occasion}), generation {request.generation}",
        f"why       {request.rationale}",
        f"asked     {_asked(request)}",
        f"decision  {request.source_decision_id}{'' if request.source_decision_signed else '  UNSIGNED'}",
        f"where     {request.runner_ref} by {request.execution_plane}, {request.target_kind} {request.target_ref}",
        f"needs     {_needs(request)}",
        f"until     {request.expires_at:%Y-%m-%d %H:%M:%S} UTC",
    ]
    lines += [f"WARNING   {warning}" for warning in request.warnings]
    if plan is not None:
        lines.append(f"plan      {plan.digest()}")
        if (way := plan.access) is not None:
            lines.append(
                f"opens     a public way from {way.source_ranges[0]} for {way.expires_after_s:g} s: {way.occasion}"
            )
        lines += _wishes(plan)
        lines += [f"secret    {key} from {origin}" for key, origin in sorted((plan.sync_env or {}).items())]
        for number, step in enumerate(plan.steps, start=1):
            needs = f"  after {', '.join(step.requires)}" if step.requires else ""
            lines.append(f"  {number:2}. {step.id:20} {step.module_ref} [{step.phase}]{needs}")
    say(*lines, err=err)
