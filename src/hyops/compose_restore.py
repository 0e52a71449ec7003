"""What `hyops fence restore-generation` is made of on a runner: its keys reach the agents, the quorum and DNS.

The agents are entered on the service's own execution plane, as a switch enters them, and in no other way (ACC-2).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hyops.adapters.hostagent_ssh import SshHostAgent
    from hyops.fence.restore import LeftOut
    from hyops.model.fence import LeaseState
    from hyops.model.policy import ServicePolicy
    from hyops.ports.dns import DnsAuthority
    from hyops.runner.config import RunnerConfig

OCCASION = "fence/restore-generation"  # stands where a run has its blueprint: a bastion is never guessed for it


async def restore_generation(
    config_file: Path, policy: ServicePolicy, seen: Mapping[str, int], without: LeftOut, primary: str | None
) -> LeaseState:
    """Ask every member's agent, this runner, the other ones' numbers in `seen`, and every authority; then raise."""
    from hyops import compose
    from hyops.adapters.dns_rfc2136 import Rfc2136Dns
    from hyops.errors import PrerequisiteError
    from hyops.fence.restore import Asked
    from hyops.fence.restore import restore_generation as restore
    from hyops.runner.config import RunnerConfig
    from hyops.runner.folders import Folders

    config = RunnerConfig.load(config_file)
    agents = member_agents(config, policy)

    async def here() -> int:
        return Folders(config.root, config.secrets_dir).seen(policy.service).generation

    def other(name: str) -> Callable[[], Awaitable[int]]:
        async def said() -> int:
            if name not in seen:
                raise PrerequisiteError(f"its `generations/{policy.service}` is read there, and said with --seen")
            return seen[name]

        return said

    runners = {m.runner_ref for m in policy.members} | {config.runner_ref}
    others = {name: here if name == config.runner_ref else other(name) for name in sorted(runners)}
    dns: DnsAuthority = Rfc2136Dns({})
    others |= {authority: _authority(dns, policy, authority) for authority in policy.endpoint.authorities}
    store = compose.lease_store(policy.lease)
    try:
        return await restore(store, policy.service, Asked(agents, others), without, primary)
    finally:
        for agent in agents.values():
            await agent.close()
        await store.close()


def member_agents(config: RunnerConfig, policy: ServicePolicy) -> dict[str, SshHostAgent]:
    """The agent of every member, on the way that the policy's plane has from this runner.

    Raises:
        PrerequisiteError: that way is not defined here; no other one is taken.
    """
    from hyops.access.circumstances import Circumstances, Target
    from hyops.adapters.hostagent_ssh import AgentPlace, SshHostAgent
    from hyops.compose_access import way_in
    from hyops.model.vocabulary import DecisionType
    from hyops.runner.options import RunnerOptions

    login = RunnerOptions.of(config.options, source=f"{config.source}: options").targets
    targets = tuple(Target(m.host, m.address, m.site) for m in policy.members)
    run = Circumstances(
        policy.execution_plane, config.runner_ref, config.site, policy.env, OCCASION, DecisionType.HOLD, targets
    )
    there = way_in(config, run)
    key_file, known_hosts = Path(login.key_file), Path(login.known_hosts)
    return {
        m.host: SshHostAgent(AgentPlace(m.host, m.address, login.user, key_file, known_hosts, login.port, *there))
        for m in policy.members
    }


def _authority(dns: DnsAuthority, policy: ServicePolicy, authority: str) -> Callable[[], Awaitable[int]]:
    from hyops.fence.restore import reported

    async def told() -> int:
        return reported([(await dns.ask(policy.endpoint, authority)).generation], f"_gen of {authority}")

    return told
