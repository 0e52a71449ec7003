"""A command of this host, its output as it comes, ended at a time limit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from hyops.errors import DeadlineError, PrerequisiteError, TargetError

LIMIT_S = 3600.0
READ_MAX = 64 * 1024


async def run(command: Sequence[str], write: Callable[[bytes], None], *, limit_s: float = LIMIT_S) -> None:
    """Return when it ended with 0; its output goes to `write`, cut wherever a read ended: in a line, or in a secret.

    Raises:
        PrerequisiteError: it could not be started. TargetError: it ended otherwise. DeadlineError: it took too long.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=READ_MAX,
            start_new_session=True,
        )
    except OSError as exc:
        raise PrerequisiteError(f"{command[0]}: {exc.strerror}") from exc
    assert process.stdout is not None
    try:
        async with asyncio.timeout(limit_s):
            while data := await process.stdout.read(READ_MAX):
                write(data)
            status = await process.wait()
    except TimeoutError as exc:
        raise DeadlineError(f"{command[0]} took longer than {limit_s:g} s") from exc
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0:
        raise TargetError(f"{' '.join(command)} ended with {status}")
