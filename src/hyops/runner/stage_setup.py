"""Makes one stage of the control loop a service of this host, or takes it away again (LOOP-4): run there as root.

Standard library only, and of hyops `setup_files` and `stage_files` alone, which are sent along: no hyops is there yet.
It looks at everything before it changes anything. A new configuration lies beside the old one until the new hyops
itself has read it, as the user who will run it; then all of it takes its place and the service begins anew. One that
does not come up gets its old files back. Each change is a rename of a whole file or folder, and what must begin anew is
written down first, so that a set-up which was killed is ended by the next one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from hyops.runner.setup_files import Refusal, give, ran, replace
from hyops.runner.stage_files import Releases, Standing, Users, alone, own_all, squatted, tidy, tool

MARGIN_BYTES = 32 * 1024 * 1024
CHECK_LIMIT_S = 120
SAID_MAX = 1500


class BadConfigError(Refusal):
    """The hyops that would run it does not take this configuration."""


class Stage:
    """One plan on this host; see `services.stage_plan`. `items` is what was found, and what became of it."""

    def __init__(self, plan: dict[str, Any], data: dict[str, str]) -> None:
        self.plan, self.home = plan, Path(plan["home"])
        self.files = {name: base64.b64decode(text) for name, text in data.items()}
        self.config, self.new = self.home / "config", self.home / ".new"
        self.launcher, self.pending = self.home / "bin" / "hyops", self.home / ".restart"
        self.unit = Path(plan["units"]) / plan["unit"]
        self.users = Users(plan)
        self.releases = Releases(plan)
        self.apply = self.changed = False
        self.items: list[dict[str, str]] = []
        self.said: Any = {}

    # --- what stands

    def look(self) -> dict[str, Any]:
        """What is wanting here; nothing is changed."""
        self._refuse()
        self._stand()
        return self._answer()

    def make(self) -> dict[str, Any]:
        """Make what is wanting."""
        self._refuse()
        self.apply = True
        with alone(Path(self.plan["top"])):
            self._stand()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        wanting = sum(item["state"] != "kept" for item in self.items)
        said = self.said if self.apply or not wanting else {}
        return {"items": self.items, "wanting": wanting, "said": said, "release_stands": self.releases.stands()}

    def _stand(self) -> None:
        self.users.make(self._note)
        for path, owner, mode in self._folders():
            self._folder(path, owner, mode)
        self.releases.make(self._note)
        self._signing_key()
        self._begin()

    # --- what stands in the way, before anything is done

    def _refuse(self) -> None:
        found = [why for why in (self._tools(), self._python(), self._room(), self._foreign()) if why]
        if found:
            raise Refusal("; ".join(what for what, _ in found), found[0][1])

    def _tools(self) -> tuple[str, str] | None:
        lacking = [name for name in self.plan["tools"] if shutil.which(name, path=self.plan["path"]) is None]
        if not Path(self.plan["systemd"]).is_dir():
            lacking.append(f"systemd ({self.plan['systemd']} is not there)")
        return (f"not installed: {', '.join(lacking)}", "install what is named, and apply again") if lacking else None

    def _python(self) -> tuple[str, str] | None:
        here = f"{sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"
        wanted = self.plan["release"]["python"]
        if wanted in (None, here):
            return None
        return f"its Python is {here}, and the release needs {wanted}", "give it the same release of the system"

    def _room(self) -> tuple[str, str] | None:
        above = Path(self.plan["top"])
        while not above.exists():
            above = above.parent
        free = os.statvfs(above)
        needed = MARGIN_BYTES + (0 if self.releases.stands() else 3 * int(self.plan["release"]["size"]))
        if (there := free.f_bavail * free.f_frsize) >= needed:
            return None
        return f"{above}: {there // 2**20} MiB are free, {needed // 2**20} are needed", "make room, and apply again"

    def _foreign(self) -> tuple[str, str] | None:
        why = self.users.foreign() or squatted([Path(self.plan["top"]), self.home, self.config, self.unit])
        return (why, "see whose it is; move it away when it is nobody's, and apply again") if why else None

    # --- each thing: as planned, or made so

    def _note(self, what: str, state: str) -> bool:
        """Whether to act."""
        words = {"made": "to make", "changed": "to change", "removed": "to remove"}
        self.items.append({"what": what, "state": state if self.apply else words.get(state, state)})
        self.changed = self.changed or (self.apply and state != "kept")
        return self.apply and state != "kept"

    def _folders(self) -> list[tuple[Path, str, int]]:
        state = self.home / "state"
        return [
            (self.home, "root:loop", 0o750),
            (self.config, "root:user", 0o750),
            (self.home / "bin", "root:root", 0o755),
            (self.home / "logs", "user:loop", 0o750),
            (state, "user:loop", 0o2750),
            *((state / kind, "user:loop", 0o2750) for kind in self.plan["kinds"]),
        ]

    def _folder(self, path: Path, owner: str, mode: int) -> None:
        ids = self.users.ids(owner)
        seen = os.lstat(path) if os.path.lexists(path) else None
        good = seen is not None and (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (mode, *ids)
        if self._note(f"folder {path}", "kept" if good else "made" if seen is None else "changed"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.name == "state" and seen is not None and seen.st_uid != ids[0]:
                own_all(path, ids)  # records that were kept when the stage was removed
            give(path, stat.S_ISDIR, mode, ids)

    def _signing_key(self) -> None:
        """A key that never leaves this host; one that stands is never replaced."""
        path, ids = self.config / "signing_key.pem", self.users.ids("user:user")
        seen = os.lstat(path) if os.path.lexists(path) else None
        good = seen is not None and (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o600, ids[0])
        if self._note(f"signing key {path}", "kept" if good else "made" if seen is None else "changed"):
            if seen is None:  # PKCS8 of an Ed25519 key (RFC 8410): a fixed head, and 32 random bytes
                body = base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + os.urandom(32))
                replace(path, b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n", 0o600, ids)
            else:
                give(path, stat.S_ISREG, 0o600, ids)

    # --- the configuration, and the service that runs with it

    def _placed(self) -> dict[Path, tuple[bytes, int, tuple[int, int]]]:
        """Everything that the service begins with; the configuration itself is written last of its folder."""
        root = self.users.ids("root:root")
        found = {}
        for name in sorted(self.files, key=lambda name: (name == "config.json", name)):
            private = name in self.plan["private"]
            ids = self.users.ids("user:user" if private else "root:user")
            found[self.config / name] = (self.files[name], 0o600 if private else 0o640, ids)
        found[self.launcher] = (self.plan["launcher"].encode(), 0o755, root)
        found[self.unit] = (self.plan["unit_text"].encode(), 0o644, root)
        return found

    def _trust_own(self) -> None:
        """The stage believes its own records too; its key is known here alone, and only once it is made."""
        key = self.config / "signing_key.pem"
        if not (self.releases.stands() and key.exists()):
            return  # in a look: the file is wanting anyway
        try:
            self.said = self._checked(self.config) if (self.config / "config.json").exists() else {}
        except BadConfigError:
            self.said = {}  # what stands is bad, and about to be mended
        own = self.said.get("signing_key") or self._asked(
            "service", "signing-key", self.plan["stage"], "--key", str(key)
        )
        keys = json.loads(self.files["trusted_keys.json"])["keys"]
        keys = [*(one for one in keys if one.get("public") != own["public"]), own]
        self.files["trusted_keys.json"] = json.dumps({"keys": keys}, indent=2, sort_keys=True).encode() + b"\n"

    def _begin(self) -> None:
        self._trust_own()
        placed, changed = self._placed(), False
        stale = [p for p in self._standing() if p not in placed and p.name != "signing_key.pem"]
        before: dict[Path, Standing | None] = {}
        for path, wanted in placed.items():
            before[path] = seen = Standing.of(path)
            state = "made" if seen is None else "kept" if seen == Standing(*wanted) else "changed"
            self._note(f"file {path}", state)
            changed = changed or state != "kept"
        for path in stale:
            before[path] = Standing.of(path)
            self._note(f"file {path}", "removed")
        changed = changed or bool(stale)
        self._serve(placed, before, stale, anew=changed or self.pending.exists())

    def _standing(self) -> list[Path]:
        return sorted(p for p in self.config.iterdir() if p.is_file()) if self.config.is_dir() else []

    def _serve(self, placed: Any, before: dict[Path, Standing | None], stale: list[Path], *, anew: bool) -> None:
        serves = self._is("is-active") and self._is("is-enabled")
        first = before.get(self.unit) is None
        if not self._note(
            f"service {self.plan['unit']}", "made" if first else "changed" if anew or not serves else "kept"
        ):
            return
        if anew:
            self._try(placed)
            replace(self.pending, b"", 0o600, self.users.ids("root:root"))
            for path, (data, mode, ids) in placed.items():
                replace(path, data, mode, ids)
            for path in stale:
                path.unlink(missing_ok=True)
        try:
            self._tool("systemctl", "daemon-reload")
            self._tool("systemctl", "enable", self.plan["unit"])
            self._tool("systemctl", "restart" if anew else "start", self.plan["unit"])
        except Refusal as exc:
            self._put_back(before)
            raise Refusal(f"{exc.args[0]}; {self._journal()}", "mend what it says, and apply again") from exc
        self.pending.unlink(missing_ok=True)
        self.releases.prune()

    def _put_back(self, before: dict[Path, Standing | None]) -> None:
        """The old one goes on; where there was none, nothing is left running."""
        if before.get(self.unit) is None:
            for words in (("stop",), ("disable",)):
                with contextlib.suppress(Refusal):
                    self._tool("systemctl", *words, self.plan["unit"])
            return
        for path, was in before.items():
            if was is not None:
                replace(path, was.data, was.mode, was.ids)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(Refusal):
            self._tool("systemctl", "daemon-reload")
            self._tool("systemctl", "restart", self.plan["unit"])
            self.pending.unlink(missing_ok=True)

    def _try(self, placed: Any) -> None:
        """The new hyops reads the new configuration, as the user who will run it, before anything is replaced."""
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir(mode=0o700)
        give(self.new, stat.S_ISDIR, 0o750, self.users.ids("root:user"))
        try:
            text = self.files["config.json"].decode()
            for path, (data, mode, ids) in placed.items():
                if path.parent == self.config:
                    replace(self.new / path.name, data, mode, ids)
                    text = text.replace(f'"{path}"', f'"{self.new / path.name}"')
            replace(self.new / "config.json", text.encode(), 0o640, self.users.ids("root:user"))
            self.said = self._checked(self.new)
        finally:
            shutil.rmtree(self.new, ignore_errors=True)

    def _checked(self, folder: Path) -> Any:
        """What hyops says of a configuration: its mode, and the public half of its key."""
        return self._asked("service", "check", self.plan["stage"], "--config", str(folder / "config.json"))

    def _asked(self, *words: str) -> Any:
        """What the release says to the stage's own user."""
        uid, gid = self.users.ids("user:user")
        alone: Any = {"user": uid, "group": gid, "extra_groups": [self.users.ids("root:loop")[1]]}
        rights = alone if os.geteuid() == 0 else {}
        done = self._release_says(*words, cwd="/", env={"PATH": self.plan["path"]}, **rights)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            said = said.replace(str(self.new), str(self.config))[-SAID_MAX:]
            raise BadConfigError(f"the configuration is refused: {said}", "mend it, and apply again")
        try:
            return json.loads(done.stdout)
        except ValueError as exc:
            raise Refusal(f"hyops {' '.join(words)}: it says no JSON", "see what is installed there") from exc

    def _release_says(self, *words: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
        try:
            return ran([*self.releases.command(), *words], CHECK_LIMIT_S, **how)
        except Refusal as exc:  # its command line is a program, and says nothing to people
            raise Refusal(f"hyops {' '.join(words[:2])} did not end within {CHECK_LIMIT_S:g} s", exc.args[1]) from None

    def _journal(self) -> str:
        words = ["journalctl", "--no-pager", "-o", "cat", "-n", "5", "-u", self.plan["unit"]]
        with contextlib.suppress(OSError, Refusal):
            return tool(self.plan["path"], *words).strip()[-SAID_MAX:]
        return "its journal says nothing"

    def _is(self, verb: str) -> bool:
        words = [shutil.which("systemctl", path=self.plan["path"]) or "systemctl", verb, "--quiet", self.plan["unit"]]
        return ran(words).returncode == 0

    def _tool(self, *words: str) -> str:
        return tool(self.plan["path"], *words)

    # --- and away again

    def remove(self, *, apply: bool) -> dict[str, Any]:
        """Unit, user and folders go; the records only where the plan says so."""
        self.apply = apply
        if why := squatted([Path(self.plan["top"]), self.home]):
            raise Refusal(why, "see whose it is; nothing was removed")
        with alone(Path(self.plan["top"])) if apply and Path(self.plan["top"]).exists() else contextlib.nullcontext():
            self._remove()
        wanting = sum(item["state"] != "kept" for item in self.items)
        return {"items": self.items, "wanting": wanting, "said": {}}

    def _remove(self) -> None:
        there = self.unit.exists()
        if there and self._note(f"service {self.plan['unit']}", "removed"):
            self._tool("systemctl", "disable", "--now", self.plan["unit"])
            self.unit.unlink(missing_ok=True)
            self._tool("systemctl", "daemon-reload")
        state = self.home / "state"
        keep = not self.plan["purge"] and any(path.suffix == ".json" for path in state.rglob("*"))
        parts = sorted(self.home.iterdir()) if self.home.is_dir() else []
        for path in [*parts, self.home]:
            if keep and path in (state, self.home):
                continue
            if os.path.lexists(path) and self._note(f"{'folder' if path.is_dir() else 'file'} {path}", "removed"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if keep:
            good = os.lstat(state).st_uid == os.geteuid()
            if self._note(f"records in {state}", "kept" if good else "changed"):
                own_all(state, self.users.ids("root:root"))
                give(self.home, stat.S_ISDIR, 0o700, self.users.ids("root:root"))
        self.users.remove(self._note)
        if self.apply:
            self.releases.prune()
            tidy(Path(self.plan["top"]), self.releases.folder)


def perform(action: str, plan: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
    """One plan: `look`, `make`, `look-remove` or `remove`. `ok` False says why, and what was touched."""
    os.umask(0o022)
    stage = Stage(plan, data)
    try:
        if action in ("remove", "look-remove"):
            answer = stage.remove(apply=action == "remove")
        else:
            answer = stage.make() if action == "make" else stage.look()
        return {"ok": True, "touched": stage.changed, **answer}
    except Refusal as exc:
        bad = isinstance(exc, BadConfigError)
        told = {"message": exc.args[0], "hint": exc.args[1], "config": bad}
    except OSError as exc:
        hint = "make room or mend it, and apply again: it goes on where this one stopped"
        told = {"message": f"{exc.filename or 'disk'}: {exc.strerror}", "hint": hint, "config": False}
    goes_on = bool(told["config"]) and stage.unit.exists()  # nothing that the service runs with was replaced yet
    return {"ok": False, "touched": stage.changed and not goes_on, "items": stage.items, **told}
