"""The job of the canary tests on a real runner: the runner's own, with a driver that lets its secret out where it can.

`options.json` beside `FOLDER`/`at` says what it does: `end` (`ok`, `fail`, `die`), `stops` (stop at these boundaries,
once each, until somebody kills it), `plant` (a file that the step writes its secret to, past everything that guards).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from job_entry import Leaky
from places import EFFECT

from hyops import compose_runner
from hyops.model.base import Part
from hyops.model.run import RunSpec
from hyops.ports.driver import Driver, StepContext, StepResult
from hyops.runner.config import RunnerConfig
from hyops.services.runner_job import JobParts, main

FOLDER = Path("/run/hyops/canary")


class Inputs(Part):
    """A file that goes along, so that there is something to stage."""

    note: str


class Canary(Leaky):
    """Talks, plants, and stops in the middle of its effect if it is told to."""

    inputs = Inputs

    async def apply(self, context: StepContext) -> StepResult:
        """As it was told."""
        if plant := self._options.get("plant"):
            Path(plant).write_text(context.secrets["DB_PASSWORD"])
        boundary(self._options, EFFECT)
        return await super().apply(context)


def boundary(options: dict[str, Any], name: str) -> None:
    """Note that it was reached, and stop there if that was asked for, the first time."""
    with (FOLDER / "boundaries").open("a") as names:
        names.write(f"{name}\n")
    stopped = FOLDER / f"stopped-{name.replace(':', '-')}"
    if name in options.get("stops", []) and not stopped.exists():
        stopped.touch()
        partial = FOLDER / ".at"
        partial.write_text(json.dumps({"at": name, "pid": os.getpid()}))
        partial.rename(FOLDER / "at")
        sys.stdout.flush()
        os.read(os.open(FOLDER / "gate", os.O_RDONLY), 1)


def parts(config: RunnerConfig) -> JobParts:
    """The runner's own, but for the driver and where it stops."""
    options = json.loads((FOLDER / "options.json").read_bytes())

    def drivers(spec: RunSpec) -> dict[str, Driver]:
        return {"native/noop": Canary({"folder": str(FOLDER), **options})}

    made = compose_runner.runner_job(config)
    return dataclasses.replace(made, drivers=drivers, at_boundary=lambda name: boundary(options, name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], parts))
