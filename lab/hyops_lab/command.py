"""Run a command of the host: output captured, a limit on its time, an error that carries what it said."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from hyops_lab.errors import CommandError, WaitError
from hyops_lab.waiting import PATIENCE_S

# sbin first: an unprivileged login shell's PATH, kept by sudo or su, may lack nft, ip and mount helpers
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every command: the caller's, with a full PATH and a fixed language."""
    return {**os.environ, "PATH": f"{PATH}:{os.environ.get('PATH', '')}", "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002  same name as subprocess.run
    timeout_s: float = PATIENCE_S,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    where: str = "",
    shown: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` in a session of its own, so that a timeout ends its children too.

    Args:
        argv: the command.
        input: text for its standard input, which is empty otherwise.
        timeout_s: limit on its time.
        check: whether another status than 0 is a CommandError.
        env: its whole environment; by default the caller's with `PATH` completed.
        where: the host that errors name.
        shown: the command that errors name, if it is wrapped in `argv`.
    """
    shown = argv if shown is None else shown
    with subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment() if env is None else dict(env),
    ) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            place = f" on {where}" if where else ""
            raise WaitError(f"not done after {timeout_s:g} s{place}: {' '.join(shown)}") from error
    if check and process.returncode != 0:
        raise CommandError(shown, process.returncode, stdout + stderr, where)
    return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)
