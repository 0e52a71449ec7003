"""`hyops drill`: rehearse a switch on real hosts with the plan bytes of an emergency, and prove what it did (UX-3)."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hyops_lab.drill import Drills, Trial


@click.group()
@click.option("--lab", "lab_id", default=lambda: os.environ.get("HYOPS_LAB_ID", "demo"), help="lab id [default: demo]")
@click.pass_context
def drill(ctx: click.Context, lab_id: str) -> None:
    """Rehearse a switch on real hosts and prove the result."""
    ctx.obj = lab_id


def _options(command: Any) -> Any:
    """What every kind of drill takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="one JSON line per trial"),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path("out/drill"),
            show_default=True,
            help="where the evidence and the public keys are put",
        ),
        click.option("-n", "count", type=click.IntRange(1, 1000), default=1, show_default=True),
    ):
        command = option(command)
    return click.pass_obj(command)


@drill.command()
@_options
def switchover(lab_id: str, count: int, out: Path, as_json: bool) -> None:
    """Planned: switch to the other member and, next time, back. No row may be lost."""
    with_drills(lab_id, count, out, as_json, _switchover)


@drill.command("site-loss")
@_options
def site_loss(lab_id: str, count: int, out: Path, as_json: bool) -> None:
    """Unplanned: kill the primary's site, let the loop recover, compare its count of the loss with the truth."""
    with_drills(lab_id, count, out, as_json, _site_loss)


@drill.command("takeover")
@_options
def takeover(lab_id: str, count: int, out: Path, as_json: bool) -> None:
    """Kill site and control host, take over on the surviving runner, have control adopt it, switch back.

    Every survivor's link is captured from the moment both are dead until the client writes again.
    """
    from hyops_lab.takeover import summed

    with_drills(lab_id, count, out, as_json, _taking_over(), summed)


def _taking_over() -> Callable[[Drills], Iterator[Trial]]:
    """Control comes back with its records gone the first time, as it was the second time, and so on."""
    numbers = itertools.count()

    def once(drills: Drills) -> Iterator[Trial]:
        from hyops_lab.takeover import TakeoverDrill

        started = time.monotonic()
        if not drills.at_home():
            yield drills.switchover()
        yield TakeoverDrill(drills).once(rebuilt=next(numbers) % 2 == 0)
        yield drills.recover()
        click.echo(f"lost, taken over, adopted and switched back in {time.monotonic() - started:.0f} s", err=True)

    return once


def _switchover(drills: Drills) -> Iterator[Trial]:
    yield drills.switchover()


def _site_loss(drills: Drills) -> Iterator[Trial]:
    if not drills.at_home():
        yield drills.switchover()
    yield drills.site_loss()
    yield drills.recover()


def with_drills(
    lab_id: str,
    count: int,
    out: Path,
    as_json: bool,
    once: Callable[[Drills], Iterator[Trial]],
    summed: Callable[[list[Trial], int], Sequence[str]] = lambda trials, asked: (),
) -> None:
    """Bring a lab up when it is not there, run `once` that often, print a line per trial, and end 40 on a bad one.

    `summed` says what all of them come to; also of those before one that could not be made.
    """
    from hyops.errors import NotVerifiedError
    from hyops_lab import Lab, ledger
    from hyops_lab.approver import stand
    from hyops_lab.drill import Drills
    from hyops_lab.wiring import everything

    lab = Lab(lab_id, say=lambda text: click.echo(text, err=True))
    mine = not lab.is_up()
    try:
        if mine:
            lab.up(wire=everything.wire)
        stand(lab)
        ledger.start(lab)
        everything.export_public_keys(lab, out)
        drills, bad = Drills(lab, keep=out), []
        trials: list[Trial] = []
        try:
            for number in range(1, count + 1):
                for trial in once(drills):
                    trials.append(trial)
                    click.echo(json.dumps(asdict(trial), default=str) if as_json else line(number, count, trial))
                    bad += faults(trial)
        finally:
            for text in summed(trials, count):
                click.echo(text, err=as_json)
        if bad:
            raise NotVerifiedError(f"{len(bad)} faults in {count} trials: " + "; ".join(bad[:5]))
        if not as_json:
            click.echo(f"{count} of {count}: every switch succeeded, every loss was counted, all evidence verifies")
            click.echo(f"evidence: {out}, a folder per run, with the public keys that verify it")
    finally:
        if mine:
            lab.down()


def line(number: int, count: int, trial: Trial) -> str:
    """One trial for people."""
    first = "" if trial.first_ack_s is None else f", first write after {trial.first_ack_s:.2f} s"
    evidence = "verified" if trial.verified else "NOT VERIFIED"
    captured = ""
    if trial.kind == "takeover":
        from hyops_lab import takeover as drilled

        captured = f"\n        {drilled.line(trial)}"
    return (
        f"[{number}/{count}] {trial.kind}: {trial.source} -> {trial.target} {trial.outcome}, "
        f"generation {trial.generation}, fence {trial.receipt_class}, client gap {trial.gap_s:.2f} s{first}, "
        f"acknowledged {trial.acknowledged} / surviving {trial.surviving} / lost {trial.lost} "
        f"(claimed {trial.claimed_lost}), evidence {trial.run_id} {evidence}{captured}"
    )


def faults(trial: Trial) -> list[str]:
    """What is wrong with a trial."""
    found = []
    if trial.outcome != "succeeded":
        found.append(f"{trial.run_id} {trial.outcome}")
    if not trial.truthful:
        found.append(f"{trial.run_id} says {trial.claimed_lost} lost, the truth is {trial.lost}")
    if trial.kind == "switchover" and trial.lost_here:
        found.append(f"{trial.run_id} lost {trial.lost_here} rows in a planned switch")
    if not trial.verified:
        found.append(f"the evidence of {trial.run_id} does not verify")
    if trial.kind == "takeover":
        from hyops_lab import takeover as drilled

        found += drilled.faults(trial)
    return found
