"""Vantage points: `hyops probe stream` over one SSH connection each, or as a child process on this host.

Lines that are not samples of this vantage end the connection: a vantage that speaks nonsense has no vote. Losing one
is silence; it is dialled again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from hyops.adapters.ssh_pinned import SshTarget, forced_command
from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.signal import Sample
from hyops.ports.clock import Clock
from hyops.ports.signals import Lost, Received, Watchlist

__all__ = ["Limits", "LocalVantage", "SshTarget", "SshVantage"]

LINE_BYTES_MAX = 16 * 1024
EXIT_LIMIT_S = 1.0  # a program that has closed its output is about to end


@dataclass(frozen=True)
class Limits:
    """How long a vantage point may keep silent, and how often it is dialled."""

    connect_s: float = 5.0
    silence_s: float = 5.0  # a stream that says nothing for so long is dead, whatever TCP believes
    retry_first_s: float = 0.2
    retry_max_s: float = 5.0


class _Source(ABC):
    """Turns lines into samples, and a broken stream into silence and a new try."""

    def __init__(self, vantage: str, clock: Clock, limits: Limits) -> None:
        self._vantage, self._clock, self._limits = vantage, clock, limits
        self._line = b""
        self._write: Callable[[bytes], None] = _nowhere

    @property
    def vantage(self) -> str:
        """Its name."""
        return self._vantage

    async def observe(self, watchlist: Watchlist) -> AsyncGenerator[Received | Lost, None]:
        """Every sample as it arrives, for ever; `Lost` whenever the stream breaks."""
        self._line = canonical.encode(watchlist.body()) + b"\n"
        silence_s = _silence_s(watchlist, self._limits.silence_s)
        pause_s = self._limits.retry_first_s
        while True:
            try:
                async with contextlib.aclosing(self._lines(self._line, silence_s)) as lines:
                    async for line in lines:
                        sample = self._read(line)
                        pause_s = self._limits.retry_first_s
                        yield Received(sample, self._clock.monotonic())
                reason = "the stream ended"
            except TimeoutError:
                reason = "no connection, or no line, within the time limit"
            except (OSError, RecordError, EOFError) as exc:
                reason = str(exc)
            finally:
                self._write = _nowhere
            yield Lost(self._vantage, reason)
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, self._limits.retry_max_s)

    def rewatch(self, watchlist: Watchlist) -> None:
        """Look at this from now on: told to the program that runs, and to the next one."""
        self._line = canonical.encode(watchlist.body()) + b"\n"
        with contextlib.suppress(BrokenPipeError):  # it has ended: the next one is told
            self._write(self._line)

    def _read(self, line: bytes) -> Sample:
        sample = Sample.read(line, source=f"vantage {self._vantage}")
        if sample.vantage != self._vantage:
            raise RecordError(f"vantage {self._vantage} speaks for {sample.vantage}")
        return sample

    @abstractmethod
    def _lines(self, first_line: bytes, silence_s: float) -> AsyncGenerator[bytes, None]:
        """Send `first_line`, then yield whole lines until the stream ends or breaks."""


class SshVantage(_Source):
    """A vantage point on another host."""

    def __init__(self, vantage: str, clock: Clock, target: SshTarget, limits: Limits | None = None) -> None:
        super().__init__(vantage, clock, limits or Limits())
        self._target = target

    async def _lines(self, first_line: bytes, silence_s: float) -> AsyncGenerator[bytes, None]:
        async with forced_command(self._target, "probe", limit_s=self._limits.connect_s) as process:
            with contextlib.suppress(BrokenPipeError):  # it has ended already: what it said, and how, is read below
                process.stdin.write(first_line)
            self._write = process.stdin.write
            while True:
                async with asyncio.timeout(silence_s):
                    line = await process.stdout.readline()
                if not line:
                    break
                yield _whole(line)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_LIMIT_S):
                    await process.wait_closed()
            raise EOFError(f"the probe on {self._target.host} ended, exit status {process.returncode}")


class LocalVantage(_Source):
    """This host as a vantage point: the same program as on the others, as a child process."""

    def __init__(
        self,
        vantage: str,
        clock: Clock,
        program: tuple[str, ...],
        limits: Limits | None = None,
    ) -> None:
        """`program` is the whole argv of `hyops probe stream` on this host."""
        super().__init__(vantage, clock, limits or Limits())
        self._program = program

    async def _lines(self, first_line: bytes, silence_s: float) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(limit=LINE_BYTES_MAX, loop=loop), *self._program, stderr=None
        )
        process = Process(transport, protocol, loop)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(first_line)
            self._write = process.stdin.write
            while True:
                async with asyncio.timeout(silence_s):
                    line = await _line(process.stdout)
                if not line:
                    break
                yield _whole(line)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_LIMIT_S):
                    await process.wait()
            raise EOFError(f"the probe on this host ended, exit status {process.returncode}")
        finally:
            transport.close()  # kills; without closing the pipes `wait` would wait for whoever else holds them
            await process.wait()


def _silence_s(watchlist: Watchlist, least_s: float) -> float:
    """Twice as long as the busiest probe takes between two samples, and never below the limit."""
    rounds = [w.signal.interval_s + w.signal.timeout_s for w in watchlist.watched if w.signal.source != "prometheus"]
    return max(least_s, 2 * min(rounds, default=0.0))


def _nowhere(_: bytes) -> None:
    """No program runs now."""


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError as exc:
        raise RecordError(f"a line longer than {LINE_BYTES_MAX} bytes") from exc


def _whole(line: bytes) -> bytes:
    if len(line) > LINE_BYTES_MAX:
        raise RecordError(f"a line longer than {LINE_BYTES_MAX} bytes")
    if not line.endswith(b"\n"):
        raise EOFError("the stream ended within a line")
    return line
