"""One small file that is either the old or the new one after any crash: the fence agent's memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Generic, TypeVar

from hyops.errors import PrerequisiteError, RecordError
from hyops.model import canonical
from hyops.model.base import Part

P = TypeVar("P", bound=Part)


class StateFile(Generic[P]):
    """Keeps one `Part` in one file, mode 0600."""

    def __init__(self, path: Path, kind: type[P]) -> None:
        self._path = path
        self._kind = kind
        self._lock: int | None = None
        self._unreadable = False

    def load(self) -> P | None:
        """None when there is no file. From now on no other process can load it: one agent a host.

        Raises:
            RecordError: it is there and unreadable; the next `save` keeps it beside the new one, as `.unreadable`.
            PrerequisiteError: another process has it.
        """
        self._claim()
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._unreadable = True
            raise RecordError(f"{self._path}: {exc.strerror}", hint="mend the disk; the agent stays closed") from exc
        self._unreadable = True
        state = self._kind.read(data, source=str(self._path))
        self._unreadable = False
        return state

    def _claim(self) -> None:
        if self._lock is not None:
            return
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise PrerequisiteError(f"{self._path}.lock: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            raise PrerequisiteError(f"{self._path} is in use by another process", hint="one agent a host") from exc
        self._lock = lock

    def close(self) -> None:
        """Let another process load it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save(self, state: P) -> None:
        """On disk, name included, when this returns."""
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            try:
                _write_all(handle, canonical.encode(state.body()) + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)
            if self._unreadable:
                self._path.rename(self._path.with_name(self._path.name + ".unreadable"))
                self._unreadable = False
            partial.rename(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise PrerequisiteError(f"{self._path}: {exc.strerror}", hint="free the disk of the database host") from exc


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
