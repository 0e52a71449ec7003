"""What every daemon shares: wake on events, pass, report, survive errors, tell systemd that it lives (LOOP-1)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from hyops.errors import Effect, HyopsError, StoreLostError
from hyops.model.base import build_all
from hyops.ports.records import RecordStore
from hyops.services.pulse import PULSE

RESCAN_S = 5.0  # the safety net under inotify (a lost event costs this much, never a record)
ERROR_PAUSE_S = (0.1, 5.0)
EARLY_S = 0.001  # a timer may go off so much before its time
STATUS_MAX = 500
EXTEND_START = "EXTEND_TIMEOUT_USEC=30000000"  # as long as the watchdog waits for the next sign


def log(event: str, **facts: object) -> None:
    """One JSON line on stderr for the journal. Logs explain; records prove."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    sys.stderr.write(json.dumps({**line, **{k: str(v) for k, v in facts.items()}}, ensure_ascii=False) + "\n")
    sys.stderr.flush()


def notify(state: str) -> None:
    """Tell systemd (sd_notify protocol); without NOTIFY_SOCKET nobody wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.sendall(state.encode())


class LeftOpenError(HyopsError):
    """A pass looked at every record and is done, but for some that this host cannot do now; `first` is why not."""

    exit_code, effect = 12, Effect.NONE

    def __init__(self, first: HyopsError) -> None:
        super().__init__(first.message, hint=first.hint)
        self.first = first


class Waker:
    """Set by any source; a pass that starts has seen everything that was set before."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Ask for a pass."""
        self._event.set()

    async def woken(self, timeout_s: float) -> bool:
        """Wait for the next request, or for the time limit; True when something asked."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


async def run_stage(
    step: Callable[[bool], Awaitable[None]],
    stores: Sequence[RecordStore],
    *,
    name: str,
    waker: Waker | None = None,
    others: Sequence[Callable[[], Awaitable[None]]] = (),
    rescan_s: float = RESCAN_S,
    on_record: Callable[[], None] = lambda: None,
) -> None:
    """Run `step(slow)` at the start, on every change of `stores`, and every `rescan_s` (then with slow=True).

    Ends on SIGTERM or SIGINT, between two steps. An error of a step is logged and the step is tried again: the
    records on disk are the state, so trying again is always right. It is ready after the first step that worked, and
    until then its status says what that failed with: who waits for it to be ready waits for a stage that works. A
    LeftOpenError is the end of a step that worked: events are served at once, and what it left is tried with each of
    them, and after a pause that doubles where none comes.
    """
    build_all()
    waker = waker or Waker()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    looked_s = max(rescan_s, RESCAN_S)  # a slow pass looks at the records itself: two that rest need not both be quick
    sources = [_forward(store, looked_s, on_record, waker, name) for store in stores]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(source) for source in sources]
        tasks += [group.create_task(_kept_up(other, name)) for other in others]
        notify(f"STATUS={name}: reads its records for the first time")
        tasks.append(group.create_task(_steps(step, waker, name, rescan_s)))
        await stop.wait()
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()


async def _steps(step: Callable[[bool], Awaitable[None]], waker: Waker, name: str, rescan_s: float) -> None:
    now_s, left = asyncio.get_running_loop().time, _Left(name)
    pause_s, slow, slow_s = ERROR_PAUSE_S[0], True, -math.inf
    watchdog_s, lost, ready = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6, False, False
    while True:
        try:
            await _passed(step, slow, left)
            lost = _reached(name) if lost else False
            ready = ready or _is_ready(name)
            pause_s, slow_s = ERROR_PAUSE_S[0], now_s() if slow else slow_s
        except Exception as exc:  # noqa: BLE001 - a service's loop is one of the three homes of a catch-all (STYLE.md)
            PULSE.failed(exc)
            before, lost = lost, isinstance(exc, StoreLostError)
            if not (before and lost):  # said once for as long as it lasts
                _failed(name, exc, ready=ready)
            if lost and not ready:  # waiting for a quorum is no hang: killed for it, it would only sign in once more
                notify(EXTEND_START)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, ERROR_PAUSE_S[1])
            waker.wake()
        notify("WATCHDOG=1")
        overdue = now_s() - slow_s >= rescan_s
        woken = not overdue and await waker.woken(min(rescan_s, watchdog_s or rescan_s, left.again_in_s()))
        # events, however many, do not starve the rescan; it never comes before what is new, nor with each new try
        slow = not woken and (not left.open or now_s() - slow_s >= rescan_s)


async def _passed(step: Callable[[bool], Awaitable[None]], slow: bool, left: _Left) -> None:
    """Return when every record was looked at; what was left open is said and marked."""
    but: HyopsError | None = None
    try:
        await step(slow)
    except LeftOpenError as exc:
        but = exc.first
    PULSE.passed(but)
    left.note(but)


class _Left:
    """What the last pass left open: said when it is news, and tried again although nothing else asks for a pass."""

    def __init__(self, name: str) -> None:
        self._name, self._said = name, ""
        self._again_s, self._pause_s = math.inf, 0.0

    @property
    def open(self) -> bool:
        """Whether it left anything."""
        return bool(self._said)

    def again_in_s(self) -> float:
        """Until it is to be tried again; for ever where nothing is left."""
        return max(0.0, self._again_s - asyncio.get_running_loop().time())

    def note(self, but: HyopsError | None) -> None:
        """How a pass ended. Tries that events brought before their time make the pause no longer."""
        if but is None:
            self._said, self._again_s, self._pause_s = "", math.inf, 0.0
            return
        now_s = asyncio.get_running_loop().time()
        if not self._said or now_s >= self._again_s - EARLY_S:
            self._pause_s = min(self._pause_s * 2 or ERROR_PAUSE_S[0], ERROR_PAUSE_S[1])
            self._again_s = now_s + self._pause_s
        said = f"{type(but).__name__}: {but.message}"
        if said != self._said:
            log("left open", stage=self._name, error=type(but).__name__, message=but.message, hint=but.hint)
        self._said = said


def _is_ready(name: str) -> bool:
    notify(f"READY=1\nSTATUS={name}: serves")
    return True


def _failed(name: str, exc: Exception, *, ready: bool) -> None:
    log("step failed", stage=name, error=type(exc).__name__, message=exc, bug=not isinstance(exc, HyopsError))
    what = "no quorum: it decides and creates nothing until there is one" if isinstance(exc, StoreLostError) else None
    if not ready:
        said = " ".join(str(exc).split()) or type(exc).__name__  # one line, or systemd takes the rest for more words
        notify(f"STATUS={name}: not ready: {what or said}"[:STATUS_MAX])
    elif what is not None:
        notify(f"STATUS={name}: {what}")


def _reached(name: str) -> bool:
    """The records are reached again: said once too. Returns that they are not lost."""
    log("records are reached again", stage=name)
    notify(f"STATUS={name}: goes on")
    return False


async def _forward(store: RecordStore, rescan_s: float, on_record: Callable[[], None], waker: Waker, name: str) -> None:
    async def follow() -> None:
        async for _ in store.changes(rescan_s):
            on_record()
            waker.wake()

    await _kept_up(follow, name)


async def _kept_up(work: Callable[[], Awaitable[None]], name: str) -> None:
    """Run for ever; a failure is logged and tried again."""
    while True:
        try:
            await work()
        except Exception as exc:  # noqa: BLE001 - the same home: a daemon outlives what it meets
            log("source failed", stage=name, error=type(exc).__name__, message=exc)
        await asyncio.sleep(ERROR_PAUSE_S[1])
