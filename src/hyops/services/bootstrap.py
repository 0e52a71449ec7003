"""Makes a host a standing runner: what is to stand there, asked for and sent over one login of a person (RUN-2).

The work is done by `hyops.runner.setup` on the host itself. A first look changes nothing; only what it found wanting is
sent. Keys of the dispatcher never travel, and the runner's signing key is made there and never leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hyops.errors import ConfigError, Effect, NotVerifiedError, PrerequisiteError, RecordError, TargetError
from hyops.model.words import shown
from hyops.ports.admin import AdminLogin, AdminSession, Said
from hyops.ports.transport import RunnerHello
from hyops.runner.config import RunnerConfig
from hyops.services import bootstrap_answer, bootstrap_rules
from hyops.services import runner_files as standing
from hyops.services.bootstrap_answer import Answer

PYTHON = "/usr/bin/python3"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
RELEASES = "/usr/lib/hyops"
MARK = "# made by hyops runner bootstrap"
TOOLS = ("sudo", "systemctl", "sshd", "ssh-keygen", "useradd")
LOOK_AT_PYTHON = f"""{PYTHON} -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())'"""
STARTED_BY = "import sys; exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())), 'setup', 'exec'))"
SAID_MAX = 600


class Release(Protocol):
    """A hyops that can be sent, with all that it needs."""

    @property
    def version(self) -> str:
        """Of hyops."""

    @property
    def release_id(self) -> str:
        """What tells it from others."""

    @property
    def size(self) -> int:
        """Bytes, unpacked."""

    def packed(self) -> bytes:
        """A tar.gz."""


@dataclass(frozen=True)
class RunnerFile:
    """A file for the runner; `private`: nobody else on the runner may read it."""

    name: str
    data: bytes
    private: bool


@dataclass(frozen=True)
class Wanted:
    """What a host is to become. `entrance`: the dispatcher's public key, None where a certificate lets it in; with
    `only_this_key` it is the only one that is let in."""

    runner_ref: str
    config: RunnerConfig
    files: Mapping[str, RunnerFile]
    executors: Collection[str]
    entrance: str | None
    only_this_key: bool = False


@dataclass(frozen=True)
class Report:
    """What was found, and what became of it: `kept`, `made`, `changed`, `removed`; in a dry run `to make` and so on."""

    items: list[dict[str, str]]
    changes: int
    trusted_key: dict[str, Any] | None
    also_let_in: list[str]
    hello: RunnerHello | None = None


@dataclass(frozen=True)
class Bootstrap:
    """One host. `dial` says hello over the dispatcher's own way in; `setup` is the text that works on the host."""

    want: Wanted
    admin: AdminLogin
    release: Release
    python_here: str
    setup: bytes
    dial: Callable[[], Awaitable[RunnerHello]]
    tell: Callable[[str], None] = field(default=lambda line: None)

    async def look(self) -> Report:
        """What is wanting there. Nothing is changed."""
        async with self.admin.enter() as session:
            return self._report(await self._looked(session))

    async def make(self) -> Report:
        """Make what is wanting, then enter as the dispatcher does.

        Raises:
            PrerequisiteError: refused, and nothing was touched. TargetError: stopped half-way; the next one goes on.
            NotVerifiedError: all of it stands, and it shows no key of its own, or the dispatcher does not get in.
        """
        async with self.admin.enter() as session:
            found = await self._looked(session)
            if wanting := found.wanting():
                new = any(one.what.startswith("hyops ") and one.state != "kept" for one in found.items)
                self.tell(f"{wanting} of {len(found.items)} things are wanting")
                found = await self._asked(session, apply=True, archive=self.release.packed() if new else b"")
        made = self._report(found)
        return Report(made.items, made.changes, made.trusted_key, made.also_let_in, await self._entered())

    async def _looked(self, session: AdminSession) -> Answer:
        said = await session.run(LOOK_AT_PYTHON)
        there = shown(said.out.decode(errors="replace").strip(), SAID_MAX)
        if said.status != 0 or not there:
            raise PrerequisiteError(f"{PYTHON} does not run there: {_last(said)}", hint="install python3 on that host")
        if there != self.python_here:
            raise PrerequisiteError(
                f"its Python is {there}, and what runs here needs {self.python_here}",
                hint="give it the same release of the system as this host, or run this from a host like it",
            )
        if session.user != "root" and (said := await session.run("sudo -n true")).status != 0:
            raise PrerequisiteError(
                f"{session.user} may not become root there: {_last(said)}",
                hint="name a login with --admin that may use sudo without a password, or root",
            )
        return await self._asked(session, apply=False, archive=b"")

    async def _asked(self, session: AdminSession, *, apply: bool, archive: bytes) -> Answer:
        words = [PYTHON, "-I", "-c", STARTED_BY]
        command = shlex.join(words if session.user == "root" else ["sudo", "-n", *words])
        plan = json.dumps({**self._plan(archive), "apply": apply}).encode() + b"\n"
        said = await session.run(command, b"%d\n" % len(self.setup) + self.setup + plan + archive)
        try:
            answer = bootstrap_answer.read(said.out.splitlines()[-1])
        except (RecordError, IndexError) as exc:
            touched = Effect.PARTIAL if apply else Effect.NONE
            hint = "run the same command again: it goes on where this one stopped"
            raise TargetError(f"it ended {said.status}: {_last(said)}", hint=hint, effect=touched) from exc
        if isinstance(answer, Answer):
            return answer
        message, hint = shown(answer.message), shown(answer.hint)
        if answer.touched:
            raise TargetError(message, hint=hint, effect=Effect.PARTIAL)
        raise PrerequisiteError(message, hint=hint)

    def _report(self, answer: Answer) -> Report:
        key = None
        if answer.public is not None:
            key = bootstrap_answer.trusted_key(answer.public, self.want.runner_ref)
        return Report(answer.states(), answer.wanting(), key, [shown(other) for other in answer.also])

    async def _entered(self) -> RunnerHello:
        want, hello = self.want, await self.dial()
        if (hello.runner_ref, hello.site) != (want.runner_ref, want.config.site):
            who = shown(f"{hello.runner_ref} in {hello.site}", SAID_MAX)
            raise NotVerifiedError(f"who answers is {who}, not {want.runner_ref}")
        return hello

    def _plan(self, archive: bytes) -> dict[str, Any]:
        want, root = self.want, str(self.want.config.root)
        mine = str(want.config.signing_key)
        return {
            "runner_ref": want.runner_ref,
            "path": PATH,
            "systemd": "/run/systemd/system",
            "tools": list(TOOLS),
            "executors": sorted(want.executors),
            "config": standing.CONFIG,
            "user": {"name": standing.USER, "home": standing.HOME, "shell": standing.SHELL},
            "folders": [
                (standing.ETC, "root", 0o755),
                (standing.HOME, "root", 0o755),
                (standing.RUN, "root", 0o755),
                (root, standing.USER, 0o700),
                (standing.SECRETS, standing.USER, 0o700),
            ],
            "files": self._files(),
            "signing_key": mine if mine not in want.files else None,
            "release": {
                "id": self.release.release_id,
                "version": self.release.version,
                "folder": RELEASES,
                "launcher": standing.LAUNCHER,
                "mark": MARK,
                "text": launcher(self.release.release_id),
                "size": self.release.size,
                "bytes": len(archive),
                "sha256": hashlib.sha256(archive).hexdigest(),
            },
            "entrance": None if want.entrance is None else _entrance(want.entrance, alone=want.only_this_key),
            "enable": standing.RESUME_UNIT,
        }

    def _files(self) -> list[dict[str, Any]]:
        """All of them; whose orders this runner takes comes first, its own configuration last."""
        order = {str(self.want.config.trusted_keys): -1, standing.CONFIG: 1}
        own = [
            _file(path, file.data, *self._owned(path, file))
            for path, file in sorted(self.want.files.items(), key=lambda item: (order.get(item[0], 0), item[0]))
        ]
        system = standing.system(str(self.want.config.root)).items()
        return [*own, *(_file(path, text.encode(), "root", mode) for path, (text, mode) in system)]

    def _owned(self, path: str, file: RunnerFile) -> tuple[str, int]:
        """Owner and mode there. Only a secret is the user's own, as its readers demand: whom this runner believes and
        what it does stand in the others, which the user may read and never change."""
        if path in bootstrap_rules.secrets(self.want.config, self.want.files):
            return standing.USER, 0o600
        return (f"root:{standing.USER}", 0o640) if file.private else ("root", 0o644)


def launcher(release_id: str) -> str:
    """`/usr/bin/hyops` of a runner: this release, and nothing else that the host has."""
    return (
        f"#!{PYTHON} -IS\n{MARK}\nimport sys\nsys.path.append({f'{RELEASES}/{release_id}'!r})\n"
        "from hyops.__main__ import main\nsys.exit(main())\n"
    )


def wanted(runner_ref: str, folder: Path, files: Mapping[str, RunnerFile], ours: Collection[str],
           entrance: str | None) -> Wanted:  # fmt: skip
    """What the files of a folder make of a host; `ours` are the executors that this control host trusts.

    Raises:
        ConfigError: a file is missing, wrong, of another runner or of another control.
    """
    source = folder / "runner.json"
    config = RunnerConfig.load(source)
    hint = f"mend {source}; `hyops runner bootstrap --help` says what the folder must have"
    if config.runner_ref != runner_ref:
        raise ConfigError(f"{source}: runner_ref: it is for {config.runner_ref}, not for {runner_ref}", hint=hint)
    if config.launcher != "systemd":
        raise ConfigError(f"{source}: launcher: a standing runner keeps its jobs with systemd", hint=hint)
    bootstrap_rules.places(config)
    there = {f"{standing.ETC}/{name}": file for name, file in files.items()}
    own = {str(config.signing_key)}
    lacking = sorted(path for path in _named(json.loads(source.read_bytes())) if path not in there.keys() | own)
    if lacking:
        raise ConfigError(f"{folder} has no {', '.join(Path(path).name for path in lacking)}, which {source} names")
    bootstrap_rules.private(config, folder, there)
    if str(config.trusted_keys) not in there:
        raise ConfigError(f"{source}: trusted_keys: it must be a file of {folder}, as {standing.ETC}/NAME", hint=hint)
    theirs = executors(there[str(config.trusted_keys)].data, str(folder))
    if not theirs & set(ours):
        raise ConfigError(f"{folder}: its trusted keys have no executor in common with this control host's", hint=hint)
    return Wanted(runner_ref, config, there, theirs, entrance)


def executors(trusted_keys: bytes, source: str) -> set[str]:
    """The public keys that may send a run, of a `trusted_keys.json`."""
    try:
        keys = json.loads(trusted_keys)["keys"]
        return {str(key["public"]) for key in keys if "execution" in key["roles"]}
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{source}: trusted keys: {type(exc).__name__}: {exc}") from exc


def _named(value: Any) -> set[str]:
    """Every path in `/etc/hyops` that a configuration names."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {path for one in value for path in _named(one)}
    return {value} if isinstance(value, str) and value.startswith(f"{standing.ETC}/") else set()


def _file(path: str, data: bytes, owner: str, mode: int) -> dict[str, Any]:
    return {"path": path, "data": base64.b64encode(data).decode(), "owner": owner, "mode": mode}


def _entrance(public: str, *, alone: bool) -> dict[str, Any]:
    """Its line, and the key: no other line may let the same key in to more. `alone`: nor any other key at all."""
    return {"line": standing.entrance(public), "key": public.split()[1], "alone": alone}


def _last(said: Said) -> str:
    told = (said.errors or said.out).decode(errors="replace").strip()
    return shown(told.splitlines()[-1], SAID_MAX) if told else f"it ended {said.status} and said nothing"
