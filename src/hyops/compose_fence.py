"""What runs beside a database: the fence agent, its edge and its memory (see `compose`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose import lease_store

if TYPE_CHECKING:
    from hyops.adapters.state_file import StateFile
    from hyops.fence.agent import FenceAgent
    from hyops.fence.config import FenceAgentConfig
    from hyops.fence.state import AgentState
    from hyops.fence.verbs import FenceVerbs
    from hyops.ports.edge import DatabaseEdge


async def run_fence_agent(config_file: Path) -> None:
    """The daemon of `hyops service run fence-agent`."""
    from hyops.fence.config import FenceAgentConfig
    from hyops.services.fence_agent import serve

    config = FenceAgentConfig.read(config_file.read_bytes(), source=str(config_file))
    agent, verbs = fence_agent(config)
    await serve(agent, verbs, Path(config.socket), group=config.group)


def fence_agent(config: FenceAgentConfig) -> tuple[FenceAgent, FenceVerbs]:
    """The fence agent of one database host."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.postgres_local import LocalPostgres, PostgresPlace
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.adapters.state_file import StateFile
    from hyops.fence.agent import AgentParts, FenceAgent
    from hyops.fence.state import AgentState
    from hyops.fence.verbs import FenceVerbs, VerbPolicy

    postgres = config.postgres
    place = PostgresPlace(
        data_dir=Path(postgres.data_dir),
        bin_dir=Path(postgres.bin_dir),
        socket_dir=Path(postgres.socket_dir),
        port=postgres.port,
        os_user=postgres.os_user,
        unit=postgres.unit,
        options=postgres.options,
        log_file=Path(postgres.log_file) if postgres.log_file else None,
        source=postgres.source,
    )
    parts = AgentParts(
        store=lease_store(config.lease),
        edge=database_edge(config),
        database=LocalPostgres(place),
        memory=StateFile(Path(config.state_file), AgentState),
        clock=SystemClock(),
        log=log,
        members=frozenset(member.host for member in config.members),
    )
    agent = FenceAgent(config.service, config.host, config.times(), parts)
    policy = VerbPolicy(
        members={member.host: member for member in config.members},
        receipts=config.receipts,
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
    )
    return agent, FenceVerbs(agent, policy)


def database_edge(config: FenceAgentConfig) -> DatabaseEdge:
    """The edge of one database host."""
    from hyops.adapters.nft_edge import NftEdge

    return NftEdge(port=config.postgres.port, peers=config.peers(), monitors=config.monitors)


def agent_memory(state_file: Path) -> StateFile[AgentState]:
    """What a fence agent remembers over a restart."""
    from hyops.adapters.state_file import StateFile
    from hyops.fence.state import AgentState

    return StateFile(state_file, AgentState)


async def first_generation(config: FenceAgentConfig, generation: int, wait_s: float) -> None:
    """Create the service's first generation, with this host as primary."""
    from hyops.fence.first import create

    store = lease_store(config.lease)
    try:
        await create(store, config.service, generation, config.host, wait_s)
    finally:
        await store.close()


def log(line: str) -> None:
    """One line to the service's log (standard error; the journal under systemd)."""
    print(line, file=sys.stderr, flush=True)
