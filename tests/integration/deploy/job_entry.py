"""The job process of the canary tests: the real one, with a driver that lets its secret out wherever it can.

`options` of the runner's configuration: `end` (`ok`, `fail` or `die`), `crash_at` (kill -9 at that boundary, once per
file `crashed` in `folder`), `hold` (the effect waits until somebody opens the pipe `held` in `folder`), `forms` (it
logs its secret in every form of `secret_forms`, before and after it waited).
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.parse
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
        self._log_forms(context, secret, "before")
        if self._options.get("hold"):
            os.mkfifo(self._folder / "held")
            (self._folder / "held").open("rb").close()
        self._log_forms(context, secret, "after")
        if self._options.get("end") == "fail":
            raise TargetError(f"it did not take {secret}", password=secret)
        if self._options.get("end") == "die":
            raise ValueError(f"broken by {secret}")
        return StepResult({"said": secret, secret: "as a key", "deep": [{"in": f"x{secret}y"}]}, note=f"took {secret}")

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """It took no effect."""
        self._talk(context)
        return Reconciled.NOT_DONE, None

    def _log_forms(self, context: StepContext, secret: str, when: str) -> None:
        for name, form in secret_forms(secret).items() if self._options.get("forms") else ():
            context.log(f"{when} as {name}: {form} that was it")
            print(f"{when} as {name}: {form} that was it", flush=True)

    def _talk(self, context: StepContext) -> str:
        secret = context.secrets["DB_PASSWORD"]
        coded = base64.b64encode(secret.encode()).decode()
        context.log(f"the password is {secret}, or {coded}")
        print(f"out: {secret} {coded}", flush=True)
        print(f"err: {secret}", file=sys.stderr, flush=True)
        subprocess.run(["cat"], input=f"child: {secret}\n", text=True, check=True)
        subprocess.run(["sh", "-c", "cat >&2"], input=f"child: {secret}\n", text=True, check=True)
        return secret


def secret_forms(secret: str) -> dict[str, str]:
    """How others write a value, each by a tool of its own and none by the redaction under test."""
    coded = [base64.b64encode(b"x" * before + secret.encode()).decode() for before in range(3)]
    quoting = ["bash", "-c", 'printf %q "$(cat)"']
    printf = subprocess.run(quoting, input=secret, text=True, check=True, capture_output=True)
    return {
        "raw": secret,
        "base64": coded[0],
        "base64 after one byte": coded[1],
        "base64 after two bytes": coded[2],
        "base64url": base64.urlsafe_b64encode(secret.encode()).decode(),
        "hex": secret.encode().hex(),
        "URL": urllib.parse.quote(secret, safe=""),
        "URL path": urllib.parse.quote(secret),
        "form": urllib.parse.quote_plus(secret),
        "URL in a URL": urllib.parse.quote(urllib.parse.quote(secret, safe=""), safe=""),
        "JSON": json.dumps(secret),
        "JSON in JSON": json.dumps(json.dumps(secret)),
        "shell": shlex.quote(secret),
        "printf": printf.stdout,
    }


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
