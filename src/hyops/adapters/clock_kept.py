"""What a stage was last sure of about its host's clock, in one small file (see `SteadyClock`)."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Generic, TypeVar

from hyops.errors import PrerequisiteError, RecordError
from hyops.model import canonical
from hyops.model.base import Part
from hyops.ownership import as_owner, make_folder

P = TypeVar("P", bound=Part)
BYTES_MAX = 4096


class KeptFile(Generic[P]):
    """Keeps one `Part`: the old or the new one after any crash. Several may write it; the last one stands."""

    def __init__(self, path: Path, kind: type[P]) -> None:
        self._path, self._kind = path, kind

    def load(self) -> P | None:
        """None when there is no file; RecordError: it is there and unreadable, and the next `save` replaces it.

        Commands of root read it too, in a folder of another user's: no link is followed, and no pipe waited for.
        """
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                regular = stat.S_ISREG(os.fstat(handle).st_mode)
                data = file.read(BYTES_MAX + 1) if regular else b""
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise RecordError(f"{self._path}: {exc.strerror}") from exc
        if not regular or len(data) > BYTES_MAX:
            raise RecordError(f"{self._path}: no file of at most {BYTES_MAX} bytes")
        return self._kind.read(data, source=str(self._path))

    def save(self, state: P) -> None:
        """On disk when this returns; PrerequisiteError: it cannot be."""
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            make_folder(self._path.parent, 0o777)
            with as_owner(self._path.parent):
                handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
            with os.fdopen(handle, "wb") as file:
                file.write(canonical.encode(state.body()) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise PrerequisiteError(
                f"{self._path}: {exc.strerror}", hint="see the disk and who owns the folder"
            ) from exc
