"""Pull mode put together: the desk's daemon, and the transport of those who dispatch through it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.ports.signer import Verifier
    from hyops.ports.transport import OperatorTransport
    from hyops.services.config_execution import ExecutionConfig


async def run_pull_desk(config_file: Path) -> None:
    """`hyops service run pull-desk`."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.pull_http import PullServer
    from hyops.adapters.pull_identity import RunnerCertificates, server_context
    from hyops.model import pull
    from hyops.services.config_pull import PullDeskConfig
    from hyops.services.loop import log
    from hyops.services.pull_desk import Desk
    from hyops.services.pull_requests import answer, serve

    config = PullDeskConfig.read(config_file.read_bytes(), source=str(config_file))
    refs = frozenset(config.runner_refs)
    desk = Desk(refs, hold_s=config.hold_s, grace_s=config.grace_s)
    ca_file = Path(config.ca_file)
    certificates = RunnerCertificates(ca_file, Path(config.crl_file), refs, SystemClock(), log)
    server = PullServer(
        certificates,
        lambda request: answer(desk, request),
        body_max=pull.CHUNK_MAX,
        answer_limit_s=2 * config.hold_s + 1.0,
        say=log,
    )
    context = server_context(ca_file, Path(config.certificate), Path(config.key))
    await serve(desk, lambda: server.listen(config.address, config.port, context), Path(config.socket), config.group)


def with_pulled(config: ExecutionConfig, dialled: OperatorTransport, verifier: Verifier) -> OperatorTransport:
    """`dialled`, and the runners in pull mode where the configuration names some."""
    if config.pull is None:
        return dialled
    from hyops.adapters.transport_pull import EitherTransport, PullRunnerTransport

    refs = config.pull.runner_refs
    return EitherTransport(PullRunnerTransport(Path(config.pull.socket), refs, verifier), refs, dialled)
