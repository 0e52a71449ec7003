"""What an operator's commands work on (see `compose`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose import approval_verifier, record_store
from hyops.compose_store import starts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from hyops.adapters.tfrc_file import TfrcFile
    from hyops.model.approval import ApprovalPolicy
    from hyops.model.decision import Decision
    from hyops.model.observed import Asked
    from hyops.model.routes import Routes
    from hyops.model.runners import RunnerMap
    from hyops.ports.documents import DocumentReader
    from hyops.ports.records import RecordStore
    from hyops.ports.signer import ApprovalVerifier, Verifier
    from hyops.ports.terraform_cloud import TerraformCloud
    from hyops.services.ci import LoopStores
    from hyops.services.delegations import Delegations
    from hyops.services.desk import Desk
    from hyops.services.overview import Overview
    from hyops.services.reconcile import Reconciler


def approval_desk(config_file: Path) -> Desk:
    """What `hyops approval` works on, from the approval stage's own file."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.services.config_requests import ApprovalConfig
    from hyops.services.desk import Desk
    from hyops.services.too_late import Runs

    config = ApprovalConfig.read(_bytes(config_file), source=str(config_file))
    home, verifier = config.homes.execution, TrustedVerifier.load(Path(config.trusted_keys))
    attempts, outcomes = record_store(home, "attempts"), record_store(home, "outcomes")
    return Desk(
        requests=record_store(config.homes.dispatch, "requests"),
        plans=record_store(config.homes.dispatch, "plans"),
        approvals=record_store(config.homes.approval, "approvals"),
        executions=record_store(config.homes.approval, "executions"),
        policy=config.policy,
        approval_verifier=approval_verifier(config),
        verifier=verifier,
        clock=SystemClock(),
        too_late=Runs(attempts, outcomes, starts_of(home).maybe_sent, verifier).too_late,
    )


def delegation_desk(config_file: Path) -> Delegations:
    """What `hyops approval delegate` and its like work on."""
    from hyops.adapters.approval_ssh import is_signer
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.services.config_requests import ApprovalConfig
    from hyops.services.delegations import Delegations

    config = ApprovalConfig.read(_bytes(config_file), source=str(config_file))
    return Delegations(
        record_store(config.homes.approval, "approvals"),
        policy=config.policy,
        approval_verifier=approval_verifier(config),
        is_signer=lambda principal: is_signer(principal, Path(config.allowed_signers)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=SystemClock(),
    )


def offline_verifiers(
    keys: Path, allowed_signers: Path | None, approvers: Path | None
) -> tuple[Verifier, ApprovalVerifier | None]:
    """What evidence is verified with: public files only, no network. No allowed signers: no approval is proved."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.signer_ed25519 import TrustedVerifier

    verifier = TrustedVerifier.load(keys)
    if allowed_signers is None or approvers is None:
        return verifier, None
    return verifier, SshApprovalVerifier(allowed_signers=allowed_signers, approvers=approvers)


def document_reader() -> DocumentReader:
    """What `hyops lint` reads files with."""
    from hyops.adapters.documents_files import FileDocuments

    return FileDocuments()


def principal_of(config_file: Path, key: Path) -> str:
    """Whom the allowed signers file gives a key."""
    from hyops.adapters.approval_ssh import principal_of as principal
    from hyops.services.config_requests import ApprovalConfig

    config = ApprovalConfig.read(_bytes(config_file), source=str(config_file))
    return principal(key, Path(config.allowed_signers))


def ssh_sign(data: bytes, key: Path) -> str:
    """A person's OpenSSH signature."""
    from hyops.adapters.approval_ssh import sign

    return sign(data, key)


def operator_decision(config_file: Path, service: str, asked: Asked) -> Decision:
    """Record a decision that a person asks for, signed with the decision stage's key; twice in a second is once."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.compose_hold import hold_now
    from hyops.control.decision import asked_inputs
    from hyops.control.decision import operator_decision as decided
    from hyops.errors import UsageError
    from hyops.model.dsse import sign_record
    from hyops.services.asking import record_once
    from hyops.services.config import DecisionConfig
    from hyops.services.overview import mode_from

    config = DecisionConfig.read(_bytes(config_file), source=str(config_file))
    protected, homes = config.about(service), config.homes
    if protected is None:
        about = ", ".join(one.policy.service for one in config.protected)
        raise UsageError(f"{config_file} is about {about}, not {service}")
    attempts, outcomes = record_store(homes.execution, "attempts"), record_store(homes.execution, "outcomes")
    verifier = TrustedVerifier.load(Path(config.trusted_keys))
    mode = mode_from(protected.policy, protected.initial_generation, attempts, outcomes, verifier)
    now = SystemClock().now()
    known = asked_inputs(protected.policy, mode, asked, now, hold_now(config, protected.policy))
    signed = sign_record(decided(known), Ed25519Signer.load(Path(config.signing_key)))
    decisions, inputs = record_store(homes.decision, "records"), record_store(homes.decision, "inputs")
    return record_once(decisions, inputs, signed, known, verifier)


def overview(config_file: Path) -> list[Overview]:
    """Every protected service as the executor knows it, for `hyops status`."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.compose_hold import hold_book
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.overview import overview_of
    from hyops.services.queues import queue_of

    config = ExecutionConfig.read(_bytes(config_file), source=str(config_file))
    homes, verifier = config.homes, TrustedVerifier.load(Path(config.trusted_keys))

    def store_of(stage: str, kind: str) -> RecordStore:
        return record_store(getattr(homes, stage), kind)

    return [
        overview_of(
            protected.policy,
            protected.initial_generation,
            decisions=record_store(homes.decision, "records"),
            requests=record_store(homes.dispatch, "requests"),
            executions=record_store(homes.approval, "executions"),
            attempts=record_store(homes.execution, "attempts"),
            outcomes=record_store(homes.execution, "outcomes"),
            approvals=queue_of("approval", store_of),
            unsent=queue_of("execution", store_of),
            verifier=verifier,
            now=SystemClock().now(),
            holds=hold_book(homes, protected.policy, config.people, SystemClock()),
            hindrance_of=starts_of(homes.execution).hindrance,
        )
        for protected in config.protected
    ]


def reconciler(config_file: Path, approval_config: Path) -> Reconciler:
    """What `hyops run reconcile` works on: the executor's records and key, the approval stage's allowed signers."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.compose_transport import runner_transport
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.config_requests import ApprovalConfig
    from hyops.services.reconcile import Reconciler

    config = ExecutionConfig.read(_bytes(config_file), source=str(config_file))
    approving = ApprovalConfig.read(_bytes(approval_config), source=str(approval_config))
    home = config.homes.execution
    return Reconciler(
        executions=record_store(config.homes.approval, "executions"),
        attempts=record_store(home, "attempts"),
        outcomes=record_store(home, "outcomes"),
        policies={protected.policy.service: protected.policy for protected in config.protected},
        transport=runner_transport(config_file)[0],
        starts=starts_of(home),
        approvals=approval_verifier(approving),
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=SystemClock(),
    )


def terraform_credentials(root: Path) -> TfrcFile:
    """The tokens that a runtime root keeps for Terraform."""
    from hyops.adapters.tfrc_file import TfrcFile

    return TfrcFile(root)


def terraform_cloud(host: str, token: str, ca_file: Path | None) -> TerraformCloud:
    """The API of one host, with its own token."""
    from hyops.adapters.tfc_http import TfcApi

    return TfcApi(f"https://{host}", token, ca_file=ca_file)


def utc_now() -> datetime:
    """What time it is."""
    from hyops.adapters.clock_system import SystemClock

    return SystemClock().now()


def loop_stores(base: Path) -> LoopStores:
    """What the four stages of a control host wrote below one folder, or a copy of it; to be read only."""
    from hyops.errors import PrerequisiteError
    from hyops.services.ci import LoopStores

    if not base.is_dir():
        raise PrerequisiteError(f"{base}: no such folder", hint="pass --store, or hand the records over as files")
    decision, dispatch, approval, execution = (
        str(base / f"decision-{name}") for name in ("service", "dispatcher", "consumer", "executor")
    )
    return LoopStores(
        decisions=record_store(decision, "records"),
        requests=record_store(dispatch, "requests"),
        plans=record_store(dispatch, "plans"),
        approvals=record_store(approval, "approvals"),
        approval_refusals=record_store(approval, "refusals"),
        executions=record_store(approval, "executions"),
        attempts=record_store(execution, "attempts"),
        outcomes=record_store(execution, "outcomes"),
        execution_refusals=record_store(execution, "refusals"),
        evidence=Path(execution) / "state" / "evidence",
    )


def loop_glances(base: Path) -> AsyncIterator[None]:
    """Looks at what `loop_stores` reads, whenever a stage has written."""
    from hyops.adapters.arrival import glances

    approval, execution = base / "decision-consumer" / "state", base / "decision-executor" / "state"
    folders = [approval / kind for kind in ("approvals", "executions", "refusals")]
    folders += [execution / kind for kind in ("attempts", "refusals", "evidence")]
    return glances(folders, rescan_s=2.0)


class CiTrust:
    """What CI believes: one folder that its host's administrator keeps, never the repository or the store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def verifier(self) -> Verifier:
        """`trusted_keys.json`."""
        from hyops.adapters.signer_ed25519 import TrustedVerifier

        return TrustedVerifier.load(self._folder / "trusted_keys.json")

    def approvals(self) -> ApprovalVerifier:
        """`allowed_signers` and `approvers.json`; `revoked_signers` where it is there."""
        from hyops.adapters.approval_ssh import SshApprovalVerifier

        revoked = self._folder / "revoked_signers"
        return SshApprovalVerifier(
            allowed_signers=self._folder / "allowed_signers",
            approvers=self._folder / "approvers.json",
            revoked=revoked if revoked.exists() else None,
        )

    def policy(self) -> ApprovalPolicy:
        """`approval-policy.yml`."""
        from hyops.adapters.yaml_files import read_yaml
        from hyops.model.approval import ApprovalPolicy

        return read_yaml(self._folder / "approval-policy.yml", ApprovalPolicy)

    def routes(self) -> Routes:
        """`routes.yml`."""
        from hyops.adapters.yaml_files import read_yaml
        from hyops.model.routes import Routes

        return read_yaml(self._folder / "routes.yml", Routes)

    def runners(self) -> RunnerMap:
        """`runners.yml`."""
        from hyops.adapters.yaml_files import read_yaml
        from hyops.model.runners import RunnerMap

        return read_yaml(self._folder / "runners.yml", RunnerMap)


def _bytes(config_file: Path) -> bytes:
    from hyops.errors import ConfigError

    try:
        return config_file.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{config_file}: {exc.strerror}", hint="name the configuration with --config") from exc
