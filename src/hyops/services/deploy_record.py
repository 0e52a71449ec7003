"""What is kept of a deployment in the runtime root, refused and broken ones too (RUN-7, GATE-4).

`logs/runner/<run_id>/` with `dispatch.request.json`, written before anything is changed, `dispatch.result.json` and
`runner.log`. Until a run id is known, the folder has the decision's. Names of secrets may stand there, values never.
All of it is the root's owner's, who goes on with the run when the command is gone: root makes it as that user, and
whoever is neither is refused before anything is done.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyops.engine.redact import Redactor
from hyops.errors import EvidenceError, HyopsError, PrerequisiteError
from hyops.ownership import as_owner
from hyops.runner.folders import sync_folder, write_file

LOG_MAX = 64 * 1024 * 1024
ROOM = 256 * 1024  # kept from the beginning for the result, and for what is added on the way to it
SAME_NAME_MAX = 1000


class DeployRecord:
    """The folder of one deployment, which no other command shares: of two for the same run, the second is `<run_id>.2`.

    Until a request exists, what cannot be written ends the deployment: nothing was done. From then on it may run
    whether anybody watches or not, so a full disk ends nothing any more; `fault` says what is not in the record.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._base = root, root / "logs" / "runner"
        self.folder = self._base / name
        self.redactor = Redactor({})
        self.fault: HyopsError | None = None
        self._request: dict[str, Any] = {}
        self._binding = False

    def begin(self, request: Mapping[str, Any]) -> None:
        """Durable, before anything else is done.

        Raises:
            PrerequisiteError: it cannot be written, so nothing may be done.
        """
        try:
            if os.geteuid() not in (0, owner := self._root.stat().st_uid):
                raise self._not_ours(owner)
            with as_owner(self._root):
                self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.folder = self._first_free(self.folder.name, lambda place: place.mkdir(mode=0o700))
                self._request = dict(request)
                self._write("dispatch.request.json", self._request)
                self._keep_room()
        except PermissionError as exc:
            raise self._closed(exc) from exc
        except OSError as exc:
            raise PrerequisiteError(f"{self.folder}: {exc.strerror}", hint="nothing was done; make room there") from exc

    def add(self, **facts: Any) -> None:
        """More about what was asked: findings, phases.

        Raises:
            PrerequisiteError: it cannot be written, and nothing was asked of the loop yet.
        """
        self._request |= facts
        with self._kept():
            self._write("dispatch.request.json", self._request)

    def requested(self, **facts: Any) -> None:
        """A request exists from now on, and it may be approved and run by others."""
        self._binding = True
        self.add(**facts)

    def named(self, run_id: str) -> None:
        """The run has an id: from now on the folder is called so."""
        with self._kept():
            self.folder = self._first_free(run_id, lambda place: os.rename(self.folder, place))
            sync_folder(self._base)

    def line(self, text: str) -> None:
        """One line of the run's log, without secrets."""
        self._log(self.redactor.text(text) + "\n")

    @contextlib.contextmanager
    def output(self) -> Iterator[Callable[[bytes], None]]:
        """Where the output of a command goes, in pieces of any size: a secret that two of them share is still one."""
        clean, decoder, last = self.redactor.stream(), codecs.getincrementaldecoder("utf-8")("replace"), ""

        def write(data: bytes) -> None:
            nonlocal last
            if text := decoder.decode(clean.feed(data)):
                last = text
                self._log(text)

        try:
            yield write
        finally:
            rest = decoder.decode(clean.end(), final=True)
            if last + rest and not (last + rest).endswith("\n"):
                rest += "\n"
            self._log(rest)

    def end(self, result: Mapping[str, Any]) -> None:
        """How it ended; never raises, because how it ended is what must be told."""
        self._binding = True
        with self._kept():
            self._room.unlink(missing_ok=True)
            self._write("dispatch.result.json", result)

    def _log(self, text: str) -> None:
        path = self.folder / "runner.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._kept(), os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0) as out:
            if out.tell() < LOG_MAX:
                out.write(text.encode(errors="replace"))

    @property
    def _room(self) -> Path:
        return self.folder / ".room"

    def _keep_room(self) -> None:
        with open(self._room, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, ROOM)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            with as_owner(self._root):
                yield
        except (OSError, PrerequisiteError) as exc:
            if not self._binding:
                if isinstance(exc, HyopsError):
                    raise
                raise PrerequisiteError(f"{self.folder}: {exc.strerror}", hint="make room there") from exc
            if self.fault is None:
                said = exc.message if isinstance(exc, HyopsError) else f"{self.folder}: {exc.strerror}"
                self.fault = EvidenceError(
                    f"the record of this deployment has gaps: {said}",
                    hint="make room there; the executor's record and the runner's journal have the whole run",
                )

    def _not_ours(self, owner: int) -> PrerequisiteError:
        said = f"{self._root} belongs to {_name(owner)}, and you are {_name(os.geteuid())}"
        return PrerequisiteError(
            f"{said}: what you left there, its owner could not go on with",
            hint=f"nothing was done; run it as {_name(owner)} or as root",
        )

    def _closed(self, exc: PermissionError) -> PrerequisiteError:
        found = self._root.stat()
        return PrerequisiteError(
            f"{exc.filename or self.folder}: {exc.strerror}, for {_name(found.st_uid)}, who owns {self._root}",
            hint=f"nothing was done; give it back: chown -R {found.st_uid}:{found.st_gid} {self._root}/logs, and let "
            "that user into every folder above it",
        )

    def _first_free(self, name: str, take: Callable[[Path], None]) -> Path:
        """Take the first place with that name that nobody has: a folder with content is never renamed over."""
        for number in range(1, SAME_NAME_MAX + 1):
            place = self._base / (name if number == 1 else f"{name}.{number}")
            try:
                take(place)
            except OSError as exc:
                if exc.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                    raise
            else:
                return place
        raise FileExistsError(errno.EEXIST, f"{SAME_NAME_MAX} deployments of this name")

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        clean = self.redactor.value(dict(value))
        write_file(self.folder / name, json.dumps(clean, indent=2, ensure_ascii=False).encode() + b"\n")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
