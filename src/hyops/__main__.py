"""The `hyops` command: `--version`, `--help` and the programs' own verbs are answered without loading a parser.

Start-up is part of the promise (an operator in an outage, a runner that is dialled a thousand times): nothing is
imported here that the words on the command line do not need.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.runner.config import RunnerConfig
    from hyops.runner.orders import Judge

HOLD_SECRETS = {"runner-serve", "runner-pull", "runner-job", "runner", "secrets", "apply"}


def main() -> int:
    """Run the command line; returns the exit code (SPEC UX-1)."""
    words = sys.argv[1:]
    if words in (["--version"], ["-V"]):
        from hyops._version import __version__

        print(f"hyops {__version__}")  # noqa: T201  # the answer itself
        return 0
    if words in (["--help"], ["-h"]):
        from hyops.cli.table import help_text

        print(help_text())  # noqa: T201  # the answer itself
        return 0
    if HOLD_SECRETS & set(words[:1]):
        from hyops.cores import forbid_cores

        forbid_cores()
    if words[:1] == ["runner-serve"]:  # the peer of a dispatch: standard library only
        from hyops.runner.serve import main as serve

        return serve(words[1:], _order_judge)
    if words[:1] == ["runner-pull"]:  # the agent of a runner that nobody can dial: standard library only
        from hyops.runner.pull import main as pull

        return pull(words[1:])
    if words[:1] == ["runner-job"]:  # one run: it loads what its plan names
        from hyops.services.loading import loading

        with loading():
            from hyops.compose_runner import runner_job
            from hyops.services.runner_job import main as job

        return job(words[1:], runner_job)
    if words[:1] == ["agent-call"]:  # the forced command beside a database: one socket, standard library only
        from hyops.fence.call import main as call

        return call(words[1:])
    from hyops.services.loading import loading

    with loading():
        from hyops.cli.main import main as cli

    return cli(words)


def _order_judge(config: RunnerConfig) -> Judge:
    """Whose standby orders this runner keeps: loaded when one comes."""
    from hyops.compose_takeover import order_judge

    return order_judge(config)


if __name__ == "__main__":
    sys.exit(main())
