"""The records of a lab's control host, seen from outside: wait for one by event, read any.

Folders are read from the machine's disk, so this works while the control host is paused or dead; what is not there is
waited for with inotify, never by asking again and again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncinotify import Inotify, Mask

from hyops_lab.errors import LabError, WaitError

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

CONTROL = "control"
FOLDERS = {
    "decision": "/opt/hybridops/decision-service/state/records",
    "request": "/opt/hybridops/decision-dispatcher/state/requests",
    "plan": "/opt/hybridops/decision-dispatcher/state/plans",
    "approval": "/opt/hybridops/decision-consumer/state/approvals",
    "execution": "/opt/hybridops/decision-consumer/state/executions",
    "attempt": "/opt/hybridops/decision-executor/state/attempts",
    "outcome": "/opt/hybridops/decision-executor/state/outcomes",
}
EVIDENCE = "/opt/hybridops/decision-executor/state/evidence"
RESCAN_S = 1.0  # inotify cannot tell of a folder that a rebooted machine mounted anew

Json = dict[str, Any]


class Loop:
    """The control loop of one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def folder(self, kind: str) -> Path:
        """The folder of one kind of record, as this machine sees it."""
        return self.lab.machine(CONTROL).path(FOLDERS[kind])

    def records(self, kind: str) -> Iterator[Json]:
        """Every complete record of a kind, oldest name first."""
        for path in sorted(self.folder(kind).glob("*.json")):
            try:
                yield json.loads(path.read_bytes())
            except (FileNotFoundError, json.JSONDecodeError):
                continue  # being replaced: the next event shows it whole

    def wait(self, kind: str, match: Callable[[Json], bool], timeout_s: float) -> Json:
        """The first record of `kind` that matches, as soon as it is there.

        Raises:
            WaitError: none came in time.
        """
        deadline = time.monotonic() + timeout_s
        with _inotify(min(RESCAN_S, timeout_s)) as inotify:
            inotify.add_watch(self.folder(kind), Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE)
            while True:
                for record in self.records(kind):
                    if match(record):
                        return record
                if time.monotonic() >= deadline:
                    raise WaitError(f"waited {timeout_s:g} s for a {kind} record; see {self.folder(kind)}")
                inotify.sync_get()

    def after(self, decision_id: str, timeout_s: float) -> Json:
        """The outcome of the run that a decision led to."""
        request = self.wait("request", lambda r: r["source_decision_id"] == decision_id, timeout_s)
        dispatch_id = request["dispatch_id"]
        execution = self.wait("execution", lambda r: r["source_dispatch_id"] == dispatch_id, timeout_s)
        execution_id = execution["execution_id"]
        attempt = self.wait("attempt", lambda r: r["source_execution_id"] == execution_id, timeout_s)
        return self.wait("outcome", lambda r: r["attempt_id"] == attempt["attempt_id"], timeout_s)

    def idle(self, timeout_s: float) -> None:
        """Return when every attempt has its outcome: until then nobody may plan another switch (EXE-3)."""
        closed = {outcome["attempt_id"] for outcome in self.records("outcome")}
        waiting = {attempt["attempt_id"] for attempt in self.records("attempt")} - closed
        while waiting:
            waiting.discard(self.wait("outcome", lambda r: r["attempt_id"] in waiting, timeout_s)["attempt_id"])


def _inotify(timeout_s: float) -> Inotify:
    try:
        return Inotify(sync_timeout=timeout_s)
    except OSError as error:  # each host of a lab takes several of the 128 that a user has by default
        raise LabError(
            f"cannot watch the records: {error}; take another lab down, or raise fs.inotify.max_user_instances"
        ) from error
