"""`hyops policy simulate`: recorded signals through a policy in virtual time, plotted (DEC-5)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.config_file import TO_READ

if TYPE_CHECKING:
    from hyops.control.replay import Replay

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
WINDOWS_TOLD_MAX = 20
QUERY = re.compile(r"(?P<signal>[^@=]+)(?:@(?P<vantage>[^=]+))?=(?P<query>.+)", re.DOTALL)


@click.command()
@click.argument("file", type=TO_READ)
@click.option("--inputs", multiple=True, type=TO_READ, help="Lines of `hyops probe stream`; may be repeated.")
@click.option("--records", multiple=True, type=TO_READ, help="The decision service's state: what its decisions saw.")
@click.option("--prometheus", metavar="URL", help="Ask a Prometheus for the past of the policy's queries.")
@click.option(
    "--query",
    "queries",
    multiple=True,
    metavar="SIGNAL[@VANTAGE]=PROMQL",
    help="The past of a probed signal in Prometheus; $vantage stands for each vantage point.",
)
@click.option("--since", metavar="30d", help="Only the last so many s, m, h, d or w [default: all; Prometheus: 30d].")
@click.option("--until", metavar="TIME", help="Up to this moment, as 2026-01-31T23:59:59Z [default: the last sample].")
@click.option("--against", type=TO_READ, help="Another policy on the same recording.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a self-contained page.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def simulate(
    file: Path,
    inputs: tuple[Path, ...],
    records: tuple[Path, ...],
    prometheus: str | None,
    queries: tuple[str, ...],
    since: str | None,
    until: str | None,
    against: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Say what the policy in FILE would have done with recorded signals.

    Nobody answers here: a decision stands until it expires, and the service stays where it is. The same recording
    gives the same bytes.
    """
    from hyops import compose_policy as compose
    from hyops.control.replay import replay
    from hyops.errors import UsageError

    if not (inputs or records or prometheus):
        raise UsageError("no recording: name one with --inputs, --records or --prometheus")
    if queries and not prometheus:
        raise UsageError("--query needs --prometheus")
    asked = tuple(_query(text) for text in queries)
    source = compose.Recording(inputs, records, prometheus, asked)
    since_s, end = _seconds(since), _moment(until)
    told: list[tuple[str, Replay]] = []
    for path in (file, against):
        if path is not None:
            read, _ = compose.policy_file(path)
            told.append((path.stem, replay(read, compose.recorded(read, source, since_s, end))))
    if html is not None:
        _write(html, told)
    if as_json:
        click.echo(json.dumps({"replays": [_body(name, one) for name, one in told]}))
        return
    _show(told)
    if html is not None:
        click.echo(f"page: {html}")


def _write(path: Path, told: list[tuple[str, Replay]]) -> None:
    """The page, whole or not at all."""
    import os

    from hyops.control.replay_page import Named, page
    from hyops.errors import PrerequisiteError

    data = page([Named(name, one) for name, one in told]).encode()
    half = path.with_name(f".{path.name}.half")
    try:
        half.write_bytes(data)
        os.replace(half, path)
    except OSError as exc:
        half.unlink(missing_ok=True)
        raise PrerequisiteError(f"--html {path}: {exc.strerror}", hint="name a file that can be written") from exc


def _query(text: str) -> tuple[str, str | None, str]:
    from hyops.errors import UsageError

    found = QUERY.fullmatch(text)
    if found is None:
        raise UsageError(f"--query {text}: write it as SIGNAL=PROMQL or SIGNAL@VANTAGE=PROMQL")
    return found["signal"], found["vantage"], found["query"]


def _seconds(text: str | None) -> float | None:
    from hyops.errors import UsageError

    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if not re.fullmatch(r"[0-9]{1,6}", number) or unit not in UNITS or int(number) == 0:
        raise UsageError(f"--since {text}: write a number and one of {', '.join(UNITS)}, such as 30d")
    return float(int(number) * UNITS[unit])


def _moment(text: str | None) -> datetime | None:
    from hyops.errors import UsageError

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"--until {text}: {exc}") from exc
    if found.tzinfo is None:
        raise UsageError(f"--until {text}: a time needs a zone; write it as 2026-01-31T23:59:59Z")
    try:
        return found.astimezone(UTC)
    except OverflowError as exc:  # the first and the last hours of all, west and east of Greenwich
        raise UsageError(f"--until {text}: it has no time in UTC") from exc


def _body(name: str, told: Replay) -> dict[str, Any]:
    from hyops.control.replay import EPOCH
    from hyops.model.base import iso_utc

    def moment(at_s: float) -> str:
        from datetime import timedelta

        return iso_utc(EPOCH + timedelta(seconds=at_s))

    return {
        "policy": name,
        "service": told.policy.service,
        "from": moment(told.began_s),
        "to": moment(told.ended_s),
        "samples": told.samples,
        "silent_s": told.gaps(),
        "losses": [{"from": moment(a), "to": moment(b), "confirmed": sure} for a, b, sure in told.windows()],
        "decisions": [{"at": moment(made.at_s), **made.decision.body()} for made in told.made],
    }


def _show(told: list[tuple[str, Replay]]) -> None:
    from rich.console import Console

    from hyops.cli.policy_plot import plot
    from hyops.control.replay_page import headline
    from hyops.control.replay_plot import clock, duration, tone_of

    console = Console(highlight=False, soft_wrap=True)
    tones = {"bad": "bold red", "warn": "yellow", "plain": "cyan"}
    for name, one in told:
        console.print(f"[bold]{name}[/]: {headline(one)}")
        length = duration(one.ended_s - one.began_s)
        console.print(f"{clock(one.began_s)} UTC, {length}, {one.samples:,} samples", style="dim")
        for line in plot(one):
            console.print(line)
        for since_s, until_s, sure in one.windows()[:WINDOWS_TOLD_MAX]:
            said = "confirmed" if sure else "ended before it was confirmed"
            console.print(f"  {clock(since_s, fraction=True)}  lost for {duration(until_s - since_s)}: {said}")
        for made in one.made:
            console.print(f"  {clock(made.at_s, fraction=True)}  ", end="")
            console.print(made.word, style=tones[tone_of(made)], end="")
            console.print(f" ({made.decision.level}): {made.decision.rationale}", markup=False)
        console.print()
