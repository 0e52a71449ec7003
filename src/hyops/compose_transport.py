"""How the executor and an operator's commands reach the runners (see `compose`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.adapters.runner_link import SshTransport
    from hyops.ports.signer import Verifier
    from hyops.services.config import ExecutionConfig


def runner_transport(config_file: Path) -> tuple[SshTransport, list[str]]:
    """For the command line: how to reach the executor's runners, and their names."""
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.errors import ConfigError
    from hyops.services.config import ExecutionConfig

    try:
        data = config_file.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"{config_file}: {exc.strerror}", hint="name the executor's configuration with --config"
        ) from exc
    config = ExecutionConfig.read(data, source=str(config_file))
    return transport_of(config, TrustedVerifier.load(Path(config.trusted_keys))), sorted(config.runners)


def transport_of(config: ExecutionConfig, verifier: Verifier) -> SshTransport:
    """The link to the executor's runners, with the SSH client that it is configured for."""
    from hyops.compose_pki import runner_target

    targets = {ref: runner_target(ref, login) for ref, login in config.runners.items()}
    if config.ssh_client == "openssh":
        from hyops.adapters.ssh_openssh import OpensshRunnerTransport

        return OpensshRunnerTransport(targets, verifier)
    from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport

    return AsyncsshRunnerTransport(targets, verifier)
