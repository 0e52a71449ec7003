"""Runners asked beside each other, and what is told of one that cannot answer or has another version (RUN-11)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import click

from hyops.errors import HyopsError, ProtocolError


def note_apart(apart: ProtocolError | None) -> None:
    """Say that a runner has another version, and which side to upgrade; what was asked for is served all the same."""
    if apart is not None:
        served = "looking, following, cancelling and collecting are served all the same"
        click.echo(f"note: {apart.message}; {served}; next: {apart.hint}", err=True)


async def each(
    runners: Iterable[str],
    ask: Callable[[str], Awaitable[dict[str, Any]]],
    tell: Callable[[dict[str, Any]], None],
) -> int:
    """Ask all beside each other and tell each answer when it is there; returns the worst exit code.

    `ask` gives what is told with `ok`; an error becomes the line of its runner.
    """

    async def one(runner_ref: str) -> int:
        try:
            told = {"ok": True, "runner_ref": runner_ref, **await ask(runner_ref)}
        except HyopsError as exc:
            told = {"ok": False, "runner_ref": runner_ref, **exc.as_json()}
        tell(told)
        return int(told.get("exit_code", 0))

    return max(await asyncio.gather(*map(one, runners)), default=0)


def tell_error(told: dict[str, Any], as_json: bool) -> None:
    """The line of a runner that did not answer as it should, and the mend below it."""
    if as_json:
        click.echo(json.dumps(told))
    else:
        click.echo(f"{told['runner_ref']:20} {told['error']}: {told['message']}\n  next: {told['hint']}")
