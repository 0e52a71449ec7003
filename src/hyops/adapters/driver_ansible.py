"""Driver `config/ansible`: a playbook of a pack on one host, by a process of `ansible-playbook` (MOD-2, SEC-2, INV-10).

The process sees a folder of its own in memory (inventory, settings, plug-ins; nothing of the user's) and an environment
with nothing of ours. Variables go in by a named pipe, so a secret stands on no command line and in no file; what comes
out is what our own plug-in tells, and that is redacted. SSH: the pinned key, no agent, no configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.metadata
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyops.adapters.ansible_answers import Told, outcome
from hyops.errors import DeadlineError, PrerequisiteError
from hyops.model.module_spec import DriverProfile
from hyops.ports.plays import Play, PlayResult

EVENTS = Path(__file__).with_name("ansible_events.py")
LINE_MAX = 4 * 1024 * 1024
SAID_MAX = 16 * 1024
END_LIMIT_S = 5.0
SSH_FAILED = 255
PR_SET_PDEATHSIG = 1
MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of mode 0700 is made in it
MARK, VARIABLES = "HYOPS_PLAY", "variables.json"
INSTALL = "install it: `apt install ansible-core`, or hyops with its extra `ansible`"


@dataclass(frozen=True)
class AnsibleDriver:
    """`PlayDriver`. `tool` is the command; None: that of this very Python, else the one that PATH has."""

    profile: DriverProfile
    tool: Sequence[str] | None = None

    async def version(self) -> str:
        """See the port."""
        return (await asyncio.to_thread(self._found))[1]

    async def run(self, play: Play, tell: Callable[[str], None]) -> PlayResult:
        """See the port."""
        command, _ = await asyncio.to_thread(self._found)
        with _folder() as folder:
            words, env = self._prepared(command, play, folder)
            token = secrets.token_hex(16)
            limit_s = self.profile.timeout_s
            try:
                async with asyncio.timeout(limit_s), _started(words, {**env, MARK: token}, play.held, token) as running:
                    variables = json.dumps(dict(play.variables)).encode()
                    async with _handed(folder / VARIABLES, variables):
                        told = await running.told(play.redact, tell)
                    if told.torn():
                        told.mend(play.redact(await asyncio.to_thread(self._why_torn, play, folder)))
            except TimeoutError as exc:
                hint = "what it had begun may be half done: look at the host, then run the same command again"
                raise DeadlineError(f"{play.host.name}: it took longer than {limit_s:g} s", hint=hint) from exc
            finally:
                _hang_up(folder)
        return outcome(play, told)

    def _found(self) -> tuple[list[str], str]:
        """The command and its version, which fits the profile."""
        wanted = f"{self.profile.tool} >={self.profile.tool_min},<{self.profile.tool_below}"
        command, version = (list(self.tool), _asked(self.tool)) if self.tool is not None else _any()
        if not command:
            raise PrerequisiteError(f"there is no {wanted} here", hint=INSTALL)
        number = _number(version)
        if not _number(self.profile.tool_min) <= number < _number(self.profile.tool_below):
            raise PrerequisiteError(f"{command[0]} is version {version or 'unknown'}; {wanted} is needed", hint=INSTALL)
        return command, version

    def _why_torn(self, play: Play, folder: Path) -> str:
        """What ssh itself says: Ansible tells only that the pipe to it broke when it ended before all was written."""
        env, host = self._environment(play, folder), play.host
        options = shlex.split(env["ANSIBLE_SSH_ARGS"])
        words = ["ssh", "-o", "ControlPath=none", *options, "-p", str(host.port), "-l", host.user, host.address, "true"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            limit_s = self.profile.connect_timeout_s + END_LIMIT_S
            done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit_s, check=False)
            return done.stderr.decode(errors="replace").strip() if done.returncode == SSH_FAILED else ""
        return ""

    def _prepared(self, command: list[str], play: Play, folder: Path) -> tuple[list[str], dict[str, str]]:
        host, settings = play.host, self.profile
        for name in ("callback", "module_utils", "tmp"):
            (folder / name).mkdir()
        shutil.copy(EVENTS, folder / "callback" / "hyops_events.py")
        for name, data in play.module_utils.items():
            (folder / "module_utils" / name).write_bytes(data)
        (folder / "ansible.cfg").write_text("[defaults]\n")
        os.mkfifo(folder / VARIABLES, 0o600)
        facts: dict[str, Any] = {"ansible_python_interpreter": "/usr/bin/python3"}
        if host.local:
            facts["ansible_connection"] = "local"
        else:
            facts |= {"ansible_host": host.address, "ansible_port": host.port, "ansible_user": host.user}
            (folder / "known_hosts").symlink_to(host.known_hosts.absolute())
            (folder / "key").symlink_to(host.key_file.absolute())
        if settings.become and host.user != "root" and not host.local:
            facts |= {"ansible_become": True, "ansible_become_method": "sudo", "ansible_become_flags": "-n -H -S"}
        (folder / "inventory.yml").write_text(json.dumps({"all": {"hosts": {host.name: facts}}}))
        words = [*command, "-i", str(folder / "inventory.yml"), "-e", f"@{folder / VARIABLES}"]
        words += ["--check"] if play.check else []
        return [*words, str(play.pack / play.playbook)], self._environment(play, folder)

    def _environment(self, play: Play, folder: Path) -> dict[str, str]:
        named = f"HostKeyAlias={play.host.name}"
        options = [
            "BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={folder}/known_hosts",
            "GlobalKnownHostsFile=/dev/null", "UpdateHostKeys=no", "CheckHostIP=no", named,
            f"IdentityFile={folder}/key", "IdentitiesOnly=yes", "IdentityAgent=none",
            "PreferredAuthentications=publickey", "ForwardAgent=no", "ClearAllForwardings=yes",
            "ServerAliveInterval=5", "ServerAliveCountMax=3",
            "ControlMaster=auto", "ControlPersist=60s", f"ControlPath={folder}/c",
        ]  # fmt: skip
        ssh = ["-F", "/dev/null", *(word for option in options for word in ("-o", option))]
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder / "tmp"),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "tmp"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
            "ANSIBLE_REMOTE_TEMP": "/tmp",  # noqa: S108  # it makes a folder of mode 0700 in it
            "ANSIBLE_CALLBACK_PLUGINS": str(folder / "callback"),
            "ANSIBLE_MODULE_UTILS": str(folder / "module_utils"),
            "ANSIBLE_LIBRARY": str(play.pack / "library"),
            "ANSIBLE_STDOUT_CALLBACK": "hyops_events",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_HOST_KEY_CHECKING": "1",
            "ANSIBLE_SSH_ARGS": shlex.join(ssh),
            "ANSIBLE_SSH_RETRIES": "0",
            "ANSIBLE_TIMEOUT": str(self.profile.connect_timeout_s),
            "ANSIBLE_GATHERING": "explicit",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_NO_TARGET_SYSLOG": "1",
            "ANSIBLE_NOCOLOR": "1",
        }


@dataclass
class _Running:
    """One process, and what it tells."""

    process: asyncio.subprocess.Process
    events: asyncio.StreamReader

    async def told(self, redact: Callable[[str], str], tell: Callable[[str], None]) -> Told:
        """Read to its end."""
        assert self.process.stderr is not None
        told = Told(redact, tell)
        said = asyncio.create_task(_tail(self.process.stderr))
        try:
            async for line in self.events:
                told.take(line)
            told.status = await self.process.wait()
            told.complaint = redact((await said).decode(errors="replace").strip())
        finally:
            said.cancel()
        return told


@contextlib.asynccontextmanager
async def _started(
    words: Sequence[str], env: dict[str, str], held: Sequence[int], token: str
) -> AsyncIterator[_Running]:
    """The process; whatever of it is left at the end, or when we are cancelled, is ended."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader(limit=LINE_MAX)
    pipe = os.fdopen(reading, "rb", 0)
    process: asyncio.subprocess.Process | None = None
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE, pass_fds=(writing, *held), start_new_session=True, cwd="/",
                env={**env, "HYOPS_EVENTS_FD": str(writing)}, preexec_fn=_die_with_us,
            )  # fmt: skip
        except OSError as exc:
            raise PrerequisiteError(f"{words[0]}: {exc.strerror}", hint=INSTALL) from exc
        finally:
            os.close(writing)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            yield _Running(process, reader)
        finally:
            transport.close()
    finally:
        if process is not None:
            await asyncio.shield(_ended(process, token))
        pipe.close()


@contextlib.asynccontextmanager
async def _handed(pipe: Path, data: bytes) -> AsyncIterator[None]:
    """Whoever opens the pipe gets the data; nobody has to."""

    loop, opened = asyncio.get_running_loop(), asyncio.Event()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb", 0) as end:
            loop.call_soon_threadsafe(opened.set)
            end.write(data)

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        yield
    finally:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:  # a writer who waits still, or whose thread has yet to begin, gets a reader; then it is let go
            await asyncio.shield(opened.wait())
        finally:
            os.close(reader)
        await asyncio.shield(writing)


def _die_with_us() -> None:
    """In the child: when we die, however we do, it does; what it had sent to the host ends there by itself."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


async def _ended(process: asyncio.subprocess.Process, token: str) -> None:
    """Nothing of it lives on: asked first, then killed, with what left its process group."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_LIMIT_S):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for pid in _marked(token):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


def _marked(token: str) -> Iterator[int]:
    """Processes of ours that this play started, wherever they went."""
    mark = f"{MARK}={token}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of what a process complains of; however much it is, it never stops for us."""
    kept = b""
    while data := await stream.read(64 * 1024):
        kept = (kept + data)[-SAID_MAX:]
    return kept


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of our own in memory, gone afterwards; nothing secret lies in it."""
    above = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="hyops-", dir=above))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hang_up(folder: Path) -> None:
    """End the connection that its tasks shared."""
    if (folder / "c").exists():
        words = ["ssh", "-F", "/dev/null", "-S", str(folder / "c"), "-O", "exit", "host"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(words, capture_output=True, timeout=END_LIMIT_S, check=False)


def _any() -> tuple[list[str], str]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return [sys.executable, "-m", "ansible", "playbook"], importlib.metadata.version("ansible-core")
    found = shutil.which("ansible-playbook")
    return ([found], _asked([found])) if found is not None else ([], "")


def _asked(command: Sequence[str]) -> str:
    """What a command says of its version; empty when it says none."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([*command, "--version"], capture_output=True, timeout=60, check=False)
        if found := re.search(rb"core ([0-9]+(?:\.[0-9]+)*)", done.stdout):
            return found[1].decode()
    return ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
