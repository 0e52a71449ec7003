"""`hyops run reconcile`: give a run that ended unknown its answer, by proof or by your signed word (VOC-5)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hyops.cli.approval_options import APPROVER, DEFAULT_CONFIG, FILE, YES, consent
from hyops.cli.config_file import TO_READ

if TYPE_CHECKING:
    from hyops.model.execution import AttemptOutcome

EXECUTOR = "/opt/hybridops/decision-executor/config/config.json"


@click.command()
@click.argument("run_id")
@click.option("--config", type=TO_READ, default=EXECUTOR, envvar="HYOPS_EXECUTION_CONFIG", help="The executor's file.")
@click.option(
    "--approval-config", type=TO_READ, default=DEFAULT_CONFIG, envvar="HYOPS_APPROVAL_CONFIG", help="Who may sign."
)
@click.option("--outcome", type=click.Choice(["failed", "cancelled"]), help="Close it by your word, as this.")
@click.option("--reason", default="", help="Why you are sure; stands in the record.")
@click.option("--looked-at", multiple=True, metavar="WHAT", help="What you looked at and saw; repeat for each.")
@click.option("--generation-after", type=int, help="If the service has moved on: the generation that it has now.")
@click.option("--primary-after", metavar="HOST", help="With --generation-after: where the primary is now.")
@click.option("--runner-lost", is_flag=True, help="The runner is powered off or rebuilt: nothing is at work there.")
@click.option("--key", type=FILE, envvar="HYOPS_APPROVAL_KEY", help="Your SSH key; needed with --outcome.")
@APPROVER
@YES
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def reconcile(
    run_id: str,
    config: Path,
    approval_config: Path,
    outcome: Literal["failed", "cancelled"] | None,
    key: Path | None,
    approver: str | None,
    yes: bool,
    as_json: bool,
    **seen: Any,
) -> None:
    """Ask the runner how a run ended that nobody knows the end of; without proof, close it by your signed word."""
    from hyops import compose_operator as compose
    from hyops.errors import UsageError

    if outcome is not None and key is None:
        raise UsageError("--outcome needs --key: the word is yours, so you sign it")
    reconciler = compose.reconciler(config, approval_config)
    question = reconciler.find(run_id)
    said = asyncio.run(reconciler.ask(question))
    if outcome is None or key is None:
        _show(reconciler.prove(question, said), as_json)
        return
    principal = approver or compose.principal_of(approval_config, key)
    statement = reconciler.statement(question, said, operator=principal, outcome=outcome, **seen)
    moved = statement.generation_after
    click.echo(
        f"run       {run_id} of {statement.service}, {question.attempt.runner_ref}\n"
        f"runner    {statement.runner_said}\n"
        f"you say   {outcome}; "
        + (f"generation {moved}, primary {statement.primary_after}" if moved else "the service has not moved")
        + f"\nbecause   {statement.reason}\n"
        + "\n".join(f"saw       {text}" for text in statement.looked_at),
        err=True,
    )
    consent("Sign this? It unblocks the service.", yes)
    _show(reconciler.close(question, statement, compose.ssh_sign(statement.signed_bytes(), key)), as_json)


def _show(closed: AttemptOutcome, as_json: bool) -> None:
    click.echo(json.dumps(closed.body()) if as_json else f"{closed.run_id}  {closed.outcome}  {closed.reason or ''}")
