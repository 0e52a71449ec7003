"""What runs opened at an edge and nobody has proved closed yet; a job of this runner does the closing (ACC-1).

Standard library only.
"""

from __future__ import annotations

import subprocess

from hyops.errors import NotVerifiedError
from hyops.runner.config import RunnerConfig

SWEEP = "--sweep"
FOLDER = "access"
LIMIT_S = 120.0
SAID_MAX = 600


def sweep(config: RunnerConfig) -> None:
    """Close what is left, if anything is.

    Raises:
        NotVerifiedError: some of it is not proved gone.
    """
    if not any((config.root / FOLDER).glob("[!.]*.json")):
        return
    command = [*config.job_command, "--config", str(config.source), SWEEP]
    hint = "`hyops access list` on the edge shows what stands; `hyops access remove --all` there closes it"
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotVerifiedError(f"what runs opened at the edge was not looked at: {exc}", hint=hint) from exc
    if done.returncode != 0:
        raise NotVerifiedError(done.stderr.decode(errors="replace").strip()[-SAID_MAX:] or "it said nothing", hint=hint)
