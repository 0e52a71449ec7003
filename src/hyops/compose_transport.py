"""How the executor and an operator's commands reach the runners (see `compose`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.ports.signer import Verifier
    from hyops.ports.transport import OperatorTransport
    from hyops.services.config_execution import ExecutionConfig


def executor_config(config_file: Path) -> ExecutionConfig:
    """What the executor is told, for a command that asks its runners.

    Raises:
        ConfigError: it cannot be read, or is wrong.
    """
    from hyops.errors import ConfigError
    from hyops.services.config_execution import ExecutionConfig

    try:
        data = config_file.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"{config_file}: {exc.strerror}", hint="name the executor's configuration with --config"
        ) from exc
    return ExecutionConfig.read(data, source=str(config_file))


def runner_transport(config_file: Path) -> tuple[OperatorTransport, list[str]]:
    """For the command line: how to reach the executor's runners, and their names."""
    from hyops.adapters.signer_ed25519 import TrustedVerifier

    config = executor_config(config_file)
    refs = sorted([*config.runners, *(config.pull.runner_refs if config.pull else [])])
    return transport_of(config, TrustedVerifier.load(Path(config.trusted_keys))), refs


def transport_of(config: ExecutionConfig, verifier: Verifier) -> OperatorTransport:
    """The link to the executor's runners, with the SSH client that it is configured for."""
    from hyops.compose_pki import runner_target
    from hyops.compose_pull import with_pulled

    targets = {ref: runner_target(ref, login, config.bastions) for ref, login in config.runners.items()}
    if config.ssh_client == "openssh":
        from hyops.adapters.ssh_openssh import OpensshRunnerTransport

        return with_pulled(config, OpensshRunnerTransport(targets, verifier), verifier)
    from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport

    return with_pulled(config, AsyncsshRunnerTransport(targets, verifier), verifier)
