"""The job process of tests: the real one, with seed keys, the system's clock and scripted drivers.

`options` of the runner's configuration: `effects` (a file of effects made), `crash_at` (kill -9 at that boundary, once
per file `crashed`), `broken` (a step that fails while the file of that name lies beside `effects`; with `refuses` its
preflight does too), `moved` (a step whose preflight refuses while the file of that name is there), `hold` (a step that
waits until the file of that name beside `effects` exists), `child` (leave a child process behind in `hold`, or with
`own-session` an orphan in a session of its own), `slow` (the access mode's probes wait until somebody opens the pipe
`probing` beside `effects`, once per pipe), `glass` (the approver may break the glass), `people` (more approvers).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from hyops.access.circumstances import Circumstances
from hyops.compose_access import access_ends, run_access
from hyops.errors import TargetError
from hyops.model.access import ResolvedAccess
from hyops.model.run import RunSpec
from hyops.ports.driver import Driver, StepContext, StepResult
from hyops.runner.config import RunnerConfig
from hyops.services.runner_job import JobParts, main
from hyops.testing.drivers import Scripted, drivers
from hyops.testing.evidence import APPROVER, STAGES, VERIFIER, SeedApprovals


class Clock:
    """The system's."""

    def now(self) -> datetime:
        """Wall time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Elapsed time."""
        return time.monotonic()

    def surely(self) -> datetime:
        """The same."""
        return self.now()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def parts(config: RunnerConfig) -> JobParts:
    """Seed keys and scripted drivers."""
    options = config.options
    effects = Path(options.get("effects", "/dev/null"))
    scripted = Scripted(file=effects, outputs=options.get("outputs", {}))

    async def hold(context: StepContext) -> StepResult:
        if child := options.get("child"):
            subprocess.Popen([*(["setsid", "--fork"] if child == "own-session" else []), "sleep", "1000"]).poll()
        os.mkfifo(effects.with_name("held"))
        gate = await asyncio.to_thread(open, effects.with_name("held"), "rb")
        gate.close()
        return scripted.effect(context)

    def broken(context: StepContext) -> StepResult:
        if effects.with_name("broken").exists():
            raise TargetError("it does not answer")
        return scripted.effect(context)

    for name in ("broken", "moved"):
        if name in options and effects.with_name(name).exists() and (name == "moved" or options.get("refuses")):
            scripted.faults = {options[name]: [f"it is {name}"]}
    if "broken" in options:
        scripted.acts = {options["broken"]: broken}
    elif "hold" in options:
        scripted.acts = {options["hold"]: hold}
    seen = [0]

    def boundary(name: str) -> None:
        seen[0] += 1
        crashed = effects.with_name("crashed")
        if seen[0] == options.get("crash_at") and not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def made(spec: RunSpec) -> dict[str, Driver]:
        return drivers(scripted)

    async def access(run: Circumstances) -> ResolvedAccess:
        if options.get("slow") and not effects.with_name("probing").exists():
            os.mkfifo(effects.with_name("probing"))
            gate = await asyncio.to_thread(open, effects.with_name("probing"), "rb")
            gate.close()
        return await run_access(config)(run)

    signer, ends = STAGES[f"runner:{config.runner_ref}"], access_ends(config)
    approvals = (
        SeedApprovals(APPROVER, roles=frozenset({"approver", "break-glass"}))
        if "glass" in options
        else SeedApprovals(APPROVER, *options.get("people", []))
    )
    return JobParts(Clock(), signer, VERIFIER, approvals, made, access, boundary, ends=ends)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], parts))
