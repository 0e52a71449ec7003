"""What a play of Ansible told, and how it ended: ok, changed, failed, unreachable, or nobody knows (MOD-2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyops.errors import HostKeyError, PrerequisiteError
from hyops.model.words import shown
from hyops.ports.plays import Play, PlayResult, PlayStatus

TASKS_MAX = 500
MESSAGE_MAX = 3000
TORN = "Broken pipe"
KEY_SAYS = ("host key verification failed", "identification has changed", "host key is known for")
LOGIN_SAYS = ("permission denied (", "too many authentication failures", "sudo: a password is required")


@dataclass
class Told:
    """What came until it ended; `redact` takes secrets out before anything is kept."""

    redact: Callable[[str], str]
    tell: Callable[[str], None]
    tasks: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    status: int | None = None
    complaint: str = ""

    def take(self, line: bytes) -> None:
        """One line of our plug-in; a torn one is the mark of who was killed, and tells nothing."""
        try:
            event = json.loads(self.redact(line.decode(errors="replace")))
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        if event.get("event") == "end":
            self.ended = True
        elif len(self.tasks) < TASKS_MAX:
            one = {key: shown(str(event.get(key) or ""), MESSAGE_MAX) for key in ("event", "task", "message")}
            self.tasks.append(one)
            if isinstance(event.get("hyops"), dict):
                self.answer = event["hyops"]
            self.tell(f"{one['event']}: {one['task']}")

    def torn(self) -> bool:
        """Whether it says of its last task only that ssh ended while it wrote, and not why."""
        return bool(self.tasks) and self.tasks[-1]["event"] == "unreachable" and TORN in self.tasks[-1]["message"]

    def mend(self, why: str) -> None:
        """Beside that, what ssh says."""
        if why:
            self.tasks[-1]["message"] = shown(f"{self.tasks[-1]['message']}: {why}", MESSAGE_MAX)


def outcome(play: Play, told: Told) -> PlayResult:
    """What it came to.

    Raises:
        HostKeyError: another key than the pinned one. PrerequisiteError: we are not let in, or the play is none; in
        each case nothing was sent.
    """
    states = [task["event"] for task in told.tasks]
    reached = any(state != "unreachable" for state in states)
    bad = next((task for task in told.tasks if task["event"] in ("failed", "unreachable")), None)
    message = bad["message"] if bad is not None else ""
    if not reached:
        _refuse(play, message or told.complaint, tried=bool(states))
    if bad is not None and bad["event"] == "unreachable":
        status = PlayStatus.UNREACHABLE
    elif bad is not None:
        status = PlayStatus.FAILED
    elif not told.ended or told.status != 0:
        status, message = PlayStatus.UNKNOWN, f"it ended {told.status} before its end: {_last(told.complaint)}"
    else:
        status = PlayStatus.CHANGED if "changed" in states else PlayStatus.OK
    return PlayResult(status, message, told.answer, told.tasks, reached)


def _refuse(play: Play, said: str, *, tried: bool) -> None:
    where, low = f"{play.host.name} ({play.host.address}:{play.host.port})", said.lower()
    if any(word in low for word in KEY_SAYS):
        hint = f"compare the host's key on its console with {play.host.known_hosts}; never accept it blindly"
        raise HostKeyError(f"{where}: the host key is not the pinned one, or none is pinned", hint=hint)
    if any(word in low for word in LOGIN_SAYS):
        hint = "name a login with sudo that asks nothing, or root, and its key, under `target`"
        raise PrerequisiteError(f"{where} does not let {play.host.user} in: {_last(said)}", hint=hint)
    if not tried:
        raise PrerequisiteError(f"ansible did not begin: {_last(said) or 'it said nothing'}", hint="mend what it names")


def _last(said: str) -> str:
    return shown(" ".join(said.split())[-600:], 600)
