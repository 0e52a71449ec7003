"""A connection of the `ssh` program to a bastion, which those to the runners behind it go through (ACC-2, RUN-3).

One process makes it, with the bastion's own pin and a key that only forwards, and asks for no session. Each runner's
`ssh` has a `ProxyCommand` that speaks to that process over its socket, cannot connect by itself, and carries bytes to
one address; the runner's own key is checked at their end. Without a session nothing is read from standard input, so a
shell holds it: when this process dies, however it dies, that shell's input ends, and it ends the connection.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from signal import SIGKILL

from hyops.adapters.runner_link import Pipe

HELD = '"$@" </dev/null & p=$!; exec >&-; read -r _; kill "$p" 2>/dev/null; wait "$p"'
DROP_LIMIT_S = 5.0
SAID = "way"  # what the carrying process says, in the folder of the link that it carries
FORBIDS_SAYS = ("forwarding request failed", "orwarding request denied", "open failed")


class OpensshWay:
    """`Way`. `folder` is its own, and goes with it."""

    def __init__(self, program: str, folder: Path, env: Mapping[str, str]) -> None:
        self._program, self._folder, self._env = program, folder, env
        self._process: Process | None = None

    async def connect(self, words: Sequence[str], up: bytes, limit_s: float, why: Callable[[], Exception]) -> None:
        """Log in; `ssh` says `up` when its socket is there.

        Raises:
            TimeoutError: not within `limit_s`. Otherwise what `why` makes of what `ssh` said.
        """
        said = ("-E", str(self._folder / "said"), "-S", str(self._folder / "s"))
        self._process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", HELD, "sh", self._program, "-F", "none", "-N", "-T", *said, *words, "--", "bastion"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=dict(self._env),
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle, not ssh's
        )
        assert self._process.stdout is not None
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._end)
            async with asyncio.timeout(limit_s):
                line = await self._process.stdout.readline()
            if line != up:
                raise why()
            undo.pop_all()

    def command(self, host: str, port: int, folder: Path) -> str:
        """The `ProxyCommand` to one address behind the bastion, which `ssh` executes; its words go into `folder`."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        words = ["-oBatchMode=yes", "-oLogLevel=ERROR", "-oControlMaster=no", "-oProxyCommand=false", "-W", place]
        said = ["-E", str(folder / SAID), "-S", str(self._folder / "s")]
        return shlex.join([self._program, "-F", "none", "-T", *said, *words, "--", "bastion"])

    @property
    def gone(self) -> bool:
        """See the port. The socket goes before the process does."""
        process = self._process
        ended = process is None or process.stdout is None or process.stdout.at_eof()
        return ended or not (self._folder / "s").exists()

    async def open(self) -> Pipe:
        """A bastion is asked for no command."""
        raise ConnectionError("a bastion carries connections, and runs nothing")

    async def drop(self) -> None:
        """See the port."""
        try:
            await self._end()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(DROP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, SIGKILL)
            await process.wait()


def forbidden(folder: Path, size_max: int) -> str | None:
    """What the bastion said when it does not forward to the place of the link in `folder`; None when it does."""
    try:
        with (folder / SAID).open("rb") as file:
            lines = file.read(size_max).decode(errors="replace").splitlines()
    except OSError:
        return None
    told = [line.strip() for line in lines if any(word in line for word in FORBIDS_SAYS)]
    return told[0] if told else None
