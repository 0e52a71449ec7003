"""By whose lists a runner judges, and whether they are out of reach of whoever runs jobs there (INV-8).

Both are asked by the command that begins a takeover and by its job: the job is what makes effects, however it began.
"""

from __future__ import annotations

import os
from pathlib import Path

from hyops.errors import ConfigError
from hyops.model.approval import ApprovalPolicy
from hyops.ports.signer import ApprovalVerifier, Verifier
from hyops.runner.admission import Rules
from hyops.runner.config import RunnerConfig


def rules_of(config: RunnerConfig, verifier: Verifier, approvals: ApprovalVerifier) -> Rules:
    """What this runner holds against a spec; ConfigError when its `approval` is none."""
    return Rules(
        config.runner_ref,
        config.site,
        verifier,
        approvals,
        ApprovalPolicy.of(config.approval, source=f"{config.source}: approval"),
        config.host_sites,
        config.takeover_approvals,
    )


def refuse_own_trust(config: RunnerConfig) -> None:
    """Return when whom this runner trusts is root's to say, and nobody else's (INV-8).

    Raises:
        ConfigError: the user who runs jobs, or everybody, may change one of the files.
    """
    named = (config.source, config.trusted_keys, config.allowed_signers, config.approvers, config.revoked_signers)
    for path in [Path(os.path.realpath(path)) for path in named if path is not None]:
        try:
            for one in (path, path.parent):
                stat = os.stat(one)
                own = stat.st_uid == os.geteuid() != 0
                if own or (stat.st_mode & 0o022 and not stat.st_mode & 0o1000):
                    raise ConfigError(
                        f"{one}: who runs jobs here may change it, so it proves nothing about approvals",
                        hint=f"chown root {one}; chmod go-w {one}",
                    )
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror}") from exc
