"""Makes a host a runner, on that host (RUN-2): its text is sent there and run as root, before any hyops is there.

Standard library only, and of hyops `setup_files` alone, which is sent along. It reads one line of JSON (the plan, see
`services.bootstrap`), then the release where the plan brings one, and answers with one line of JSON. It looks at
everything before it changes anything. Each change is a rename of a whole file or folder, so that one that was killed is
ended by the next one; what lets the dispatcher in is written last. What is as planned is left as it is.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pwd
import shutil
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

from hyops.runner.setup_files import (
    Refusal,
    brief,
    executors,
    give,
    in_use,
    key_files,
    lets_in,
    lines,
    ran,
    replace,
    standing,
    unpack,
)  # fmt: skip

MARGIN_BYTES = 64 * 1024 * 1024


class Setup:
    """One plan on this host. `items` is what was found, and what became of it."""

    def __init__(self, plan: dict[str, Any], source: BinaryIO) -> None:
        self.plan, self.source = plan, source
        self.path, self.apply = str(plan["path"]), bool(plan["apply"])
        self.items: list[dict[str, str]] = []
        self.changed = False
        self.also: list[str] = []

    def run(self) -> dict[str, Any]:
        """Look, then act if the plan says so."""
        self._refuse()
        with self._alone():
            self._user()
            for path, owner, mode in self.plan["folders"]:
                self._folder(Path(path), owner, mode)
            first, *rest = self.plan["files"]
            self._file(first)  # whose runner this is
            self._release()
            for file in rest:
                self._file(file)
            self._signing_key()
            self._units()
            public = self._public()
            self._entrance()
        fresh = sum(item["state"] != "kept" for item in self.items)
        return {"ok": True, "items": self.items, "changes": fresh, "public": public, "also": self.also}

    # what stands in the way: all of it, before anything is done

    def _refuse(self) -> None:
        found = [fault for look in (self._tools, self._claimed, self._squatted, self._room) for fault in look()]
        if found:
            raise Refusal("; ".join(what for what, _ in found), found[0][1])

    def _tools(self) -> list[tuple[str, str]]:
        lacking = [name for name in self.plan["tools"] if shutil.which(name, path=self.path) is None]
        mend = "install what is named, then run the same command again"
        found = [(f"not installed: {', '.join(lacking)}", mend)] if lacking else []
        if not Path(self.plan["systemd"]).is_dir():
            found.append((f"{self.plan['systemd']} is not there", "a runner needs systemd: it keeps the jobs"))
        return found

    def _claimed(self) -> list[tuple[str, str]]:
        """Whose runner this host is: that of whoever's executor it trusts."""
        new, own = Path(self.plan["files"][0]["path"]), Path(self.plan["config"])
        try:
            present = standing(own)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            hint = "mend it, or, when nothing runs there and it is nobody's, move it away; then run this again"
            return [(f"{own}: whose runner this is cannot be read ({type(exc).__name__})", hint)]
        for path in dict.fromkeys([new, *([present[1]] if present else [])]):
            theirs = executors(path)
            if theirs is not None and not theirs & set(self.plan["executors"]):
                hint = f"use another host; or, if this is to change hands, see that nothing runs there and move {path}"
                return [(f"{path}: this host is a runner of another control, which trusts other executors", hint)]
        if present and present[0] != self.plan["runner_ref"]:
            hint = "one host is one runner: name it so, or use another"
            return [(f"{own}: this host is runner {present[0]!r}", hint)]
        return []

    def _squatted(self) -> list[tuple[str, str]]:
        found = []
        home, shell = self.plan["user"]["home"], self.plan["user"]["shell"]
        user = self._account()
        if user is not None and (user.pw_dir != home or user.pw_shell != shell):
            said = f"user {user.pw_name} is somebody's (home {user.pw_dir}, shell {user.pw_shell})"
            found.append((said, f"it must be a system user with home {home} and shell {shell}, or not be there yet"))
        for path, owner, _ in self.plan["folders"]:
            if why := self._foreign(Path(path), owner, stat.S_ISDIR):
                found.append((why, "see whose it is; move it away when it is nobody's, then run this again"))
        files = [(file["path"], file["owner"]) for file in self.plan["files"]]
        if self.plan["signing_key"] is not None:
            files.append((self.plan["signing_key"], self.plan["user"]["name"]))
        for path, owner in files:
            if why := self._foreign(Path(path), owner, stat.S_ISREG):
                found.append((why, "see who put it there; move it away, then run this again"))
        return found

    def _foreign(self, path: Path, owner: str, kind: Any) -> str | None:
        """Why this is not ours to use. Root may have made what will be the user's; nobody else may.

        Whoever owns a folder above could put another thing in its place while root works on it.
        """
        for above in path.parents:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if (uid := os.stat(above).st_uid) not in (0, os.geteuid()):
                    return f"{above}, in which {path} lies, belongs to user {uid}"
        try:
            seen = os.lstat(path)
        except OSError:
            return None
        if not kind(seen.st_mode):
            return f"{path} is a link, or no plain file or folder: somebody planted it"
        user = self._account()
        allowed = {os.geteuid()} | ({user.pw_uid} if owner != "root" and user is not None else set())
        return None if seen.st_uid in allowed else f"{path} belongs to user {seen.st_uid}"

    def _room(self) -> list[tuple[str, str]]:
        above = Path(self.plan["release"]["folder"])
        while not above.exists():
            above = above.parent
        free, needed = os.statvfs(above), MARGIN_BYTES
        if self._release_state() != "kept":
            needed += 2 * int(self.plan["release"]["size"])
        if (there := free.f_bavail * free.f_frsize) < needed:
            said = f"{above}: {there // 2**20} MiB are free, {needed // 2**20} are needed"
            return [(said, "make room there, then run the same command again")]
        return []

    # each thing: as planned, or made so

    def _note(self, what: str, state: str) -> bool:
        """Whether to act."""
        words = {"made": "to make", "changed": "to change", "removed": "to remove"}
        self.items.append({"what": what, "state": state if self.apply else words.get(state, state)})
        self.changed = self.changed or state != "kept"
        return self.apply and state != "kept"

    @contextlib.contextmanager
    def _alone(self) -> Any:
        """One at a time."""
        if not self.apply:
            yield
            return
        folder = Path(self.plan["folders"][0][0])
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refusal("another bootstrap is under way on this host", "wait until it has ended") from None
            yield
        finally:
            os.close(fd)

    def _account(self) -> pwd.struct_passwd | None:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(self.plan["user"]["name"])
        return None

    def _owner(self, owner: str) -> tuple[int, int]:
        user = self._account()
        if owner == "root" or user is None:  # before the user is made, in a dry run
            return os.geteuid(), os.getegid()
        return os.geteuid() if owner.startswith("root:") else user.pw_uid, user.pw_gid

    def _user(self) -> None:
        want = self.plan["user"]
        if self._note(f"user {want['name']}", "made" if self._account() is None else "kept"):
            home = ["--home-dir", want["home"], "--no-create-home", "--shell", want["shell"]]
            # no password, and not locked: sshd lets nobody in whose account is
            self._tool("useradd", "--system", "--user-group", *home, "--password", "*", want["name"])

    def _folder(self, path: Path, owner: str, mode: int) -> None:
        ids = self._owner(owner)
        seen = os.lstat(path) if os.path.lexists(path) else None
        good = seen is not None and (stat.S_IMODE(seen.st_mode), seen.st_uid) == (mode, ids[0])
        if self._note(f"folder {path}", "kept" if good else "made" if seen is None else "changed"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            give(path, stat.S_ISDIR, mode, ids)

    def _file(self, file: dict[str, Any]) -> None:
        path, data, mode = Path(file["path"]), base64.b64decode(file["data"]), file["mode"]
        ids, state = self._owner(file["owner"]), "made"
        if path.exists():
            seen = os.lstat(path)
            good = (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (mode, *ids) and path.read_bytes() == data
            state = "kept" if good else "changed"
        if self._note(f"file {path}", state):
            replace(path, data, mode, ids)

    def _release_state(self) -> str:
        """`kept`: it stands, or another of the same version does."""
        release = self.plan["release"]
        launcher = Path(release["launcher"])
        if not launcher.exists():
            return "made"
        if launcher.read_bytes().decode(errors="replace") == release["text"]:
            return "kept" if Path(release["folder"], release["id"]).is_dir() else "changed"
        if release["mark"] in launcher.read_text(errors="replace"):
            return "changed"
        done = ran([str(launcher), "--version"])
        said = done.stdout.decode(errors="replace").strip()[:100]
        if said != f"hyops {release['version']}":
            why = f"{launcher} was not made by a bootstrap, and says {said!r}; here is hyops {release['version']}"
            raise Refusal(why, "bring it to this version the way it came there, or remove it and run this again")
        return "kept"

    def _release(self) -> None:
        release = self.plan["release"]
        folder = Path(release["folder"])
        final, fresh = folder / release["id"], folder / f".new-{release['id']}"
        if not self._note(f"hyops {release['version']}", self._release_state()):
            return
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for left in folder.glob(".new-*"):
            shutil.rmtree(left)
        if not final.is_dir():
            try:
                unpack(self.source, release, fresh)
                compiled = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
                self._tool(sys.executable, *compiled, "-s", str(fresh), "-p", str(final), str(fresh))
                os.sync()
                os.replace(fresh, final)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        replace(Path(release["launcher"]), release["text"].encode(), 0o755, (os.geteuid(), os.getegid()))
        older = sorted((p for p in folder.iterdir() if p != final), key=lambda p: p.stat().st_mtime)
        used = in_use(folder)
        for one in older[:-1]:  # the last one is kept for who goes back
            if one.name not in used:
                shutil.rmtree(one)

    def _signing_key(self) -> None:
        """A key that never leaves this host; one that stands is never replaced."""
        if (place := self.plan["signing_key"]) is None:
            return
        path, ids = Path(place), self._owner(self.plan["user"]["name"])
        seen = os.lstat(path) if os.path.lexists(path) else None
        good = seen is not None and (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o600, ids[0])
        if self._note(f"signing key {path}", "kept" if good else "made" if seen is None else "changed"):
            if seen is None:  # PKCS8 of an Ed25519 key (RFC 8410): a fixed head, and 32 random bytes
                body = base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + os.urandom(32))
                pem = b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n"
                replace(path, pem, 0o600, ids)
            else:
                give(path, stat.S_ISREG, 0o600, ids)

    def _units(self) -> None:
        """What a file alone does not do; read anew each time, for one that was killed may not have come so far."""
        if self.apply:
            self._tool("systemctl", "daemon-reload")
        asked, unit = [shutil.which("systemctl", path=self.path) or "systemctl", "is-enabled"], self.plan["enable"]
        on = ran([*asked, "--quiet", unit]).returncode == 0
        if self._note(f"unit {unit}", "kept" if on else "changed"):
            self._tool("systemctl", "enable", unit)

    def _public(self) -> str | None:
        """What its signing key is known by; said by the hyops that was installed, as the user who will run it."""
        if not self.apply and any(item["state"] != "kept" for item in self.items):
            return None
        words = [self.plan["release"]["launcher"], "runner", "signing-key", "--runner-config", self.plan["config"]]
        uid, gid = self._owner(self.plan["user"]["name"])
        alone: Any = {"extra_groups": []} if os.geteuid() == 0 else {}
        done = ran(words, user=uid, group=gid, cwd="/", env={"PATH": self.path}, **alone)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-800:]
            raise Refusal(f"{' '.join(words)} ended {done.returncode}: {said}", "mend it; nobody was let in yet")
        return str(done.stdout.decode()).strip()

    def _entrance(self) -> None:
        """The dispatcher's one line where this host's sshd looks for this user's keys; `alone`, and no other line."""
        if (entrance := self.plan["entrance"]) is None:
            return
        line, key = entrance["line"].encode(), base64.b64decode(entrance["key"])
        user = self.plan["user"]["name"]
        asked = self._tool("sshd", "-T", "-C", f"user={user},host=localhost,addr=127.0.0.1")
        if not (found := key_files(asked, user, self.plan["user"]["home"])):
            raise Refusal(f"sshd takes no keys for {user}", "give this runner a certificate in the executor's entry")
        path, further = found[0], found[1:] if entrance["alone"] else []
        for place in (path, *further):
            for above in (place.parent, place):
                if why := self._foreign(above, "root", stat.S_ISDIR if above == place.parent else stat.S_ISREG):
                    raise Refusal(why, "see who put it there; it decides who is let in")
        stands = lines(path)
        others = [other for other in stands if not lets_in(other, key)]
        good = [other for other in stands if lets_in(other, key)] == [line]
        if entrance["alone"]:
            self._alone_let_in([place for place in further if lines(place)], others)
            good, others = stands == [line], []
        self.also = [brief(other) for other in others if other.strip()]
        if self._note(f"entrance {path}", "kept" if good else "changed" if stands else "made"):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace(path, b"\n".join([*others, line]) + b"\n", 0o644, (os.geteuid(), os.getegid()))

    def _alone_let_in(self, further: list[Path], others: list[bytes]) -> None:
        """Say which lines go; empty the other files in which this host's sshd looks for this user's keys."""
        for place, gone in [(None, others), *((place, lines(place)) for place in further)]:
            for line in filter(bytes.strip, gone):
                self._note(f"let in until now: {brief(line)}", "removed")
            if place is not None and self.apply:
                replace(place, b"", 0o644, (os.geteuid(), os.getegid()))

    def _tool(self, name: str, *words: str) -> str:
        done = ran([shutil.which(name, path=self.path) or name, *words])
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-400:]
            raise Refusal(f"{name} {words[0]} ended {done.returncode}: {said}", "mend it, then run this again")
        return done.stdout.decode(errors="replace")


def main(source: BinaryIO) -> int:
    """One plan in, one answer out."""
    os.umask(0o022)
    plan = json.loads(source.readline())
    setup = Setup(plan, source)
    try:
        answer = setup.run()
    except Refusal as exc:
        answer = {"ok": False, "message": exc.args[0], "hint": exc.args[1]}
    except OSError as exc:
        hint = "make room or mend it, then run the same command again: it goes on where this one stopped"
        answer = {"ok": False, "message": f"{exc.filename or 'disk'}: {exc.strerror}", "hint": hint}
    answer["touched"] = setup.apply and setup.changed
    print(json.dumps(answer))  # noqa: T201  # the answer itself
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))
