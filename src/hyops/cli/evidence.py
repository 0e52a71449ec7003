"""`hyops evidence`: verify, show, report and pack what happened; works offline, with public keys alone (EVD-2)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.said import say
from hyops.errors import EvidenceError

if TYPE_CHECKING:
    from hyops.evidence.summary import Summary
    from hyops.evidence.verify import Verified

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
_FILE = TO_READ
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@dataclass(frozen=True)
class Trust:
    """The public files that evidence is verified with."""

    keys: Path
    allowed_signers: Path | None
    approvers: Path | None


def trusting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name whom to trust, as one `trust`."""

    @click.option("--keys", type=_FILE, metavar="FILE", required=True, help="Trusted public keys with their roles.")
    @click.option("--allowed-signers", type=_FILE, metavar="FILE", help="OpenSSH allowed signers of approvals.")
    @click.option("--approvers", type=_FILE, metavar="FILE", help="Their roles [default: approvers.json beside them].")
    @wraps(command)
    def with_trust(keys: Path, allowed_signers: Path | None, approvers: Path | None, **rest: Any) -> None:
        if approvers is None and allowed_signers is not None:
            approvers = allowed_signers.with_name("approvers.json")
        command(trust=Trust(keys, allowed_signers, approvers), **rest)

    return with_trust


@click.group()
def evidence() -> None:
    """Verify, show and report what happened."""


@evidence.command()
@BUNDLE
@JSON
@click.option("--head", metavar="DIGEST", help="Also require this digest of the seal, kept from an earlier look.")
@trusting
def verify(bundle: Path, trust: Trust, as_json: bool, head: str | None) -> None:
    """Check every record of BUNDLE (a directory or .tar); exit 41 names the first bad one."""
    verified = _verified(bundle, trust)
    if head is not None and head != verified.head:
        raise EvidenceError(f"this is another bundle: its head is {verified.head}", expected=head)
    if as_json:
        shown = {"verified": True, "records": verified.records, "head": verified.head}
        click.echo(json.dumps({**shown, "remarks": list(verified.remarks)}))
        return
    click.echo(f"evidence: verified ({verified.records} records)\n  head: {verified.head}")
    for remark in verified.remarks:
        say(f"  note: {remark}")


@evidence.command()
@BUNDLE
@JSON
@trusting
def show(bundle: Path, trust: Trust, as_json: bool) -> None:
    """Tell what BUNDLE says, after verifying it."""
    from hyops.evidence import report as reports
    from hyops.evidence.summary import summarise

    verified = _verified(bundle, trust)
    if as_json:
        click.echo(json.dumps(reports.as_json(verified.contents, verified), ensure_ascii=False))
        return
    _tables(summarise(verified.contents), verified)


@evidence.command()
@BUNDLE
@JSON
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="Where the page (or JSON) goes.")
@trusting
def report(bundle: Path, trust: Trust, as_json: bool, output: Path) -> None:
    """Write one self-contained HTML page about BUNDLE (with --json the same as data), after verifying it."""
    from hyops.evidence import report as reports

    verified = _verified(bundle, trust)
    text = (
        json.dumps(reports.as_json(verified.contents, verified), indent=2, ensure_ascii=False) + "\n"
        if as_json
        else reports.page(verified.contents, verified)
    )
    _write(output, text)
    click.echo(f"report: {output}")


@evidence.command()
@BUNDLE
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="The .tar to write.")
def pack(bundle: Path, output: Path) -> None:
    """Make one .tar of a bundle directory, for sending it on."""
    from hyops.evidence.bundle import pack as pack_bundle

    pack_bundle(bundle, output)
    click.echo(f"packed: {output}")


def _verified(bundle: Path, trust: Trust) -> Verified:
    from hyops import compose_operator as compose
    from hyops.evidence.verify import verify_path

    verifier, ssh = compose.offline_verifiers(trust.keys, trust.allowed_signers, trust.approvers)
    return verify_path(bundle, verifier, ssh)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise EvidenceError(f"{path}: {exc.strerror}", hint="name a place that can be written") from exc


def _tables(summary: Summary, verified: Verified) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from hyops.evidence.summary import span
    from hyops.model.words import shown

    def plain(text: str) -> str:
        return escape(shown(text))

    console = Console()
    colour = {"good": "green", "warn": "yellow", "bad": "red", "plain": "blue"}[summary.tone]
    console.print(f"[bold]{plain(summary.headline)}[/] · [{colour}]{plain(summary.verdict)}[/]")
    console.print(f"[green]evidence verified[/], {verified.records} records, head {verified.head}")
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _facts(summary):
        facts.add_row(f"[dim]{name}[/]", plain(value))
    console.print(facts)
    table = Table("when", "where", "what", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for event in sorted(summary.events, key=lambda e: e.start):
        offset = (event.start - summary.origin).total_seconds() if summary.origin else 0.0
        table.add_row(f"{offset:+.3f} s", event.lane, plain(event.label))
    console.print(table)
    if summary.actuals:
        phases = Table("phase", "took", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for name, took in (*summary.actuals.control_s.items(), *summary.actuals.phases_s.items()):
            phases.add_row(plain(name), span(took))
        console.print(phases)
    for remark in verified.remarks:
        console.print(f"[yellow]note[/] {plain(remark)}")


def _facts(summary: Summary) -> list[tuple[str, str]]:
    from hyops.evidence.summary import span

    rows = [("service", summary.service), ("bundle", summary.name)]
    if summary.actuals:
        a = summary.actuals
        rows += [("RTA", f"{span(a.rta_s)} (objective {span(a.objectives.rto_s)}: {a.rto})")]
        rows += [("RPA", f"{span(a.rpa_s)} (objective {span(a.objectives.rpo_s)}: {a.rpo})")]
    if summary.loss:
        n = summary.loss
        rows += [("rows", f"{n.acknowledged} acknowledged, {n.surviving} surviving, {n.lost} lost ({n.how})")]
    rows += [("fence", f"{r.receipt_class} for {r.host}") for r in summary.receipts]
    if summary.generation:
        rows += [("generation", f"{summary.generation[0]} -> {summary.generation[1]}")]
    rows += [("approved by", a.statement.approver) for a in summary.approvals]
    return rows
