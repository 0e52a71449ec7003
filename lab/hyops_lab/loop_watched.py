"""The records of a loop in etcd, seen from outside: one watch of everything, from the first revision on.

Whoever looks sees each key as often as it was written, in etcd's own order, and when that was told here.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyops_lab.errors import WaitError
from hyops_lab.loop import Json, Loop
from hyops_lab.wiring import loop_etcd

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

PAUSE_S = 0.2
ROOT = f"/hyops/{loop_etcd.ENV}/"
DIAL = f"{ROOT}starts/dial/"
SERVING = f"{ROOT}serving/"
RECORDS = {
    "decision": "decision/records",
    "request": "dispatch/requests",
    "plan": "dispatch/plans",
    "approval": "approval/approvals",
    "execution": "approval/executions",
    "attempt": "execution/attempts",
    "outcome": "execution/outcomes",
    "evidence": "execution/evidence",
}


@dataclass(frozen=True)
class Event:
    """One change of one key; `value` is None where it was deleted. `at_ns` is the monotonic clock of this machine."""

    at_ns: int
    revision: int
    key: str
    value: bytes | None
    version: int

    def said(self) -> Json:
        """The value, which is JSON in everything that is not a mark or a slot."""
        told: Json = json.loads(self.value or b"{}")
        return told


class WatchedLoop(Loop):
    """The control loop of a lab whose records are in etcd, by what the member on `host` tells. Use it in a `with`."""

    def __init__(self, lab: Lab, host: str) -> None:
        super().__init__(lab)
        self._host, self._events, self._news = host, list[Event](), threading.Condition()

    def __enter__(self) -> WatchedLoop:
        self._closing, self._opening, self._revision = threading.Event(), threading.Lock(), 0
        self._watch = self._opened()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._opening:
            self._closing.set()
            with suppress(ProcessLookupError):
                os.killpg(self._watch.pid, signal.SIGKILL)  # what has entered the machine is a child of it
        self._reader.join()

    def events(self, prefix: str = "") -> list[Event]:
        """All that happened so far to keys below a prefix."""
        with self._news:
            return [event for event in self._events if event.key.startswith(prefix)]

    def wait_event(self, prefix: str, match: Callable[[Event], bool], timeout_s: float) -> Event:
        """The first event below a prefix that matches, as soon as it is told.

        Raises:
            WaitError: none came in time.
        """
        deadline, seen = time.monotonic() + timeout_s, 0
        with self._news:
            while True:
                for event in self._events[seen:]:
                    if event.key.startswith(prefix) and match(event):
                        return event
                seen = len(self._events)
                if not self._news.wait(max(0.0, deadline - time.monotonic())) and len(self._events) == seen:
                    raise WaitError(f"waited {timeout_s:g} s for a change of {prefix} that matches; {seen} came")

    def records(self, kind: str) -> Iterator[Json]:
        """Every record of a kind, as it was written last, oldest first."""
        last = {event.key: event for event in self._of(kind)}
        yield from [event.said() for event in last.values() if event.value is not None]

    def wait(self, kind: str, match: Callable[[Json], bool], timeout_s: float) -> Json:
        """The first record of `kind` that matches, as soon as it is there."""
        prefix = _prefix(kind)

        def is_it(event: Event) -> bool:
            return event.value is not None and _is_record(prefix, event) and match(event.said())

        return self.wait_event(prefix, is_it, timeout_s).said()

    def written_again(self) -> list[Event]:
        """Records that were changed or removed after they were created: nobody may."""
        kept = [event for kind in RECORDS for event in self._of(kind)]
        return [event for event in kept if event.value is None or event.version != 1]

    def _of(self, kind: str) -> list[Event]:
        prefix = _prefix(kind)
        return [event for event in self.events(prefix) if _is_record(prefix, event)]

    def _opened(self) -> subprocess.Popen[bytes]:
        words = ["watch", "--prefix", ROOT, f"--rev={self._revision + 1}", "-w=json"]
        argv = loop_etcd.ctl(self.lab, self._host, *words)
        return self.lab.popen(
            self._host, argv, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def _read(self) -> None:
        """For ever: a watch ends when its member has no leader, and goes on after what it told."""
        while True:
            with self._watch as watch:
                for line in watch.stdout or ():
                    if line.endswith(b"\n"):  # else cut off with its member: it is told again
                        self._take(time.monotonic_ns(), json.loads(line).get("Events") or [])
            if self._closing.wait(PAUSE_S):
                return
            with self._opening:
                if self._closing.is_set():
                    return
                self._watch = self._opened()

    def _take(self, at_ns: int, told: list[dict[str, Any]]) -> None:
        with self._news:
            self._events += [_event(at_ns, one) for one in told]
            self._revision = max([self._revision, *(event.revision for event in self._events[-len(told) - 1 :])])
            self._news.notify_all()


def _prefix(kind: str) -> str:
    return f"{ROOT}records/{RECORDS[kind]}/"


def _is_record(prefix: str, event: Event) -> bool:
    return not event.key.removeprefix(prefix).startswith(".")  # those are slots and the kind's mark


def _event(at_ns: int, one: dict[str, Any]) -> Event:
    kept = one["kv"]
    value = None if one.get("type") in (1, "DELETE") else base64.b64decode(kept.get("value", ""))
    key = base64.b64decode(kept["key"]).decode()
    return Event(at_ns, int(kept["mod_revision"]), key, value, int(kept.get("version", 0)))
