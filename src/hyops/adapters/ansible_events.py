"""Loaded by Ansible, not by hyops: one line of JSON for each thing that a play does, to the file of HYOPS_EVENTS_FD.

Of a task's result only its message and what the pack's own modules answer under `hyops` are told.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: hyops_events
type: stdout
short_description: events for hyops
description: One line of JSON for each result.
options: {}
"""
MESSAGE_MAX = 4000


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible has no types
    """Ansible's name for it."""

    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "stdout", "hyops_events"

    def __init__(self) -> None:
        super().__init__()
        self._fd = int(os.environ["HYOPS_EVENTS_FD"])

    def _say(self, kind: str, **facts: Any) -> None:
        data = json.dumps({"event": kind, **facts}, default=str).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]

    def _result(self, state: str, result: Any) -> None:
        body = result._result
        said = [str(body.get(key) or "") for key in ("msg", "module_stderr", "stderr")]
        message = next((text for text in said if text), "")[:MESSAGE_MAX]
        self._say(state, task=result._task.get_name(), message=message, hyops=body.get("hyops"))

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task that ended well."""
        self._result("changed" if result._result.get("changed") else "ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task that failed."""
        self._result("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """The host did not answer, or did not let us in."""
        self._result("unreachable", result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end, which whoever was killed does not reach."""
        self._say("end", hosts={host: stats.summarize(host) for host in sorted(stats.processed)})
