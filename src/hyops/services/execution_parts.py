"""What the executor is handed: the records it reads and writes, what a plan needs on its runner, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hyops.errors import Effect, SecretsError
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.plan import Plan
from hyops.ports.bundle import BundleFile
from hyops.ports.records import RecordStore
from hyops.ports.transport import RunReturn


class ClosedHook(Protocol):
    """What happens to a closed attempt: evidence is assembled. Both must bear being called again after a crash."""

    def done(self, outcome: AttemptOutcome) -> bool:
        """Whether `closed` has ended well for this outcome."""

    async def closed(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        """Assemble; `returned` is None when nothing ever ran."""


@dataclass(frozen=True)
class ExecutionStores:
    """Read: all but the last three."""

    decisions: RecordStore
    requests: RecordStore
    plans: RecordStore
    approvals: RecordStore
    executions: RecordStore
    attempts: RecordStore
    outcomes: RecordStore
    refusals: RecordStore


def no_secrets(plan: Plan) -> Mapping[str, str]:
    """What an executor hands over that was given no secrets.

    Raises:
        SecretsError: the plan names some. The run is left to whoever has them: `hyops runner blueprint deploy`.
    """
    if plan.sync_env:
        raise SecretsError(
            f"the plan names {', '.join(sorted(plan.sync_env))}, and this executor was given no secrets",
            hint="`hyops runner blueprint deploy` hands them over",
            effect=Effect.NONE,
        )
    return {}


@dataclass
class Bundles:
    """Files and secrets that a plan needs on the runner; the native lane needs none."""

    files: Callable[[Plan], Mapping[str, BundleFile]] = field(default=lambda _plan: {})
    secrets: Callable[[Plan], Mapping[str, str]] = field(default=no_secrets)
    keep: bool = False
    """Whether the runner keeps what was staged after a success too; secrets go all the same."""
