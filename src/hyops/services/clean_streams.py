"""Standard output and error of a process and of all its children, without secrets, before they reach a disk (SEC-2).

Both become one pipe that a thread reads, cleans and passes on to where they went before. A process that is killed takes
what was not passed on with it. What cannot be written is dropped and told of once there is room: the pipe is read on.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from types import TracebackType

from hyops.engine.redact import Redactor

CHUNK = 64 * 1024
DRAIN_S = 2.0  # a child that outlives the job may hold the pipe open for ever


class CleanStreams:
    """Within it nothing that is printed holds a guarded value; an error that ends it is printed the same way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._filter = Redactor({}).stream()
        self._lost, self._why = 0, ""

    def __enter__(self) -> CleanStreams:
        sys.stdout.flush()
        sys.stderr.flush()
        self._out = os.dup(2)
        self._read, write = os.pipe()
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        self._thread = threading.Thread(target=self._pump, name="clean-streams", daemon=True)
        self._thread.start()
        return self

    def guard(self, redactor: Redactor) -> None:
        """From now on, these values are kept out; what was held back before them is passed on."""
        with self._lock:
            self._pass_on(self._filter.end())
            self._filter = redactor.stream()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if exc is not None and not isinstance(exc, SystemExit):
            traceback.print_exception(exc, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(self._out, 1)
        os.dup2(self._out, 2)
        self._thread.join(DRAIN_S)
        with self._lock:
            self._pass_on(self._filter.end() or (b"\n" if self._lost else b""))
        if exc is not None and not isinstance(exc, SystemExit):
            raise SystemExit(1) from None  # it was told already, cleaned; nobody prints it again

    def _pump(self) -> None:
        while chunk := os.read(self._read, CHUNK):
            with self._lock:
                self._pass_on(self._filter.feed(chunk))

    def _pass_on(self, data: bytes) -> None:
        """Write it, or count it as lost: whoever prints must never wait for a disk that is full."""
        try:
            while data and self._lost:
                note = f"\nhyops: {self._lost} bytes of output are lost here: {self._why}\n".encode()
                written = os.write(self._out, note)
                self._lost = self._lost if written < len(note) else 0
            while data:
                data = data[os.write(self._out, data) :]
        except OSError as exc:
            self._lost, self._why = self._lost + len(data), str(exc.strerror)
