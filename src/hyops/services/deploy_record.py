"""What is kept of a deployment in the runtime root, refused and broken ones too (RUN-7, GATE-4).

`logs/runner/<run_id>/` with `dispatch.request.json`, written before anything is changed, `dispatch.result.json` and
`runner.log`. Until a run id is known, the folder has the decision's. Names of secrets may stand there, values never.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyops.engine.redact import Redactor
from hyops.errors import PrerequisiteError
from hyops.runner.folders import sync_folder, write_file

LOG_MAX = 64 * 1024 * 1024


class DeployRecord:
    """The folder of one deployment."""

    def __init__(self, root: Path, name: str) -> None:
        self._base = root / "logs" / "runner"
        self.folder = self._base / name
        self.redactor = Redactor({})
        self._request: dict[str, Any] = {}

    def begin(self, request: Mapping[str, Any]) -> None:
        """Durable, before anything else is done.

        Raises:
            PrerequisiteError: it cannot be written, so nothing may be done.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._request = dict(request)
            self._write("dispatch.request.json", self._request)
        except OSError as exc:
            raise PrerequisiteError(f"{self.folder}: {exc.strerror}", hint="nothing was done; make room there") from exc

    def add(self, **facts: Any) -> None:
        """More about what was asked: findings, ids, phases."""
        self._request |= facts
        self._write("dispatch.request.json", self._request)

    def named(self, run_id: str) -> None:
        """The run has an id: from now on the folder is called so."""
        place = self._base / run_id
        if place != self.folder and not place.exists():
            os.rename(self.folder, place)
            sync_folder(self._base)
            self.folder = place

    def line(self, text: str) -> None:
        """One line of the run's log, without secrets."""
        path = self.folder / "runner.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "ab") as out:
            if out.tell() < LOG_MAX:
                out.write(self.redactor.text(text).encode(errors="replace") + b"\n")

    def end(self, result: Mapping[str, Any]) -> None:
        """How it ended."""
        self._write("dispatch.result.json", result)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        clean = self.redactor.value(dict(value))
        write_file(self.folder / name, json.dumps(clean, indent=2, ensure_ascii=False).encode() + b"\n")
