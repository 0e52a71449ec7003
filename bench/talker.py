"""A job whose one step says the time, again and again, to its log and to a plain file: for what following adds."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from hyops import compose_runner
from hyops.model.base import Part
from hyops.model.run import RunSpec
from hyops.ports.driver import Driver, Reconciled, StepContext, StepResult
from hyops.runner.config import RunnerConfig
from hyops.services.runner_job import JobParts, main
from hyops.testing.drivers import NoInputs

PAUSE_S = 0.05
ENOUGH, PLAIN = "enough", "plain.log"
"""A file that ends the talking, and the plain file, in the folder that the runner's options name."""


class Talker:
    """`native/noop` of this runner."""

    inputs: type[Part] = NoInputs

    def __init__(self, options: dict[str, Any]) -> None:
        self._folder = Path(options["folder"])

    async def preflight(self, context: StepContext) -> list[str]:
        """Nothing is asked."""
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """A line every few moments, until it is enough."""
        with (self._folder / PLAIN).open("w", buffering=1) as plain:
            while not (self._folder / ENOUGH).exists():
                context.log(f"tick {time.monotonic_ns()}")
                plain.write(f"tick {time.monotonic_ns()}\n")
                await asyncio.sleep(PAUSE_S)
        return StepResult({}, note="enough")

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """It took no effect."""
        return Reconciled.NOT_DONE, None


def parts(config: RunnerConfig) -> JobParts:
    """The runner's own, but for the driver."""

    def drivers(spec: RunSpec) -> dict[str, Driver]:
        return {"native/noop": Talker(config.options)}

    return dataclasses.replace(compose_runner.runner_job(config), drivers=drivers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], parts))
