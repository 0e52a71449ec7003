"""The seven verbs as frames over any link to a runner: what both SSH adapters have in common (RUN-5, RUN-6, RUN-11)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeVar

from hyops._version import __version__
from hyops.adapters import runner_answers as answers
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.runner_link import EndedError, Link, Pipe
from hyops.adapters.runner_return import open_return
from hyops.adapters.runner_shipping import ship
from hyops.errors import (
    HyopsError,
    PrerequisiteError,
    ProtocolError,
    RefusedError,
    RunnerAbsentError,
    RunnerUnreachableError,
    UsageError,
)
from hyops.model import canonical, protocol, wire, words
from hyops.model.clocks import SKEW_MAX_S
from hyops.model.run import RunSpec
from hyops.ports.bundle import BundleFile
from hyops.ports.signer import Verifier
from hyops.ports.takeover import HeldOrder
from hyops.ports.transport import (
    GcReport,
    RunEvent,
    RunnerHello,
    RunReturn,
    RunStatus,
    RunVerdict,
    StageReport,
)

T = TypeVar("T")
NO_COMMAND = 127  # what every shell ends with when there is no such program
CALL_LIMIT_S = 60.0  # until the answer begins; of its payload, for each piece
PIECE = 256 * 1024  # so a return of 64 MiB comes home over any link of 35 kbit/s, and in five hours at most
OFFER_LIMIT_S = 120.0  # the runner hashes what it has of the bundle before it answers
CACHE_FACTS = ("files", "size_bytes", "gone_files", "gone_bytes")
SILENCE_S = 60.0  # of a followed run, before the runner is asked whether it still runs
CHANNELS_MAX = 6  # a stock sshd allows ten sessions a connection


class _Channel:
    """One `hyops runner-serve` on the other side: one request after the other."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    async def send(self, header: Mapping[str, Any], payload: bytes = b"") -> None:
        await self.pipe.write(wire.encode(header, payload))

    async def receive(self, came: Callable[[int, int], None] = lambda size, of: None) -> tuple[dict[str, Any], bytes]:
        """The next frame; a refusal is raised as the runner's own error. `came`: told what there is of its payload."""
        header, length = wire.header_of(await self.pipe.read_line())
        pieces = []
        for at in range(0, length, PIECE):
            came(at, length)
            pieces.append(await self.pipe.read_exactly(min(PIECE, length - at)))
        payload = b"".join(pieces)
        if header.get("ok") is not True:
            error = header.get("error")
            raise _Answered(wire.error_of(error if isinstance(error, dict) else {}))
        return header, payload


class _Answered(Exception):
    """The runner answered with an error: the channel itself is sound."""

    def __init__(self, error: HyopsError) -> None:
        super().__init__(error.message)
        self.error = error


class FramedSession:
    """`RunnerSession` over pipes of one link; verbs may be used beside a running `attach`."""

    def __init__(self, link: Link, runner_ref: str, verifier: Verifier) -> None:
        self._link, self._runner_ref, self._verifier = link, runner_ref, verifier
        self._idle: list[_Channel] = []
        self._room = asyncio.Semaphore(CHANNELS_MAX)
        self._spoken: dict[str, Any] = {}  # what every request says once the other side was greeted
        self._apart: ProtocolError | None = None
        self._greeting = asyncio.Lock()

    async def hello(self) -> RunnerHello:
        """Negotiate; refuses a runner that is not the one that was asked for, then one without a common protocol."""
        mine = protocol.ours("this host", __version__)
        offered = {"protocol_min": mine.protocol_min, "protocol_max": mine.protocol_max, "hyops_version": __version__}
        asked = {"verb": "hello", "protocol": mine.protocol_max, **offered}
        told = await self._greeted(asked)
        if told.clock is not None and abs(told.clock.off_s) + told.clock.within_s > SKEW_MAX_S:
            told = await self._greeted({**asked, "ntp": True})  # its server runs by now: the round trip is the link's
        if told.runner_ref != self._runner_ref:
            raise PrerequisiteError(f"asked for {self._runner_ref}, but there answers {told.runner_ref}")
        there = protocol.Speaker(self._runner_ref, told.hyops_version, told.protocol_min, told.protocol_max)
        try:
            number, self._apart = protocol.agreed(mine, there), None
        except ProtocolError as exc:
            number, self._apart = mine.protocol_max, exc
        self._spoken = {"protocol": number, "hyops_version": __version__}
        if self._apart is not None:
            raise self._apart
        return told

    async def differs(self) -> ProtocolError | None:
        """See the port. It greets once a session."""
        async with self._greeting:
            if not self._spoken:
                with contextlib.suppress(ProtocolError):
                    await self.hello()
        return self._apart

    async def _greeted(self, asked: Mapping[str, Any]) -> RunnerHello:
        clock = SystemClock()
        sent_at, began_s = clock.now().timestamp(), clock.monotonic()
        header, _ = await self._call(asked)
        half_s = (clock.monotonic() - began_s) / 2
        return answers.hello(header, self._runner_ref, sent_at + half_s, half_s)

    async def stage(self, run_id: str, files: Mapping[str, BundleFile]) -> StageReport:
        """Offer the manifest and ship what the runner has not, over one channel; it verifies what it has and gets."""
        await self._negotiated()
        if not files:
            return StageReport(0, 0, 0)
        manifest = canonical.encode({"files": {name: [file.digest, file.size_bytes] for name, file in files.items()}})
        if len(manifest) > wire.PAYLOAD_MAX:
            raise PrerequisiteError(f"a manifest of {len(manifest)} bytes is over {wire.PAYLOAD_MAX}")
        async with self._channel(CALL_LIMIT_S) as channel:
            async with asyncio.timeout(OFFER_LIMIT_S):
                await channel.send({"verb": "offer", "run_id": run_id, **self._spoken}, manifest)
                header, _ = await channel.receive()
            missing = {str(digest) for digest in answers.listed(header, "missing")}
            lacking = {file.digest: (name, file) for name, file in files.items() if file.digest in missing}
            if lacking:
                await channel.send({"verb": "ship", "run_id": run_id, **self._spoken})
                try:
                    await ship(dict(lacking.values()), channel.pipe.write, lambda: _header(channel))
                except RefusedError as exc:  # ours; the runner has heard that we give up
                    raise _Answered(exc) from exc
        return StageReport(len(files), len(lacking), sum(file.size_bytes for _, file in lacking.values()))

    async def start(self, spec: RunSpec, secrets: Mapping[str, str]) -> Literal["started", "existing"]:
        """Start once; returns when the runner has admitted the run."""
        await self._negotiated()
        data = canonical.encode(spec.body())
        handed = canonical.encode(dict(secrets)) if secrets else b""
        header, _ = await self._call({"verb": "start", "spec_bytes": len(data)}, data + handed)
        return "existing" if header.get("started") == "existing" else "started"

    async def attach(self, run_id: str, offset: int = 0, *, follow: bool = True) -> AsyncIterator[RunEvent]:
        """Events from `offset` on; ends with one of stream `end`. Without `follow`: only what is there now.

        A run may say nothing for hours; whether its silence is its own, another channel asks (RUN-11).
        """
        await self.differs()
        async with self._channel(CALL_LIMIT_S, may_close=True) as channel:
            await channel.send({**self._spoken, "verb": "attach", "run_id": run_id, "offset": offset, "follow": follow})
            ended = False
            while not ended:
                header = await self._heard(channel, run_id)
                event = self._understood(partial(answers.event, header.get("event")))
                ended = event.stream == "end"
                yield event  # one who stops here leaves by GeneratorExit: the runner sees its input end

    async def status(self, run_id: str) -> RunStatus:
        """Look."""
        header, _ = await self._look({"verb": "status", "run_id": run_id})
        return self._understood(lambda: answers.status(header.get("status")))

    async def jobs(self) -> list[RunStatus]:
        """Every run that the runner still has."""
        header, _ = await self._look({"verb": "jobs"})
        return self._understood(lambda: [answers.status(job) for job in answers.listed(header, "jobs")])

    async def resume(self, run_id: str, epoch: int, *, by: str = "", reason: str = "") -> RunStatus:
        """Have an interrupted run go on with what lies on the runner, or one that failed after its promotion."""
        await self._negotiated()
        header, _ = await self._call({"verb": "resume", "run_id": run_id, "epoch": epoch, "by": by, "reason": reason})
        return answers.status(header.get("status"))

    async def cancel(self, run_id: str, epoch: int, reason: str, *, force: bool = False) -> RunStatus:
        """Stop after the effect under way; `facts["cancel"]` is `done` or still `requested`.

        `force` kills the job and all its processes, and has a new one ask the probes and close the run.
        """
        asked = {"verb": "cancel", "run_id": run_id, "epoch": epoch, "reason": reason, "force": force}
        header, _ = await self._look(asked)
        return self._understood(lambda: answers.status(header.get("status")))

    async def collect(self, run_id: str, *, confirm: bool = True) -> RunReturn:
        """The verified return; with `confirm` the runner learns that it is home, and keeps the run only for a time."""
        header, payload = await self._look({"verb": "collect", "run_id": run_id})
        parts = self._understood(lambda: answers.parts(header, payload, self._runner_ref))
        home = open_return(*parts, run_id=run_id, runner_ref=self._runner_ref, verifier=self._verifier)
        if confirm:
            told = {"verb": "collected", "run_id": run_id, "result_digest": canonical.digest_bytes(parts[0])}
            # unheard, unknown to an older runner, or no room there: then the run only stays for longer
            with contextlib.suppress(RunnerUnreachableError, UsageError, RefusedError):
                await self._call(told)
        return home

    async def gc(self, *, dry_run: bool) -> GcReport:
        """Remove the runs that were collected long enough ago, and old bundle files, or only say which."""
        await self._negotiated()
        header, _ = await self._call({"verb": "gc", "dry_run": dry_run})
        try:
            runs = [(words.shown(v["run_id"]), v["goes"] is True, words.shown(v["why"])) for v in header["runs"]]
            verdicts = [RunVerdict(*told) for told in runs]
            return GcReport(verdicts, **{name: int(header["cache"][name]) for name in CACHE_FACTS})
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise RunnerUnreachableError(f"{self._runner_ref} told of its runs in an unknown shape") from exc

    async def keep_order(self, order: bytes) -> None:
        """Store a standby order there; its bundle was staged under its id."""
        await self._negotiated()
        await self._call({"verb": "order"}, order)

    async def orders(self) -> list[HeldOrder]:
        """The standby orders that lie there."""
        await self._negotiated()
        header, _ = await self._call({"verb": "orders"})
        return [answers.order(told) for told in answers.listed(header, "orders")]

    async def taken(self, run_id: str) -> bytes:
        """What a takeover ran there, unverified."""
        await self._negotiated()
        return (await self._call({"verb": "taken", "run_id": run_id}))[1]

    async def _negotiated(self) -> None:
        if (apart := await self.differs()) is not None:
            raise apart

    async def _look(self, header: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """A call that is served whatever the versions; a side that does not even know it says so."""
        await self.differs()
        try:
            return await self._call(header)
        except UsageError as exc:
            if self._apart is None:
                raise
            raise self._misread(self._apart, exc) from exc

    def _understood(self, read: Callable[[], T]) -> T:
        """What an answer says. One that makes no sense, from a side without a common protocol, is told as that."""
        try:
            return read()
        except RunnerUnreachableError as exc:
            if self._apart is None:
                raise
            raise self._misread(self._apart, exc) from exc

    def _misread(self, apart: ProtocolError, exc: HyopsError) -> ProtocolError:
        return ProtocolError(f"{apart.message}, and do not understand each other: {exc.message}", hint=apart.hint)

    async def _heard(self, channel: _Channel, run_id: str) -> dict[str, Any]:
        """The next event of a followed run, for as long as the runner says that the run is under way."""
        told = asyncio.ensure_future(channel.receive())
        try:
            ended = False
            while not (await asyncio.wait({told}, timeout=SILENCE_S))[0]:
                if ended:
                    raise TimeoutError(f"no end came of {run_id}, which is no longer running there")
                ended = (await self.status(run_id)).state != "running"
            return told.result()[0]
        finally:
            told.cancel()
            await asyncio.wait({told})

    async def _call(self, header: Mapping[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """One question and its answer; a payload may take its time, as long as it keeps coming."""
        told = f"no answer to {header['verb']}"

        def came(size: int, of: int) -> None:
            nonlocal told
            told = f"{size} of {of} bytes of the answer to {header['verb']} came, then less than {PIECE} more"
            limit.reschedule(asyncio.get_running_loop().time() + CALL_LIMIT_S)

        async with self._channel(CALL_LIMIT_S) as channel:
            try:
                async with asyncio.timeout(CALL_LIMIT_S) as limit:
                    await channel.send({**self._spoken, **header}, payload)
                    return await channel.receive(came)
            except TimeoutError as exc:
                raise TimeoutError(f"{told} within {CALL_LIMIT_S:g} s" if limit.expired() else str(exc)) from exc

    @contextlib.asynccontextmanager
    async def _channel(self, open_limit_s: float, *, may_close: bool = False) -> AsyncIterator[_Channel]:
        """A channel that comes back for the next call, unless anything broke in it: then it is closed.

        One that `may_close` in the middle of an answer is never the pipe that carries the link.
        """
        async with self._room:
            channel, sound = self._taken(may_close), False
            try:
                if channel is None:
                    async with asyncio.timeout(open_limit_s):
                        channel = _Channel(await self._opened(may_close))
                yield channel
                sound = True
            except _Answered as answered:
                sound = True
                raise answered.error from None
            except EndedError as exc:
                if exc.status == NO_COMMAND and not self._spoken:
                    raise RunnerAbsentError(f"{self._runner_ref}: no hyops stands on the host that answers") from exc
                raise RunnerUnreachableError(
                    f"{self._runner_ref}: the session there ended with status {exc.status}",
                    hint="look at the runner: its forced command is `hyops runner-serve`",
                ) from exc
            except (OSError, TimeoutError, EOFError) as exc:
                raise RunnerUnreachableError(
                    f"{self._runner_ref}: the link is lost ({exc or type(exc).__name__})"
                ) from exc
            finally:
                if channel is not None and sound:
                    self._idle.append(channel)
                elif channel is not None:
                    self._given_up(channel)

    def _given_up(self, channel: _Channel) -> None:
        """Free its session at the peer, where that does not end the others."""
        if not channel.pipe.carries_link:
            channel.pipe.close()

    def _taken(self, may_close: bool) -> _Channel | None:
        fit = [channel for channel in self._idle if not (may_close and channel.pipe.carries_link)]
        if not fit:
            return None
        self._idle.remove(fit[-1])
        return fit[-1]

    async def _opened(self, may_close: bool) -> Pipe:
        pipe = await self._link.open()
        if may_close and pipe.carries_link:
            self._idle.append(_Channel(pipe))
            pipe = await self._link.open()
        return pipe


async def _header(channel: _Channel) -> dict[str, Any]:
    return (await channel.receive())[0]
