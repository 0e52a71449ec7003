"""Runners over the `ssh` program of the host, one connection each (RUN-3, RUN-5, RUN-11; ADR on the SSH transport).

For sites that must use their own OpenSSH (a FIPS build, a security team that patches nothing else). One process makes
the connection and carries the first pipe; each further pipe is a process that speaks to it over a socket and cannot
connect by itself. When this process dies, however it dies, their inputs end, so none of them outlives it.

No file of the user or the host is read, every option that matters is written out, and no word that a person wrote
reaches a command line unchecked: files go in as links in a private folder, names by a strict pattern. Remote standard
error is dropped; `ssh` writes its own words to a file, so that a peer cannot forge them.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

from hyops.adapters.runner_link import (
    CONNECT_LIMIT_S,
    END_LIMIT_S,
    KEEPALIVE_COUNT,
    KEEPALIVE_S,
    EndedError,
    HostKeyRefusedError,
    LoginRefusedError,
    RunnerTarget,
    ShedError,
    SshTransport,
    Way,
)
from hyops.adapters.ssh_openssh_way import OpensshWay, forbidden
from hyops.adapters.store_files import write_new
from hyops.errors import ConfigError, PrerequisiteError
from hyops.model import ssh_algorithms, wire
from hyops.ports.look import Awaited
from hyops.ports.signer import Verifier

UP = b"hyops-link-up\n"
SAID_MAX = 8 * 1024
SSH_FAILED = 255
SOCKET_PATH_MAX = 107 - 17  # sun_path, less what ssh appends while it makes the socket
LOGIN_LIMIT_S = CONNECT_LIMIT_S + 5.0  # ConnectTimeout ends at the banner; a peer may stall after it
HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
PLACE = re.compile(r"/[A-Za-z0-9_./-]+")
HOST_KEY_SAYS = ("Host key verification failed", "no matching host key type found")
LOGIN_SAYS = ("Permission denied", "Too many authentication failures")
SHED_SAYS = ("kex_exchange_identification", "Connection reset by", "Connection closed by")
TIMED_OUT, NO_TCP = "timed out", "connect to host"
LOOK_PART = 0.75  # of a look's time: for TCP and the key exchange
OPTIONS = {
    "BatchMode": "yes",
    "CanonicalizeHostname": "no",
    "CASignatureAlgorithms": ",".join(ssh_algorithms.CA_SIGNATURES),
    "CheckHostIP": "no",
    "Ciphers": ",".join(ssh_algorithms.CIPHERS),
    "ClearAllForwardings": "yes",
    "Compression": "no",
    "ConnectTimeout": f"{CONNECT_LIMIT_S:.0f}",
    "ConnectionAttempts": "1",
    "ControlPersist": "no",
    "EscapeChar": "none",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "GlobalKnownHostsFile": "/dev/null",
    "HostKeyAlgorithms": ",".join(ssh_algorithms.HOST_KEYS),
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "KexAlgorithms": ",".join(ssh_algorithms.KEX),
    "LogLevel": "ERROR",
    "MACs": ",".join(ssh_algorithms.MACS),
    "PasswordAuthentication": "no",
    "PreferredAuthentications": "publickey",
    "RequestTTY": "no",
    "ServerAliveCountMax": str(KEEPALIVE_COUNT),
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "VerifyHostKeyDNS": "no",
}


class OpensshRunnerTransport(SshTransport):
    """`RunnerTransport` over the `ssh` program."""

    def __init__(
        self, targets: Mapping[str, RunnerTarget], verifier: Verifier, *, keepalive_s: float = KEEPALIVE_S
    ) -> None:
        super().__init__(targets, verifier, dial, keepalive_s=keepalive_s)


async def dial(target: RunnerTarget, keepalive_s: float, over: Way | None = None) -> OpensshLink | OpensshWay:
    """Start the process that connects and logs in: straight, or over the bastion's connection and no other way.

    Raises:
        PrerequisiteError: no `ssh` here. ConfigError: a name in the configuration that no host, user or key has.
    """
    if (target.bastion is None) != (over is None) or not isinstance(over, OpensshWay | None):
        raise ValueError(f"{target.host}: it is reached on the way that is written down, or not at all")
    program = shutil.which("ssh")
    if program is None:
        raise PrerequisiteError("there is no `ssh` program here", hint="install the OpenSSH client, or use asyncssh")
    folder = Path(tempfile.mkdtemp(prefix="hyops-ssh-"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        words = _words(target, folder, keepalive_s)
        link: OpensshLink | OpensshWay
        with _awaited(target):
            if target.only_forwards:
                link = OpensshWay(program, folder, _environment())
                await link.connect(words, UP, LOGIN_LIMIT_S, lambda: _refusal(folder))
            else:
                link = OpensshLink(program, folder)
                await link.connect(words + _through(over, target, folder, program))
        undo.pop_all()  # the link's to remove
    return link


@contextmanager
def _awaited(target: RunnerTarget) -> Iterator[None]:
    """Tell who looks how far the connection got; `ssh` itself says what was silent."""
    target.awaits(Awaited.HANDSHAKE)
    try:
        yield
    except OSError as exc:
        if target.look is None or TIMED_OUT not in str(exc):
            raise
        if NO_TCP in str(exc):
            target.awaits(Awaited.TCP)
        raise TimeoutError(str(exc)) from exc


def _through(over: OpensshWay | None, target: RunnerTarget, folder: Path, program: str) -> list[str]:
    """The option that makes the connection one in the bastion's; a shell reads it, and `ssh` fills tokens in."""
    if over is None:
        return []
    if PLACE.fullmatch(program) is None:
        raise PrerequisiteError(f"{program}: no plain path of the `ssh` program", hint="mend PATH")
    return [f"-oProxyCommand={over.command(target.host, target.port, folder)}"]


def _environment() -> dict[str, str]:
    """What an `ssh` sees of ours: where it is at home, never an agent."""
    known = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME") if name in os.environ}
    return {**known, "SHELL": "/bin/sh", "LC_ALL": "C"}


def _words(target: RunnerTarget, folder: Path, keepalive_s: float) -> list[str]:
    """The options of the connecting process; what a person wrote is checked or stands behind a link."""
    alias = target.host_key_alias
    for what, value, pattern in (("address", target.host, HOST), ("user", target.user, USER)):
        if pattern.fullmatch(value) is None:
            raise ConfigError(f"runners: {what}: {value!r} is no {what}", hint="mend the runner's entry")
    if alias is not None and HOST.fullmatch(alias) is None:
        raise ConfigError(f"runners: {alias!r} cannot be the name of a host key", hint="rename the runner")
    if PLACE.fullmatch(str(folder)) is None or len(str(folder / "s")) > SOCKET_PATH_MAX:
        raise PrerequisiteError(f"{folder}: no place for a socket of ssh", hint="set TMPDIR to a short, plain path")
    login, offered = target.shown, ssh_algorithms.USER_KEYS
    given = {"known_hosts": target.known_hosts} | ({"revoked": target.revoked} if target.revoked else {})
    if isinstance(login.key, bytes):
        write_new(folder / "key", login.key, 0o600)
    else:
        given["key"] = login.key
    if login.certificate is not None:
        write_new(folder / "key-cert.pub", login.certificate, 0o600)
        offered = ssh_algorithms.USER_CERTIFICATES
    for name, place in given.items():
        (folder / name).symlink_to(place.absolute())
    chosen = {
        "HostName": target.host,
        "User": target.user,
        "Port": str(target.port),
        "IdentityFile": str(folder / "key"),
        "UserKnownHostsFile": str(folder / "known_hosts"),
        "ServerAliveInterval": str(max(1, round(keepalive_s))),
        "ControlMaster": "yes",
        "PermitLocalCommand": "yes",
        "LocalCommand": f"printf %%s\\\\n {UP.decode().strip()}",
        "PubkeyAcceptedAlgorithms": ",".join(offered),
        "RevokedHostKeys": str(folder / "revoked") if target.revoked else "none",
    } | ({"HostKeyAlias": alias} if alias else {})
    if target.look is not None:  # so that `ssh` still says itself what was silent
        chosen["ConnectTimeout"] = str(max(1, int(target.look.limit_s * LOOK_PART)))
    return [f"-o{name}={value}" for name, value in (OPTIONS | chosen).items()]


class OpensshLink:
    """`Link`: one connecting process and one more for each further pipe."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._pipes: list[OpensshPipe] = []
        self._first: OpensshPipe | None = None

    async def connect(self, words: list[str]) -> None:
        """Log in; `ssh` says so itself, after its socket is there, as the first line of the first pipe."""
        first = await self._pipe(words, carries_link=True)
        try:
            up = await self._first_line(first)
        except TimeoutError:
            raise
        except (EOFError, OSError) as exc:
            raise _refusal(self._folder) from exc
        if up != UP:
            await self._end_processes()
            raise OSError(f"ssh said {up[:60]!r} instead of its word")
        self._first = first

    async def _first_line(self, first: OpensshPipe) -> bytes:
        """What `ssh` says; a login that fails, lasts too long or is given up ends its processes first."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._end_processes)
            async with asyncio.timeout(LOGIN_LIMIT_S):
                line = await first.read_line()
            undo.pop_all()
        return line

    async def open(self) -> OpensshPipe:
        """The first pipe, then one process each. `ProxyCommand` keeps them from connecting by themselves."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        words = ["-oBatchMode=yes", "-oControlMaster=no", "-oProxyCommand=false"]
        return await self._pipe(words, carries_link=False)

    async def drop(self) -> None:
        """See the port."""
        try:
            await self._end_processes()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _pipe(self, words: list[str], *, carries_link: bool) -> OpensshPipe:
        """One more `ssh`. Made by hand, because only its transport can be closed with output still unread."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=wire.HEADER_MAX + 1, loop=loop),
            self._program,
            *("-F", "none", "-T", "-E", str(self._folder / "said"), "-S", str(self._folder / "s"), *words),
            *("--", "runner", "hyops runner-serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle, not ssh's
        )
        process = asyncio.subprocess.Process(transport, protocol, loop)
        pipe = OpensshPipe(process, transport, carries_link=carries_link)
        self._pipes.append(pipe)
        return pipe

    async def _end_processes(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for pipe in self._pipes:
            await pipe.gone()


class OpensshPipe:
    """`Pipe`: the standard input and output of one `ssh`."""

    def __init__(
        self, process: asyncio.subprocess.Process, transport: asyncio.SubprocessTransport, *, carries_link: bool
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._transport, self._in, self._out = process, transport, process.stdin, process.stdout
        self.carries_link = carries_link

    async def write(self, data: bytes) -> None:
        """See the port."""
        try:
            self._in.write(data)
            await self._in.drain()
        except OSError as exc:
            raise await self._why(exc) from exc

    async def read_line(self) -> bytes:
        """See the port."""
        try:
            return await self._out.readuntil(b"\n")
        except asyncio.LimitOverrunError as exc:
            raise ConnectionError(f"a line of more than {wire.HEADER_MAX} bytes") from exc
        except (EOFError, OSError) as exc:
            raise await self._why(exc) from exc

    async def read_exactly(self, count: int) -> bytes:
        """See the port."""
        try:
            return await self._out.readexactly(count)
        except (EOFError, OSError) as exc:
            raise await self._why(exc) from exc

    def close(self) -> None:
        """End the process here; the command there sees its input end."""
        self._transport.close()  # kills it, when it still runs

    async def gone(self) -> None:
        """Wait until the process is no more."""
        await self._process.wait()

    async def _why(self, exc: Exception) -> Exception:
        """The command's status, when `ssh` ended with one; 255 is its own word for a lost link."""
        try:
            async with asyncio.timeout(END_LIMIT_S):
                status = await self._process.wait()
        except TimeoutError:
            return ConnectionError(type(exc).__name__)
        return ConnectionError(type(exc).__name__) if status == SSH_FAILED or status < 0 else EndedError(status)


def _refusal(folder: Path) -> Exception:
    """What `ssh` said, as the error that it is."""
    if (told := forbidden(folder, SAID_MAX)) is not None:
        return OSError(f"the bastion does not forward to it: {told}")
    try:
        with (folder / "said").open("rb") as file:
            said = file.read(SAID_MAX).decode(errors="replace").split("\n")
    except OSError:
        said = []
    lines = [line.strip() for line in said if line.strip() and not line.startswith("@")]
    text = "; ".join(lines[-3:]) or "ssh ended without a word"
    for words, kind in (
        (HOST_KEY_SAYS, HostKeyRefusedError),
        (LOGIN_SAYS, LoginRefusedError),
        (SHED_SAYS, ShedError),
    ):
        if any(word in line for word in words for line in lines):
            return kind(text)
    return OSError(text)
