"""Whether a stage could begin with a configuration: everything that it reads at its start is read, and nothing is done.

Who installs a stage asks this of the new hyops about the new files, before it replaces the old ones (LOOP-4).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyops.services.config import StageConfig

MODES = {"decision": "emit-only", "dispatch": "record-only"}


def check(stage: str, config_file: Path) -> dict[str, Any]:
    """The stage, how it executes, and the entry of its signing key for every `trusted_keys.json`.

    Raises:
        ConfigError, PrerequisiteError: a file is wrong or missing; names it.
    """
    from hyops.adapters.signer_ed25519 import TrustedVerifier

    data = config_file.read_bytes()
    config, mode = READERS[stage](data, str(config_file))
    TrustedVerifier.load(Path(config.trusted_keys))
    return {"stage": stage, "execution_mode": mode, "signing_key": signing_key(stage, Path(config.signing_key))}


def signing_key(stage: str, path: Path) -> dict[str, Any]:
    """The entry of a stage's key for `trusted_keys.json`."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer

    return Ed25519Signer.load(path).trusted(stage, name=stage).body()


def _decision(data: bytes, source: str) -> tuple[StageConfig, str]:
    from hyops.services.config import DecisionConfig

    config = DecisionConfig.read(data, source=source)
    for name, login in config.vantages.items():
        if login is not None:
            _readable(f"{source}: vantages.{name}", login.key_file, login.known_hosts)
    if config.probe_password_file is not None:
        _readable(f"{source}: probe_password_file", config.probe_password_file)
    return config, MODES["decision"]


def _dispatch(data: bytes, source: str) -> tuple[StageConfig, str]:
    from hyops.engine.catalog import Catalog, default_roots
    from hyops.errors import ConfigError
    from hyops.model.vocabulary import DecisionType
    from hyops.services.config_requests import DispatchConfig

    config = DispatchConfig.read(data, source=source)
    catalog = Catalog([Path(root) for root in config.catalogs] or default_roots())
    for kind in DecisionType:
        for route in config.routes.of_type(kind):
            if route.target_kind == "blueprint":
                try:
                    catalog.blueprint(route.target_ref)
                except ConfigError as exc:
                    raise ConfigError(f"{source}: routes.dispatcher_routes.{kind}.target_ref: {exc.message}") from exc
    return config, MODES["dispatch"]


def _approval(data: bytes, source: str) -> tuple[StageConfig, str]:
    from hyops.compose import approval_verifier
    from hyops.services.config_requests import ApprovalConfig

    config = ApprovalConfig.read(data, source=source)
    _readable(source, *filter(None, (config.allowed_signers, config.approvers, config.revoked_signers)))
    approval_verifier(config)
    return config, config.policy.mode


def _execution(data: bytes, source: str) -> tuple[StageConfig, str]:
    from hyops.services.config_execution import ExecutionConfig

    config = ExecutionConfig.read(data, source=source)
    for name, login in {**config.runners, **config.bastions}.items():
        _readable(f"{source}: {name}", login.known_hosts, login.key_file)
    return config, config.mode


READERS: dict[str, Callable[[bytes, str], tuple[StageConfig, str]]] = {
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
