"""`hyops policy`: prove that a policy is safe, or see what it would have done; nothing live is asked (DEC-4, DEC-5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.policy_simulate import simulate

if TYPE_CHECKING:
    from hyops.compose_policy import Lines
    from hyops.control.proof.check import Proof
    from hyops.control.proof.rules import Finding

UNSAFE, UNREADABLE = 16, 11
SHOWN_MAX = 12  # of the places that are in one state, in a counterexample for people
STATES = ("mode", "standing", "decision")


@click.group()
def policy() -> None:
    """Prove a policy, or replay what it would have done."""


@policy.command()
@click.argument("files", nargs=-1, required=True, type=TO_READ, metavar="FILE...")
@click.option("--routes", type=TO_READ, help="The dispatcher's routes: what becomes of each decision there?")
@click.option(
    "--catalog",
    "catalogs",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where blueprints are, as the dispatcher's catalogs; the first that has one counts. Unset: the shipped ones.",
)
@click.option("--quiet", is_flag=True, help="Findings only, no table.")
@click.option("--json", "as_json", is_flag=True, help="For programs, with every row of the table.")
def check(files: tuple[Path, ...], routes: Path | None, catalogs: tuple[Path, ...], quiet: bool, as_json: bool) -> int:
    """Prove over all situations that no input of FILE (one service's policy) leads to an unsafe decision.

    Every signal at every vantage point is ok, bad, unconfirmed, unknown, stale or absent, the service at home, away or
    unserved, a run open, a hold on: each class of situations goes through the evaluation that decides in earnest.
    With --routes each decision is routed and planned as the dispatcher does it, and compared with the policy.
    Exits with 16 when something unsafe was found, and with 11 when a file could not be read.
    """
    from hyops import compose_policy as compose
    from hyops.control.proof.check import check as proved
    from hyops.errors import ConfigError

    if catalogs and routes is None:
        raise click.UsageError("--catalog: only what --routes names is looked up in a catalogue")
    faults: list[tuple[str, str]] = []
    found: list[tuple[Lines, Proof]] = []
    known, of_routes, plan_for = None, None, None
    if routes is not None:
        known, of_routes = compose.routes_file(routes)
        plan_for = compose.route_planner(known, catalogs)
    for file in files:
        try:
            read, lines = compose.policy_file(file)
        except ConfigError as exc:
            faults.append((str(file), exc.message))
            continue
        found.append((lines, proved(read, known, plan_for)))
    if as_json:
        told = [_body(lines, of_routes, proof) for lines, proof in found]
        unread = [{"path": path, "message": said} for path, said in faults]
        click.echo(json.dumps({"policies": told, "unreadable": unread}))
    else:
        for lines, proof in found:
            _tell(lines, of_routes, proof, quiet)
        for _, said in faults:
            click.echo(f"hyops: cannot read {said}", err=True)
    return UNREADABLE if faults else UNSAFE if any(proof.findings for _, proof in found) else 0


policy.add_command(simulate)


def _place(lines: Lines, of_routes: Lines | None, one: Finding) -> tuple[str, int]:
    where = of_routes if one.of_routes and of_routes is not None else lines
    return where.path, where.of(one.where)


def _body(lines: Lines, of_routes: Lines | None, proof: Proof) -> dict[str, Any]:
    from hyops.control.proof.claims import described
    from hyops.control.proof.readings import readings
    from hyops.control.proof.waits import key_of

    findings = []
    for one in proof.findings:
        path, line = _place(lines, of_routes, one)
        place = {"path": path, "line": line, "rule": one.rule, "key": key_of(one.where)}
        findings.append({**place, "message": one.message, "input": dict(one.input), "mend": one.mend})
    return {
        "path": lines.path,
        "service": proof.policy.service,
        "env": proof.policy.env,
        "situations": proof.table.situations,
        "classes": sum(1 for row in proof.table.rows if row.count),
        "drawn": proof.table.sampled,
        "waits": proof.arithmetic,
        "receipts_of_a_lost_site": proof.receipts,
        "readings": [{"signal": name, "asks": asks, "read": read} for name, asks, read in readings(proof.policy)],
        "findings": findings,
        "table": [{"situations": row.count, **described(proof.policy, row)} for row in proof.table.rows],
    }


def _tell(lines: Lines, of_routes: Lines | None, proof: Proof, quiet: bool) -> None:
    from hyops.control.proof.waits import key_of

    if not quiet:
        _table(proof)
    for one in proof.findings:
        path, line = _place(lines, of_routes, one)
        click.echo(f"{path}:{line}: {one.rule}: {key_of(one.where)}: {one.message}")
        for state, places in _by_state(one.input):
            click.echo(f"  {state}: {places}")
        click.echo(f"  mend: {one.mend}")
    said = f"{len(proof.findings)} finding(s)" if proof.findings else "safe"
    rows = sum(1 for row in proof.table.rows if row.count)
    click.echo(f"{proof.policy.service} ({lines.path}): {said}; {_count(proof.table.situations)} in {rows} classes")


def _table(proof: Proof) -> None:
    from hyops.control.proof.readings import readings

    click.echo(f"{'signal':24} {'asks':24} its values")
    for name, asks, read in readings(proof.policy):
        click.echo(f"{name:24} {asks:24} {read}")
    click.echo()
    click.echo(f"{'service is':16} {'standing':10} {'decision':36} {'classes':>7}  situations")
    for mode, block, verdict, classes, situations in proof.grouped():
        click.echo(f"{mode:16} {'-' if block == 'none' else block:10} {verdict:36} {classes:7}  {situations:,}")
    receipts = ", ".join(proof.receipts) or "none"
    click.echo(f"all situations: {proof.table.situations:,}; {proof.table.sampled} more drawn from the whole product")
    click.echo(f"a lost primary may be replaced after {proof.arithmetic}, people not counted; clients follow within")
    click.echo(f"endpoint.ttl_s {proof.policy.endpoint.ttl_s} more; fence of a lost site by: {receipts}\n")


def _by_state(told: Any) -> list[tuple[str, str]]:
    """The counterexample turned round: what is in which state, so that many places are few lines."""
    states: dict[str, list[str]] = {}
    for place, word in told.items():
        if "@" in place:
            states.setdefault(word, []).append(place)
    lines = [(word, ", ".join(places[:SHOWN_MAX]) + (" ..." if len(places) > SHOWN_MAX else ""))
             for word, places in states.items()]  # fmt: skip
    return [*lines, *((place, word) for place, word in told.items() if "@" not in place)]


def _count(number: int) -> str:
    return f"{number:,} situations"
