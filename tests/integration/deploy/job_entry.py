"""The job process of the canary tests: the real one, with a driver that lets its secret out wherever it can.

`options` of the runner's configuration: `end` (`ok`, `fail` or `die`), `crash_at` (kill -9 at that boundary, once per
file `crashed` in `folder`), `hold` (the effect waits until somebody opens the pipe `held` in `folder`).
"""

from __future__ import annotations

import base64
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hyops import compose_runner
from hyops.errors import TargetError
from hyops.model.run import RunSpec
from hyops.ports.driver import Driver, Reconciled, StepContext, StepResult
from hyops.runner.config import RunnerConfig
from hyops.services.runner_job import JobParts, main
from hyops.testing.drivers import NoInputs


class Leaky:
    """Does nothing but talk."""

    inputs = NoInputs

    def __init__(self, options: dict[str, Any]) -> None:
        self._options, self._folder = options, Path(options["folder"])

    async def preflight(self, context: StepContext) -> list[str]:
        """Talks already."""
        self._talk(context)
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Talks, and ends as it was told."""
        secret = self._talk(context)
        if self._options.get("hold"):
            os.mkfifo(self._folder / "held")
            (self._folder / "held").open("rb").close()
        if self._options.get("end") == "fail":
            raise TargetError(f"it did not take {secret}", password=secret)
        if self._options.get("end") == "die":
            raise ValueError(f"broken by {secret}")
        return StepResult({"said": secret, secret: "as a key", "deep": [{"in": f"x{secret}y"}]}, note=f"took {secret}")

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """It took no effect."""
        self._talk(context)
        return Reconciled.NOT_DONE, None

    def _talk(self, context: StepContext) -> str:
        secret = context.secrets["DB_PASSWORD"]
        coded = base64.b64encode(secret.encode()).decode()
        context.log(f"the password is {secret}, or {coded}")
        print(f"out: {secret} {coded}", flush=True)
        print(f"err: {secret}", file=sys.stderr, flush=True)
        subprocess.run(["cat"], input=f"child: {secret}\n", text=True, check=True)
        subprocess.run(["sh", "-c", "cat >&2"], input=f"child: {secret}\n", text=True, check=True)
        return secret


def parts(config: RunnerConfig) -> JobParts:
    """The runner's own, but for the driver and the crash."""
    options, made, seen = config.options, compose_runner.runner_job(config), [0]
    crashed = Path(options["folder"]) / "crashed"

    def boundary(name: str) -> None:
        seen[0] += 1
        if seen[0] == options.get("crash_at") and not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def drivers(spec: RunSpec) -> dict[str, Driver]:
        return {"native/noop": Leaky(options)}

    return dataclasses.replace(made, drivers=drivers, at_boundary=boundary)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], parts))
