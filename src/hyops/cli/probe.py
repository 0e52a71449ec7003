"""`hyops probe`: observe a service from this host. Nothing is decided here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.errors import ConfigError

if TYPE_CHECKING:
    from hyops.model.signal import Sample
    from hyops.ports.signals import Watchlist

FIRST_LINE_BYTES_MAX = 1024 * 1024


@click.group()
def probe() -> None:
    """Observe a service from this vantage point."""


@probe.command()
@click.option("--password-file", type=click.Path(path_type=Path), help="password of the probing database user")
@click.option("--vantage", help="refuse a configuration for another vantage point")
def stream(password_file: Path | None, vantage: str | None) -> None:
    """Read one configuration line, then print one sample per line until standard input ends."""
    from hyops.ports.signals import Watchlist

    watchlist = Watchlist.read(sys.stdin.buffer.readline(FIRST_LINE_BYTES_MAX), source="standard input")
    if vantage is not None and watchlist.vantage != vantage:
        raise ConfigError(f"the configuration is for vantage point {watchlist.vantage}, this is {vantage}")
    asyncio.run(_print_until_input_ends(watchlist, _password(password_file)))


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"--password-file: {exc}") from exc


async def _print_until_input_ends(watchlist: Watchlist, password: str | None) -> None:
    from hyops.compose_signals import probe_stream

    ended = asyncio.Event()

    def emit(sample: Sample) -> None:
        try:
            os.write(1, sample.encoded_line())  # unbuffered: no torn line is left over for the end of the process
        except BrokenPipeError:
            ended.set()  # nobody listens any more

    _at_end_of_input(asyncio.get_running_loop(), ended)
    tasks = {
        asyncio.create_task(probe_stream(watchlist, password, emit).run()),
        asyncio.create_task(ended.wait()),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _at_end_of_input(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Set `ended` when the peer goes away. A daemon thread: it works on any file and never delays the end."""

    def drain() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 64 * 1024):
                pass
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=drain, daemon=True).start()
