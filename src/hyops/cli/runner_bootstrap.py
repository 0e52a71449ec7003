"""`hyops runner bootstrap`: make a host a standing runner, by an explicit word of a person (RUN-2)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.executor_config import config_option
from hyops.cli.run import json_option
from hyops.model.words import shown

if TYPE_CHECKING:
    from hyops.services.bootstrap import Report
    from hyops.services.config_execution import RunnerLogin

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("runner_ref")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="what goes to /etc/hyops there: runner.json and all that it names; what is 0600 here nobody else reads there",
)
@click.option("--admin", default="root", show_default=True, help="the login there: root, or one with sudo")
@click.option("--admin-key", type=FILE, required=True, help="that login's private key")
@click.option(
    "--address", help="where it is; for a runner that the executor's configuration has not yet, as are these:"
)
@click.option("--port", type=click.IntRange(1, 65535), help="of its sshd")
@click.option("--key-file", help="the dispatcher's private key; only its public half travels")
@click.option("--known-hosts", help="the file that pins its host key, under RUNNER_REF")
@click.option("--only-this-key", is_flag=True, help="every other line goes that lets somebody in as the runner's user")
@click.option("--dry-run", is_flag=True, help="only say what is wanting there")
@config_option
@json_option
def bootstrap(
    runner_ref: str,
    files: Path,
    admin: str,
    admin_key: Path,
    only_this_key: bool,
    dry_run: bool,
    config: Path,
    as_json: bool,
    **place: Any,
) -> None:
    """Make a host a standing runner, or end what an earlier one began: user, folders, hyops, keys, units, entrance.

    It installs the hyops that runs here, makes the runner's signing key there, and at last enters as the dispatcher
    does. What is as it should be is left alone: a second one changes nothing. A host of another control is refused.
    """
    from hyops import compose_bootstrap as compose

    def tell(line: str) -> None:
        if not as_json:
            click.echo(line)

    made, login = compose.bootstrap(
        runner_ref,
        config_file=config,
        folder=files,
        admin=admin,
        admin_key=admin_key,
        only_this_key=only_this_key,
        place=place,
        tell=tell,
    )
    report = asyncio.run(made.look() if dry_run else made.make())
    entry = {runner_ref: login.body()}
    if as_json:
        hello = None if report.hello is None else asdict(report.hello)
        told = {**asdict(report), "hello": hello, "runner_ref": runner_ref, "dry_run": dry_run, "executor_entry": entry}
        click.echo(json.dumps(told))
    else:
        _show(runner_ref, made.want.config.site, report, login, entry)


def _show(runner_ref: str, site: str, report: Report, login: RunnerLogin, entry: dict[str, Any]) -> None:
    for item in report.items:
        click.echo(f"{item['state']:9}  {item['what']}")
    for other in report.also_let_in:
        click.echo(f"also let in by the same file: {other}")
    if report.changes == 0:
        click.echo(f"{runner_ref}: nothing to change")
    if report.hello is not None:
        click.echo(f"{runner_ref}: answers as the dispatcher's {login.user}@{login.address}, hyops "
                   f"{shown(report.hello.hyops_version, 64)}, site {report.hello.site}")  # fmt: skip
    click.echo(f"runners in the executor's configuration: {json.dumps(entry)}")
    click.echo(f"runners in runners.yml: {runner_ref}: {{site: {site}}}")
    if report.trusted_key is not None:
        click.echo(f"keys in every trusted_keys.json: {json.dumps(report.trusted_key)}")


@click.command("signing-key")
@click.option("--runner-config", type=TO_READ, default=Path("/etc/hyops/runner.json"), show_default=True)
def signing_key(runner_config: Path) -> None:
    """On a runner, as its user: the entry of its signing key for every trusted_keys.json."""
    from hyops import compose_bootstrap as compose

    click.echo(json.dumps(compose.signing_key(runner_config)))
