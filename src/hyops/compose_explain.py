"""What `hyops explain` looks at: every stage's records, and who runs, from the executor's own file (see `compose`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose import record_store
from hyops.compose_store import starts_of

if TYPE_CHECKING:
    from hyops.services.config import Homes
    from hyops.services.explain import Explained

STAGES = ("dispatch", "approval", "execution")


def explained(config_file: Path, wanted: str | None) -> list[Explained]:
    """Where the decision stands that `wanted` belongs to; without it the newest of each service."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.compose_clock import surely
    from hyops.compose_hold import last_look
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.explain import Circumstances, Explainer, ExplainStores

    config = ExecutionConfig.read(config_file.read_bytes(), source=str(config_file))
    homes, starts = config.homes, starts_of(config.homes.execution)
    verifier = TrustedVerifier.load(Path(config.trusted_keys))
    explainer = Explainer(
        ExplainStores(
            decisions=record_store(homes.decision, "records"),
            requests=record_store(homes.dispatch, "requests"),
            approvals=record_store(homes.approval, "approvals"),
            executions=record_store(homes.approval, "executions"),
            attempts=record_store(homes.execution, "attempts"),
            outcomes=record_store(homes.execution, "outcomes"),
            refusals={stage: record_store(getattr(homes, stage), "refusals") for stage in STAGES},
        ),
        {one.policy.service: one.policy for one in config.protected},
        {one.policy.service: one.initial_generation for one in config.protected},
        Circumstances(_serving(homes), list(starts.dials()), starts.hindrance, last_look(config, verifier).wait),
        verifier,
    )
    return explainer.explain(wanted, SystemClock().now(), surely(homes))


def _serving(homes: Homes) -> frozenset[str] | None:
    """The stages that run, here or on any host of the loop; None where this user may not look."""
    from hyops.adapters.etcd_presence import who_serves_what
    from hyops.adapters.moving_files import FilePlace
    from hyops.compose_store import etcd_session
    from hyops.errors import PrerequisiteError
    from hyops.services.config import Home

    home = homes.execution
    try:
        if isinstance(home, Home) and home.store is not None:
            return frozenset(one["stage"] for one in who_serves_what(etcd_session(home.store)))
        return frozenset(FilePlace(homes.model_dump()).served())
    except PrerequisiteError:
        return None
