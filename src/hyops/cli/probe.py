"""`hyops probe`: observe a service from this host. Nothing is decided here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hyops.model.signal import Sample
    from hyops.ports.signals import Watchlist

LINE_BYTES_MAX = 4 * 1024 * 1024


@click.group()
def probe() -> None:
    """Observe a service from this vantage point."""


@probe.command()
@click.option("--password-file", type=click.Path(path_type=Path), help="password of the probing database user")
@click.option("--vantage", help="refuse a configuration for another vantage point")
def stream(password_file: Path | None, vantage: str | None) -> None:
    """Read a configuration line, then print one sample per line until standard input ends.

    Another line replaces what is looked at; what it leaves as it was goes on without a gap.
    """
    lines = _lines()
    read = _reader(vantage)
    asyncio.run(_print_until_input_ends(read(next(lines, b"")), _password(password_file), read, lines))


def _lines() -> Iterator[bytes]:
    """Whole lines of standard input, unbuffered: no lock is held while a thread waits for one."""
    kept = b""
    with contextlib.suppress(OSError):
        while piece := os.read(0, 64 * 1024):
            kept += piece
            while b"\n" in kept or len(kept) > LINE_BYTES_MAX:
                line, _, kept = kept.partition(b"\n")
                yield line


def _reader(vantage: str | None) -> Callable[[bytes], Watchlist]:
    from hyops.ports.signals import Watchlist

    def read(line: bytes) -> Watchlist:
        watchlist = Watchlist.read(line, source="standard input")
        if vantage is not None and watchlist.vantage != vantage:
            raise ConfigError(f"the configuration is for vantage point {watchlist.vantage}, this is {vantage}")
        return watchlist

    return read


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"--password-file: {exc}") from exc


async def _print_until_input_ends(
    watchlist: Watchlist, password: str | None, read: Callable[[bytes], Watchlist], lines: Iterator[bytes]
) -> None:
    from hyops.compose_signals import probe_stream

    ended = asyncio.Event()

    def emit(sample: Sample) -> None:
        try:
            os.write(1, sample.encoded_line())  # unbuffered: no torn line is left over for the end of the process
        except BrokenPipeError:
            ended.set()  # nobody listens any more

    stream, told = probe_stream(watchlist, password, emit), asyncio.Queue[bytes]()

    async def obey() -> None:
        while True:
            stream.rewatch(read(await told.get()))

    _follow(lines, asyncio.get_running_loop(), told, ended)
    tasks = {
        asyncio.create_task(stream.run()),
        asyncio.create_task(obey()),  # a line that is none ends the stream, as it does at the beginning
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


def _follow(
    lines: Iterator[bytes], loop: asyncio.AbstractEventLoop, told: asyncio.Queue[bytes], ended: asyncio.Event
) -> None:
    """Pass lines on, and set `ended` when the peer goes away. A daemon thread: it never delays the end."""

    def drain() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            for line in lines:
                loop.call_soon_threadsafe(told.put_nowait, line)
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=drain, daemon=True).start()
