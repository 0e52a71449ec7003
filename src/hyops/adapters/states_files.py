"""Module state below a runtime root: atomic, durable, with its history and one writer at a time (ROOT-3, ROOT-5).

    state/modules/<module_id>/latest.json                          the state of `<module_ref>`
    state/modules/<module_id>/instances/<instance>.json            of `<module_ref>#<instance>`
    state/modules/<module_id>/history/latest/<generation>.json     and history/instances/<instance>/
    state/.lock                                                    who writes (flock: a dead owner holds nothing)

Folders are 0700 and files 0600. Where `state/` itself is readable for its group, so that stages which are users of
their own can plan with it, what is below is too: 0750 and 0640, of that group, whatever the umask. The group never
writes: whoever holds the lock owns the folder, and one that others could write is refused.

A generation is made durable in the history first and takes its place second. Killed between the two it stands: who
reads finds the newer one, and who writes next finishes it. Killed before, nothing has happened.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from hyops.adapters.owned_lock import LOCK_WAIT_S, owned_lock
from hyops.adapters.store_files import sync_directory
from hyops.errors import PrerequisiteError, RecordError, StaleGenerationError
from hyops.model import canonical
from hyops.model.module_state import ModuleState, state_path
from hyops.ownership import as_owner, maker
from hyops.ports.states import Kept

BYTES_MAX = 1024 * 1024
NUMBERED = re.compile(r"([0-9]{16})\.json")
STATE_FILE = re.compile(r"(latest|instances/([a-z0-9][a-z0-9_.-]{0,63}))\.json")
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _nothing(_: str) -> None:
    """The boundary hook of a store that nobody kills on purpose."""


class FileStates:
    """`StateStore` over `root`. `at_boundary` is called by name wherever a kill must be survived."""

    def __init__(
        self, root: Path, *, lock_wait_s: float = LOCK_WAIT_S, at_boundary: Callable[[str], None] = _nothing
    ) -> None:
        self._root, self._lock_wait_s, self._at = root, lock_wait_s, at_boundary

    def refs(self) -> list[str]:
        """See the port."""
        modules = self._root / "state" / "modules"
        found = []
        for module in sorted(modules.iterdir()) if modules.is_dir() else []:
            for path in (module / "latest.json", *sorted((module / "instances").glob("*.json"))):
                named = STATE_FILE.fullmatch(str(path.relative_to(module)))
                if named is not None and os.path.lexists(path):
                    found.append(module.name.replace("__", "/") + (f"#{named[2]}" if named[2] else ""))
        return found

    def read(self, state_ref: str) -> Kept | None:
        """See the port."""
        return _Places(self._root, state_ref).now()

    def history(self, state_ref: str) -> list[Kept]:
        """See the port."""
        return _Places(self._root, state_ref).all()

    @contextlib.contextmanager
    def writing(self, why: str) -> Iterator[FileStateWriter]:
        """See the port."""
        folder = self._root / "state"
        with _translated(folder), as_owner(self._root):
            _make(folder, self._root)
            _make(self._root / "logs" / "runner", self._root)  # for us alone: where the report of what is written goes
            found = folder.stat()
        if found.st_uid != maker(self._root) or found.st_mode & 0o022:
            raise PrerequisiteError(f"{folder}: others can write there", hint="own it, and chmod it 0700")
        with owned_lock(folder / ".lock", why, wait_s=self._lock_wait_s):
            self._at("locked")
            yield FileStateWriter(self._root, self._at)


class FileStateWriter:
    """Made by `FileStates.writing`, and of use while that lock is held."""

    def __init__(self, root: Path, at_boundary: Callable[[str], None]) -> None:
        self._root, self._at = root, at_boundary

    def read(self, state_ref: str) -> Kept | None:
        """See the port."""
        places = _Places(self._root, state_ref)
        kept = places.now()
        if kept is not None and kept.digest != places.current_digest():
            self._write(places.path, places.bytes_of(kept.state.generation), "settled")
        return kept

    def history(self, state_ref: str) -> list[Kept]:
        """See the port."""
        self.read(state_ref)
        return _Places(self._root, state_ref).all()

    def put(self, state_ref: str, state: ModuleState, *, expected: int | None) -> None:
        """See the port."""
        places = _Places(self._root, state_ref)
        now = self.read(state_ref)
        there = None if now is None else now.state.generation
        if there != expected or state.generation != (0 if there is None else there) + 1:
            raise StaleGenerationError(
                f"{state_ref}: the authority is at generation {there}; seen was {expected}, "
                f"to be written is {state.generation}",
                hint=f"look at `hyops state show '{state_ref}'`; nothing was written",
            )
        data = canonical.encode(state.body()) + b"\n"
        if len(data) > BYTES_MAX:
            raise RecordError(f"{state_ref}: a state of {len(data)} bytes is over {BYTES_MAX}; nothing was written")
        if now is not None and not places.numbered(now.state.generation).exists():  # a file that a person put there
            self._write(places.numbered(now.state.generation), places.current() or b"", "before")
        self._write(places.numbered(state.generation), data, "history")
        self._write(places.path, data, "current")

    def _write(self, path: Path, data: bytes, name: str) -> None:
        """Put a file in its place as a whole, name included, for those who may look at `state/`."""
        with _translated(path), as_owner(self._root / "state"):
            group = _group(self._root)
            _make(path.parent, self._root, group)
            partial = path.with_name(f".{path.name}.partial")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                self._at(f"{name}:half")
                file.write(data[len(data) // 2 :])
                file.flush()
                if group is not None:
                    os.chown(file.fileno(), -1, group)
                    os.fchmod(file.fileno(), 0o640)
                os.fsync(file.fileno())
            self._at(f"{name}:written")
            partial.rename(path)
            self._at(f"{name}:named")
            sync_directory(path.parent)
        self._at(f"{name}:durable")


class _Places:
    """Where the generations of one state lie, and what is in them."""

    def __init__(self, root: Path, state_ref: str) -> None:
        where, _, instance = state_path(state_ref)
        self.ref, self.path = state_ref, root / where
        module = self.path.parent if instance is None else self.path.parent.parent
        self._past = module / "history" / (f"instances/{instance}" if instance else "latest")

    def numbered(self, generation: int) -> Path:
        """The file of one generation in the history."""
        return self._past / f"{generation:016d}.json"

    def current(self) -> bytes | None:
        """The file in its place."""
        return _read(self.path)

    def current_digest(self) -> str:
        """Of the file in its place."""
        return canonical.digest_bytes(self.current() or b"")

    def bytes_of(self, generation: int) -> bytes:
        """One generation, from the history."""
        return _read(self.numbered(generation)) or b""

    def now(self) -> Kept | None:
        """The newest: the file in its place, unless a writer died before it could put a newer one there."""
        data = self.current()
        here = None if data is None else _kept(data, self.path)
        newest = self._generations()[-1:]
        if not newest or (here is not None and here.state.generation > newest[0]):
            return here
        last = _kept(self.bytes_of(newest[0]), self.numbered(newest[0]))
        if here is not None and here.state.generation == newest[0] and here.digest != last.digest:
            raise _edited(self.path)
        return last

    def all(self) -> list[Kept]:
        """Oldest first."""
        kept = [_kept(self.bytes_of(number), self.numbered(number)) for number in self._generations()]
        now = self.now()
        return kept if now is None or (kept and kept[-1].digest == now.digest) else [*kept, now]

    def _generations(self) -> list[int]:
        with _translated(self._past):
            names = os.listdir(self._past) if self._past.is_dir() else []
        return sorted(int(found[1]) for name in names if (found := NUMBERED.fullmatch(name)))


def _edited(path: Path) -> RecordError:
    return RecordError(
        f"{path}: changed by hand without raising its generation",
        hint="put the file of this generation back from `history/`, or raise `generation` by one in yours",
    )


def _kept(data: bytes, path: Path) -> Kept:
    return Kept(ModuleState.read(data, source=str(path)), canonical.digest_bytes(data))


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, FILE_FLAGS)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise RecordError(f"{path}: {exc.strerror}") from exc
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RecordError(f"{path}: not a regular file")
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise RecordError(f"{path}: more than {BYTES_MAX} bytes")
    return data


def _group(root: Path) -> int | None:
    """The group that may read this environment's state; None when nobody may but the owner."""
    found = (root / "state").stat()
    return found.st_gid if found.st_mode & 0o050 == 0o050 else None


def _make(folder: Path, root: Path, group: int | None = None) -> None:
    """The folder and what is missing above it, their names durable; links are not followed below the root.

    They are 0700; with `group`, those below `state/` are 0750 and that group's, also the ones that were made before.
    """
    parts = folder.relative_to(root).parts
    for path in (root, *(root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))):
        if not path.is_dir():
            with contextlib.suppress(FileExistsError):  # another process made it just now
                path.mkdir(mode=0o700, parents=path == root)
            sync_directory(path.parent)
        if path.is_symlink() and path != root:
            raise PrerequisiteError(f"{path}: a link", hint="state lies in the root itself; put the folder there")
        if not path.is_dir():
            raise PrerequisiteError(f"{path}: not a folder", hint="move it out of the way")
        if group is not None and path not in (root, root / "state"):
            found = path.stat()
            if (found.st_gid, stat.S_IMODE(found.st_mode)) != (group, 0o750):
                os.chown(path, -1, group)
                path.chmod(0o750)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint="nothing was changed; free or mend the disk") from exc
