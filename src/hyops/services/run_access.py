"""What a run's own access mode is asked before its first effect, on the runner (GATE-1, GATE-2, ACC-1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hyops.access.circumstances import Circumstances, targets_of
from hyops.errors import HyopsError, PrerequisiteError, RefusedError, foreign
from hyops.model.access import ResolvedAccess
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, Occasion
from hyops.runner.admission import BREAK_GLASS, failed_site
from hyops.runner.config import RunnerConfig

ResolveAccess = Callable[[Circumstances], Awaitable[ResolvedAccess]]
"""Asks every prerequisite of the plan's plane; PrerequisiteError names the one that does not hold."""


async def resolved(resolve: ResolveAccess, spec: RunSpec, config: RunnerConfig) -> ResolvedAccess:
    """How the targets are reached.

    Raises:
        RefusedError: a prerequisite does not hold. A probe that breaks is one that does not: the run is closed, and
            not left to break again at each start.
    """
    try:
        with foreign():
            return await resolve(circumstances(spec, config))
    except RefusedError:
        raise
    except HyopsError as exc:
        raise PrerequisiteError(f"access mode {spec.plan.execution_plane}: {exc.message}", hint=exc.hint) from exc


def circumstances(spec: RunSpec, config: RunnerConfig) -> Circumstances:
    """What an admitted spec and this runner's own configuration say; the dispatcher is asked nothing."""
    plan = spec.plan
    moves = plan.decision_type in (DecisionType.FAILOVER, DecisionType.FAILBACK)
    access = config.options.get("access")
    declared = access.get("site_networks") if isinstance(access, dict) else None
    return Circumstances(
        plane=plan.execution_plane,
        runner_ref=config.runner_ref,
        runner_site=config.site,
        env=plan.env,
        blueprint_ref=plan.blueprint_ref,
        decision_type=plan.decision_type,
        targets=targets_of(plan, spec.occasion, config.host_sites),
        failed_site=failed_site(plan, config.host_sites) if moves and spec.occasion is Occasion.UNPLANNED else None,
        break_glass=any(approval.statement.verdict == BREAK_GLASS for approval in spec.approvals),
        public=plan.access,
        run_id=spec.run_id,
        site_networks=declared if isinstance(declared, dict) else {},
    )
