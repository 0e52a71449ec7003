"""`hyops takeover`: finish a switch on a surviving runner when site and control hosts are gone (INV-9).

`list`, `show` and `run` are used on a runner, and reach no control host; `prepare`, `status` and `adopt` on one.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.approval_options import VALID_FOR
from hyops.cli.config_file import TO_READ
from hyops.cli.takeover_control import adopt, prepare, status

if TYPE_CHECKING:
    from hyops.runner.config import RunnerConfig
    from hyops.runner.folders import Folders
    from hyops.services.takeover import RunnerTakeover, Standing
    from hyops.services.takeover_paper import Paper

RUNNER = click.option(
    "--config",
    type=TO_READ,
    default=Path("/etc/hyops/runner.json"),
    show_default=True,
    envvar="HYOPS_RUNNER_CONFIG",
    help="This runner's own file.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
SERVICE = click.option("--service", help="Which service [default: the only one that orders lie here for].")
ORDER = click.argument("order_id", required=False)


@click.group()
def takeover() -> None:
    """Finish a switch on a surviving runner when no control host is left; prepare for it, and learn of it after."""


for _command in (prepare, status, adopt):
    takeover.add_command(_command)


@takeover.command("list")
@RUNNER
@JSON
def list_orders(config: Path, as_json: bool) -> None:
    """The standby orders that lie on this runner, and what stands in the way of each."""
    from hyops.model.words import shown

    found = _here(config)[1].standing()
    if as_json:
        click.echo(json.dumps([one.body() for one in found]))
        return
    for one in found:
        told = one.told
        state = f"NOT NOW: {one.fault.message}" if one.fault else "can be run once it is approved"
        of = f"{told['order_id']}  {told.get('service', '-')} generation {told.get('generation', '-')}"
        click.echo(shown(f"{of}  {state}"))
        if one.run_id:
            click.echo(f"    was begun as {one.run_id}")
    if not found:
        click.echo("no standby order lies here; only a control host can run a switch")


@takeover.command()
@ORDER
@SERVICE
@RUNNER
@click.option("--export", is_flag=True, help="Print the order itself, for approvers to look at and sign.")
@click.option("--statement", metavar="APPROVER", help="Print the bytes that this approver signs with ssh-keygen.")
@click.option(
    "--valid-for", "valid_s", type=VALID_FOR, default=1800.0, show_default=True, help="Seconds; for --statement."
)
@JSON
def show(
    order_id: str | None,
    service: str | None,
    config: Path,
    export: bool,
    statement: str | None,
    valid_s: float,
    as_json: bool,
) -> None:
    """What a takeover would run here, byte for byte, and how people approve it."""
    from hyops.model import words
    from hyops.runner.takeover import needed
    from hyops.services.takeover_paper import shown, statement_for

    _, taker = _here(config)
    standing = taker.chosen(order_id, service)
    order = _readable(standing)
    if export:
        click.echo(order.encoded(), nl=False)
        return
    if statement is not None:
        made = statement_for(order, approver=statement, now=datetime.now(UTC), valid_s=valid_s)
        click.echo(made.signed_bytes(), nl=False)
        return
    count = needed(order, taker.rules)
    if as_json:
        told = {**standing.body(), "approvals_needed": count, "plan": order.plan.body()}
        click.echo(json.dumps({**told, "request": order.request.body(), "request_digest": order.request.digest()}))
        return
    for line in shown(order):
        click.echo(line)
    if standing.fault is not None:
        click.echo(f"\nNOT NOW: {words.shown(standing.fault.message)}\n  next: {words.shown(standing.fault.hint)}")
    click.echo(
        f"\nneeds     {count} approvals of role approver, by people with keys of their own\n"
        f"\nHere:           hyops takeover show {order.order_id} --export > order.json\n"
        "Each approver:  hyops approval grant-order order.json --key ~/.ssh/id_ed25519 --approver NAME > NAME.json\n"
        "  or, without hyops; a FIDO key (id_ed25519_sk) is touched when it signs:\n"
        f"  here:         hyops takeover show {order.order_id} --statement NAME > NAME.json\n"
        "  approver:     ssh-keygen -Y sign -n hyops-approval@v1 -f ~/.ssh/id_ed25519 NAME.json\n"
        f"Here again:     hyops takeover run {order.order_id} --by NAME --reason WHY"
        " --approval A.json --approval B.json"
    )


@takeover.command()
@ORDER
@SERVICE
@click.option(
    "--approval", "approvals", multiple=True, metavar="FILE", help="An approval; repeat. `-` reads one from stdin."
)
@click.option("--by", required=True, help="Who of those who signed begins it: never the only one.")
@click.option("--reason", required=True, help="Why; shown in evidence.")
@click.option(
    "--no-follow", is_flag=True, help="Return as soon as the run has begun; its exit code where it has ended."
)
@RUNNER
@JSON
def run(
    order_id: str | None,
    service: str | None,
    approvals: tuple[str, ...],
    by: str,
    reason: str,
    no_follow: bool,
    config: Path,
    as_json: bool,
) -> int:
    """Run an order with the approvals for it; begun again, it goes on with the run that there is."""
    from hyops.model.words import shown

    here, taker = _here(config)
    spec = taker.run(order_id, service, [_paper(name) for name in approvals], by=by, reason=reason)
    told = {"run_id": spec.run_id, "order_id": spec.request.dispatch_id, "generation": spec.generation}
    told["approved_by"] = spec.execution.approval.approved_by
    if not no_follow:
        click.echo(shown(f"{spec.run_id}: approved by {', '.join(spec.execution.approval.approved_by)}"), err=True)
        _follow(here, spec.run_id)
    elif not _has_ended(here, spec.run_id):
        click.echo(json.dumps(told) if as_json else f"{spec.run_id} has begun; `hyops takeover run` again follows it")
        return 0
    return _ended(here, spec.run_id, told, as_json)


def _follow(config: RunnerConfig, run_id: str) -> None:
    """Show the run until its end. Interrupted here, the job goes on."""
    from hyops.model.words import shown
    from hyops.runner.follow import follow

    def emit(stream: str, offset: int, body: dict[str, Any]) -> None:
        if stream == "log":
            click.echo(shown(body.get("line"), 4096), err=True)

    follow(_folders(config), run_id, 0, emit, stop_fd=None, start_wait_s=config.start_wait_s)


def _has_ended(config: RunnerConfig, run_id: str) -> bool:
    return _folders(config).state(run_id) == "finished"


def _ended(config: RunnerConfig, run_id: str, told: dict[str, Any], as_json: bool) -> int:
    """How the run ended, and its exit code."""
    from hyops.errors import RunnerUnreachableError
    from hyops.model.run import RunResult
    from hyops.model.words import shown
    from hyops.runner.folders import FILE_MAX, read_file

    if not _has_ended(config, run_id):
        raise RunnerUnreachableError(
            f"{run_id}: its job ended without a result", hint="begin it again with the same command: it resumes"
        )
    path = _folders(config).run(run_id) / "result.json"
    result = RunResult.read(read_file(path, FILE_MAX), source=str(path))
    after = {"outcome": str(result.outcome), "exit_code": result.exit_code, "reason": result.reason}
    if as_json:
        click.echo(json.dumps({**told, **after, "generation_after": result.generation_after}))
    else:
        click.echo(shown(f"{run_id}: {result.outcome}{f': {result.reason}' if result.reason else ''}"))
        click.echo("`hyops takeover adopt` on a control host records it there, once there is one again")
    return result.exit_code


def _folders(config: RunnerConfig) -> Folders:
    from hyops.runner.folders import Folders

    return Folders(config.root, config.secrets_dir)


def _here(config: Path) -> tuple[RunnerConfig, RunnerTakeover]:
    from hyops import compose_takeover as compose
    from hyops.errors import PrerequisiteError
    from hyops.runner.config import RunnerConfig

    if not os.path.lexists(config):
        raise PrerequisiteError(
            f"{config} is not here, so this is no runner; `hyops takeover list`, `show` and `run` are typed on one",
            hint="log in on a runner outside the lost site; `hyops takeover status` on a control host says which holds "
            "an order. A runner whose file lies elsewhere: --config FILE",
        )
    read = RunnerConfig.load(config)
    return read, compose.runner_takeover(read)


def _readable(standing: Standing) -> Any:
    if standing.order is None:
        assert standing.fault is not None
        raise standing.fault
    return standing.order


def _paper(name: str) -> Paper:
    from hyops.services.takeover_paper import PAPER_MAX, Paper, paper_at

    if name == "-":
        return Paper("standard input", sys.stdin.buffer.read(PAPER_MAX))
    return paper_at(Path(name))
