"""Before a planned switch demotes anybody, its target writes on its own disk that it is prepared (FEN-2, GATE-1).

A promotion writes there first, so a disk that is full would stop it, and by then the old primary has been demoted.
Nothing is promised by the word: no later verb asks for it, and a promotion needs its receipt all the same.
"""

from __future__ import annotations

from hyops.errors import Effect, HyopsError, PrerequisiteError, StaleGenerationError, TargetError
from hyops.fence.agent import FenceAgent
from hyops.model.fence import LeaseState
from hyops.model.protocol import AGENT_PROTOCOL
from hyops.ports.driver import StepContext
from hyops.ports.hostagent import AgentStatus, HostAgent


def too_old(status: AgentStatus) -> list[str]:
    """Why nothing is begun with this agent, because of its version; an agent that says no protocol speaks the first."""
    spoken = status.facts.get("protocol", 1)
    if type(spoken) is int and spoken >= AGENT_PROTOCOL:
        return []
    return [
        f"the fence agent on {status.host} speaks protocol {str(spoken)[:20]}, and {AGENT_PROTOCOL} is needed: upgrade "
        f"hyops on {status.host} and restart its fence agent"
    ]


def remember_prepared(agent: FenceAgent, now: LeaseState, generation: int, run_id: str) -> None:
    """Durable when it returns, also when it is repeated: the disk may have filled since.

    Raises:
        StaleGenerationError: `generation` is not the next one, or this host has the present one.
        TargetError: not a standby, or its edge fails, so it could not hold a lease. PrerequisiteError: not written.
    """
    if now.generation != generation - 1 or now.primary == agent.host:
        raise StaleGenerationError(
            f"{agent.host} is not prepared for generation {generation}: {now.generation} belongs to {now.primary}",
            seen=now.generation,
        )
    if (role := agent.role()) != "standby":
        raise TargetError(f"{agent.host} is {role}, not a standby", effect=Effect.NONE)
    edge = agent.read_edge()
    if edge is None or not edge.installed or agent.edge_fault is not None:
        fault = agent.edge_fault or "its rules are gone"
        raise TargetError(f"the edge of {agent.host} fails: {fault}", effect=Effect.NONE, hint="mend it first")
    prepared = {"prepared_generation": generation, "prepared_run": run_id}
    agent.remember(agent.state.model_copy(update=prepared))


async def prepare_target(target: HostAgent, source: HostAgent, context: StepContext, hosts: tuple[str, str]) -> None:
    """The first act of a planned switch; where it fails, `source` serves (on) and nothing was raised.

    Raises:
        PrerequisiteError: the target could not write it down, or did not answer.
    """
    spec = context.spec
    try:
        await target.prepare(generation=spec.generation + 1, run_id=spec.run_id)
    except HyopsError as exc:
        serves = await _serves(source, context, hosts[0])
        raise PrerequisiteError(
            f"{hosts[1]} is not prepared to be promoted: {exc.message}; {serves}",
            hint=f"mend what is named on {hosts[1]}, then plan the switch again",
        ) from exc
    context.log(f"{hosts[1]} is prepared for generation {spec.generation + 1}")


async def _serves(source: HostAgent, context: StepContext, host: str) -> str:
    """What became of the source. A resumed run may have demoted it before: then it gets its place back."""
    spec = context.spec
    try:
        facts = (await source.status()).facts
        if (facts.get("hold"), facts.get("hold_run")) != ("demoted", spec.run_id):
            return f"{host} was not touched"
        await source.undo_demote(generation=spec.generation, run_id=spec.run_id)
    except HyopsError as exc:
        return f"whether {host} serves is not known: {exc.message}"
    return f"{host} serves again"
