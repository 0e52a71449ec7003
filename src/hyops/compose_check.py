"""Whether a stage could begin with a configuration: everything that it reads at its start is read, and nothing is done.

Who installs a stage asks this of the new hyops about the new files, before it replaces the old ones (LOOP-4).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyops.services.config import DecisionConfig, StageConfig
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.config_requests import ApprovalConfig, DispatchConfig


def check(stage: str, config_file: Path) -> dict[str, Any]:
    """The stage, how it executes, and the entry of its signing key for every `trusted_keys.json`.

    Raises:
        ConfigError, PrerequisiteError: a file is wrong or missing; names it.
    """
    from hyops.adapters.signer_ed25519 import TrustedVerifier

    config, mode = config_of(stage, config_file.read_bytes(), str(config_file))
    LOOKS[stage](config, str(config_file))
    TrustedVerifier.load(Path(config.trusted_keys))
    return {"stage": stage, "execution_mode": mode, "signing_key": signing_key(stage, Path(config.signing_key))}


def signing_key(stage: str, path: Path) -> dict[str, Any]:
    """The entry of a stage's key for `trusted_keys.json`."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer

    return Ed25519Signer.load(path).trusted(stage, name=stage).body()


def config_of(stage: str, data: bytes, source: str) -> tuple[StageConfig, str]:
    """A stage's configuration by its own type, and how the stage executes; nothing that it names is looked at."""
    from hyops.services import config, config_execution, config_requests

    if stage == "decision":
        return config.DecisionConfig.read(data, source=source), "emit-only"
    if stage == "dispatch":
        return config_requests.DispatchConfig.read(data, source=source), "record-only"
    if stage == "approval":
        approval = config_requests.ApprovalConfig.read(data, source=source)
        return approval, approval.policy.mode
    execution = config_execution.ExecutionConfig.read(data, source=source)
    return execution, execution.mode


def _decision(config: DecisionConfig, source: str) -> None:
    for name, login in config.vantages.items():
        if login is not None:
            _readable(f"{source}: vantages.{name}", login.key_file, login.known_hosts)
    if config.probe_password_file is not None:
        _readable(f"{source}: probe_password_file", config.probe_password_file)


def _dispatch(config: DispatchConfig, source: str) -> None:
    from hyops.compose_loop import lone_module
    from hyops.engine.catalog import Catalog, default_roots
    from hyops.errors import ConfigError, UnsafePlanError
    from hyops.model.vocabulary import DecisionType

    roots = [Path(root) for root in config.catalogs] or default_roots()
    catalog = Catalog(roots)
    for kind in DecisionType:
        for route in config.routes.of_type(kind):
            where = f"{source}: routes.dispatcher_routes.{kind}"
            try:
                if route.target_kind == "module":
                    lone_module(roots, route.target_ref)
                else:
                    catalog.blueprint(route.target_ref)
            except (ConfigError, UnsafePlanError) as exc:
                raise ConfigError(f"{where}.target_ref: {exc.message}", hint=exc.hint) from exc


def _approval(config: ApprovalConfig, source: str) -> None:
    from hyops.compose import approval_verifier

    _readable(source, *filter(None, (config.allowed_signers, config.approvers, config.revoked_signers)))
    approval_verifier(config)


def _execution(config: ExecutionConfig, source: str) -> None:
    for name, login in {**config.runners, **config.bastions}.items():
        _readable(f"{source}: {name}", login.known_hosts, login.key_file)


LOOKS: dict[str, Callable[[Any, str], None]] = {
    "decision": _decision,
    "dispatch": _dispatch,
    "approval": _approval,
    "execution": _execution,
}


def _readable(source: str, *paths: str) -> None:
    from hyops.errors import ConfigError

    for path in paths:
        try:
            Path(path).read_bytes()
        except OSError as exc:
            raise ConfigError(f"{source}: {path}: {exc.strerror}", hint="put it there, for this stage's user") from exc
