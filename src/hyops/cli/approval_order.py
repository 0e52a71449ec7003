"""`hyops approval grant-order`: sign a standby order that was carried here, without any control host (APR-1)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from hyops.cli.approval_options import NOTE, VALID_FOR, YES, consent
from hyops.cli.config_file import TO_READ, read_file


@click.command("grant-order")
@click.argument("order", type=TO_READ)
@click.option("--key", type=TO_READ, required=True, envvar="HYOPS_APPROVAL_KEY", help="Your SSH key.")
@click.option("--approver", required=True, help="Your principal, as the runner's allowed signers file has it.")
@click.option("--valid-for", "valid_s", type=VALID_FOR, default=1800.0, show_default=True, help="Seconds.")
@click.option("--break-glass", is_flag=True, help="Also without a quorum; needs --accepted-loss and --note (APR-4).")
@click.option("--accepted-loss", help="With --break-glass: what you accept to lose.")
@NOTE
@YES
def grant_order(
    order: Path,
    key: Path,
    approver: str,
    valid_s: float,
    break_glass: bool,
    accepted_loss: str | None,
    note: str | None,
    yes: bool,
) -> None:
    """Approve the takeover that ORDER describes; prints the approval, for whoever runs it on the runner."""
    from hyops import compose_takeover as compose
    from hyops.errors import UsageError
    from hyops.model.takeover import StandbyOrder
    from hyops.services.takeover_paper import shown, statement_for

    if break_glass and not ((accepted_loss or "").strip() and (note or "").strip()):
        raise UsageError("--break-glass needs --accepted-loss and --note")
    hint = "bring what `hyops takeover show --export` printed on the runner"
    read = StandbyOrder.read(read_file(order, hint), source=str(order))
    statement = statement_for(
        read,
        approver=approver,
        now=datetime.now(UTC),
        valid_s=valid_s,
        verdict="break-glass" if break_glass else "grant",
        accepted_loss=accepted_loss,
        note=note,
    )
    for line in shown(read):
        click.echo(line, err=True)
    consent("Sign this?", yes)
    click.echo(compose.granted_by_key(statement, key).encoded(), nl=False)
