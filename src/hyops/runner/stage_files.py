"""What root makes and removes around one stage on its host: users, releases, and the lock of a set-up (LOOP-4).

Standard library only: it is sent there beside `hyops.runner.stage_setup`.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyops.runner.setup_files import Refusal, in_use, ran, unpack

LOCK_WAIT_S = 300.0
LOCK_RETRY_S = 0.1
Note = Callable[[str, str], bool]


def tool(path: str, name: str, *words: str) -> str:
    """A command of this host, by a path of ours."""
    argv = [shutil.which(name, path=path) or name, *words]
    done = ran(argv)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-400:]
        raise Refusal(f"{name} {' '.join(words[:2])} ended {done.returncode}: {said}", "mend it, then apply again")
    return done.stdout.decode(errors="replace")


@dataclass(frozen=True)
class Standing:
    """A file as it was found: what a roll-back gives back, owner and mode too, for it may be private."""

    data: bytes
    mode: int
    ids: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Standing | None:
        """None where there is nothing.

        Raises:
            Refusal: it is a link: what it leads to is not ours, and may be private where the link is not.
        """
        if not os.path.lexists(path):
            return None
        if path.is_symlink():
            raise Refusal(f"{path} is a link", "put the file itself there, or remove the link, and apply again")
        found = os.lstat(path)
        return cls(path.read_bytes(), stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid))


@contextlib.contextmanager
def alone(top: Path) -> Iterator[None]:
    """One set-up at a time on this host; the lock goes with whoever holds it."""
    top.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    end = time.monotonic() + LOCK_WAIT_S
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Refusal("another set-up is under way on this host", "wait until it has ended") from None
                time.sleep(LOCK_RETRY_S)
        yield
    finally:
        os.close(fd)


def squatted(paths: Sequence[Path]) -> str | None:
    """Why one of these is not ours to use: a link, or a place that somebody else could change while root works."""
    for path in paths:
        for one in (path, *path.parents):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                seen = os.lstat(one)
                if one == path and os.path.islink(one):
                    return f"{one} is a link"
                if seen.st_uid not in (0, os.geteuid()):
                    return f"{one} belongs to user {seen.st_uid}"
    return None


def own_all(folder: Path, ids: tuple[int, int]) -> None:
    """The owner of everything below; links are not followed."""
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(base, name), *ids, follow_symlinks=False)
    os.chown(folder, *ids, follow_symlinks=False)


def tidy(top: Path, releases: Path) -> None:
    """The folders that all stages share, when the last one is gone."""
    for path in (releases, top):
        with contextlib.suppress(OSError):
            path.rmdir()


class Users:
    """The stage's own user, and the group by which the stages read each other's records."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.user, self.group = str(plan["user"]), str(plan["group"])
        self.home, self.top, self.path = str(plan["home"]), Path(plan["top"]), str(plan["path"])

    def ids(self, owner: str) -> tuple[int, int]:
        """Of `root:loop` and the like; root's while the user is not made yet."""
        user, _, group = owner.partition(":")
        account = self._account()
        uid = account.pw_uid if user == "user" and account else os.geteuid()
        if group == "loop":
            return uid, self._gid(os.getegid())
        return uid, account.pw_gid if group == "user" and account else os.getegid()

    def foreign(self) -> str | None:
        """Why the account of this name is not this stage's."""
        account = self._account()
        if account is None or account.pw_dir == self.home:
            return None
        return f"user {self.user} is somebody's (home {account.pw_dir})"

    def make(self, note: Note) -> None:
        """The group and the user, who never logs in."""
        missing = self._gid(-1) == -1
        if note(f"group {self.group}", "made" if missing else "kept"):
            tool(self.path, "groupadd", "--system", self.group)
        if note(f"user {self.user}", "made" if self._account() is None else "kept"):
            home = ["--home-dir", self.home, "--no-create-home", "--shell", "/usr/sbin/nologin"]
            tool(self.path, "useradd", "--system", "--user-group", *home, "--groups", self.group, self.user)

    def remove(self, note: Note) -> None:
        """The user; the group too when no stage is left."""
        if self._account() is not None and note(f"user {self.user}", "removed"):
            tool(self.path, "userdel", self.user)
        others = [path for path in self.top.glob("decision-*/bin/hyops") if str(path.parents[1]) != self.home]
        if not others and self._gid(-1) != -1 and note(f"group {self.group}", "removed"):
            tool(self.path, "groupdel", self.group)

    def _account(self) -> pwd.struct_passwd | None:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(self.user)
        return None

    def _gid(self, otherwise: int) -> int:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(self.group).gr_gid
        return otherwise


class Releases:
    """hyops itself, each release in a folder of its own that never changes; a stage's launcher names one."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.release, self.path = plan["release"], str(plan["path"])
        self.top, self.folder = Path(plan["top"]), Path(plan["top"]) / "releases"

    def stands(self) -> bool:
        """Whether it is here whole."""
        return (self.folder / str(self.release["id"])).is_dir()

    def command(self) -> list[str]:
        """This release's command line, whatever any launcher names."""
        place = str(self.folder / self.release["id"])
        program = f"import sys; sys.path.append({place!r}); from hyops.__main__ import main; sys.exit(main())"
        return [sys.executable, "-IS", "-c", program]

    def make(self, note: Note) -> None:
        """Unpack it beside the others, and give it its name when it is whole."""
        release, final = self.release, self.folder / self.release["id"]
        if not note(f"hyops {release['id']}", "kept" if self.stands() else "made"):
            return
        fresh = self.folder / f".new-{release['id']}"
        for left in self.folder.glob(".new-*"):
            shutil.rmtree(left)
        fresh.mkdir(mode=0o755, parents=True)
        try:
            with open(release["archive"], "rb") as source:
                unpack(source, release, fresh)
            if not (fresh / "hyops" / "__main__.py").is_file():
                raise Refusal("the release holds no hyops", "name an archive with hyops and all that it needs")
            compiled = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
            tool(self.path, sys.executable, *compiled, "-s", str(fresh), "-p", str(final), str(fresh))
            os.sync()
            os.replace(fresh, final)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def prune(self) -> None:
        """Those that no stage names and no process runs; the newest of them is kept for who goes back."""
        if not self.folder.is_dir():
            return
        launchers = [path.read_text(errors="replace") for path in self.top.glob("decision-*/bin/hyops")]
        used = in_use(self.folder)
        there = sorted((p for p in self.folder.iterdir() if p.is_dir()), key=lambda path: path.stat().st_mtime)
        free = [path for path in there if path.name not in used and not any(path.name in text for text in launchers)]
        for path in free[:-1] if launchers else free:
            shutil.rmtree(path)
