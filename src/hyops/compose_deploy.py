"""What `hyops runner blueprint` works on: the four stages' own configurations and one runtime root (see `compose`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hyops.compose import record_store
from hyops.compose_bundle import bundles_of
from hyops.compose_loop import execution_stage, execution_stores, planner
from hyops.compose_roots import of_one_root
from hyops.compose_store import starts_of
from hyops.compose_transport import runner_transport
from hyops.errors import ConfigError
from hyops.model.base import Part

if TYPE_CHECKING:
    from hyops.model.execution import Attempt
    from hyops.model.module_state import ModuleState
    from hyops.model.runners import RunnerMap
    from hyops.model.sealed import Sealed
    from hyops.model.secret import Secret
    from hyops.ports.signer import Verifier
    from hyops.ports.starts import Starts
    from hyops.ports.transport import RunEvent, RunnerTransport
    from hyops.services.config import DecisionConfig, Homes, Protected
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.config_requests import DispatchConfig
    from hyops.services.deploy import Loop
    from hyops.services.deploy_plan import Rules
    from hyops.services.deploy_secrets import SyncEnv
    from hyops.services.execution import ExecutionStage
    from hyops.services.execution_parts import Bundles, ExecutionStores
    from hyops.services.secrets import Secrets

P = TypeVar("P", bound=Part)
SEAL_VALID_S = 3600.0  # a run that resumes later than this gets them anew from whoever dials
RESCAN_S = 2.0


@dataclass(frozen=True)
class StageFiles:
    """The configuration file of each stage."""

    decision: Path
    dispatch: Path
    approval: Path
    execution: Path


def deploy_loop(files: StageFiles, root: Path, service: str) -> tuple[Rules, Loop]:
    """The environment's rules for one service, and its loop.

    Raises:
        ConfigError, PrerequisiteError: a file is missing or wrong, or is about another root; names it.
    """
    from hyops.adapters.arrival import glances
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.config import DecisionConfig
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.config_requests import ApprovalConfig, DispatchConfig
    from hyops.services.deploy import Loop

    deciding = _read(files.decision, DecisionConfig, "name it with --decision-config")
    executing = _read(files.execution, ExecutionConfig, "name it with --execution-config")
    approving = _read(files.approval, ApprovalConfig, "name it with --approval-config")
    dispatching = _read(files.dispatch, DispatchConfig, "name it with --dispatch-config")
    of_one_root(root, {files.dispatch: dispatching.runtime_root, files.execution: executing.runtime_root})
    homes, verifier = executing.homes, TrustedVerifier.load(Path(executing.trusted_keys))
    stores = execution_stores(homes)
    starts = starts_of(homes.execution)
    loop = Loop(
        stores=stores,
        inputs=record_store(homes.decision, "inputs"),
        files=bundles_of(executing).files,
        dispatch_refusals=record_store(homes.dispatch, "refusals"),
        approval_refusals=record_store(homes.approval, "refusals"),
        approval_policy=approving.policy,
        approvers=lambda: _approvers(Path(approving.approvers)),
        signer=Ed25519Signer.load(Path(deciding.signing_key)),
        verifier=verifier,
        clock=SystemClock(),
        starts=starts,
        transport=runner_transport(files.execution)[0],
        stage=_stage_for(executing, stores, starts, verifier),
        glances=lambda: glances(_watched(homes), rescan_s=RESCAN_S),
        bootstraps=_bootstrap,
        never_made=lambda place: _never_made(root, place.state_ref),
    )
    executes = executing.mode == "dispatch"
    protected = deciding.about(service) or deciding.protected[0]  # about another one: refused by name where it is asked
    return _rules(dispatching, root, deciding, protected, stores, verifier, executes), loop


def _rules(
    dispatching: DispatchConfig,
    root: Path,
    deciding: DecisionConfig,
    protected: Protected,
    stores: ExecutionStores,
    verifier: Verifier,
    executes: bool,
) -> Rules:
    from hyops.compose_hold import hold_now
    from hyops.services.deploy_plan import Rules
    from hyops.services.overview import mode_from

    runners, runners_file = runner_map(root)
    policy, first = protected.policy, protected.initial_generation
    return Rules(
        policy=policy,
        mode=lambda: mode_from(policy, first, stores.attempts, stores.outcomes, verifier),
        routes=dispatching.routes,
        plan_for=planner(dispatching),
        max_age_s=dispatching.max_age_s,
        runners=runners,
        runners_source=str(runners_file),
        executes=executes,
        hold=lambda: hold_now(deciding, policy),
    )


def _watched(homes: Homes) -> list[Path]:
    """Where the stages answer."""
    answers = ((homes.dispatch, "requests"), (homes.approval, "executions"), (homes.execution, "outcomes"))
    return [Path(home) / "state" / folder for home, kind in answers for folder in (kind, "refusals")]


def _approvers(path: Path) -> Collection[str]:
    from hyops.adapters.approval_ssh import Approvers

    roles = _read(path, Approvers, "`approvers` of the approval stage's configuration names it").roles
    return [name for name, held in roles.items() if "approver" in held]


def _stage_for(
    config: ExecutionConfig, stores: ExecutionStores, starts: Starts, verifier: Verifier
) -> Callable[..., ExecutionStage]:
    def made(
        transport: RunnerTransport,
        bundles: Bundles,
        on_event: Callable[[Attempt, RunEvent], None],
        claimed: Collection[str],
    ) -> ExecutionStage:
        return execution_stage(
            config,
            stores,
            starts,
            verifier,
            transport=transport,
            bundles=bundles,
            mode="dispatch",
            on_event=on_event,
            claimed=claimed,
        )

    return made


def runner_map(root: Path) -> tuple[RunnerMap, Path]:
    """Where the environment's standing runners are, and which of them is for what; and the file that says so."""
    from hyops.adapters.yaml_files import read_yaml
    from hyops.model.runners import RunnerMap

    path = root / "config" / "runner" / "runners.yml"
    return read_yaml(path, RunnerMap), path


def runner_of_state(root: Path, state_ref: str, vm_key: str | None) -> str:
    """The runner that a state record of this root tells of.

    Raises:
        PrerequisiteError: there is none, or it is not of a ready runner. RecordError: it is damaged, or a copy.
    """
    from hyops.control.selection import runner_of_state as runner_of
    from hyops.errors import PrerequisiteError

    path, state = _state(root, state_ref)
    if state is None:
        raise PrerequisiteError(
            f"{path}: No such file or directory", hint="name a state of this environment; the runner's module writes it"
        )
    return runner_of(state, vm_key, str(path))


def _never_made(root: Path, state_ref: str | None) -> str | None:
    from hyops.control.selection import never_made

    if state_ref is None:
        return None
    path, state = _state(root, state_ref)
    if state is None and not (root / "state" / "modules").is_dir():
        return None  # a root that lost its state shows nothing
    return never_made(state, str(path))


def _state(root: Path, state_ref: str) -> tuple[Path, ModuleState | None]:
    """A state record of a root and where it lies, or that there is none."""
    from hyops.errors import PrerequisiteError, RecordError
    from hyops.model.module_state import ModuleState, state_path

    below, module_ref, instance = state_path(state_ref)
    path = root / below
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return path, None
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint="let this user read the environment's state") from exc
    state = ModuleState.read(data, source=str(path))
    if (state.module_ref, state.state_instance) != (module_ref, instance):
        raise RecordError(f"{path}: the state of {state.module_ref}#{state.state_instance}, not of {state_ref}")
    return path, state


def sync_env(
    root: Path,
    env: str,
    *,
    keys: Sequence[str] = (),
    shell: Mapping[str, Secret] | None = None,
    source: str = "runtime",
    scopes: Sequence[str] = (),
    map_file: Path | None = None,
    password_file: Path | None = None,
    password_command: str | None = None,
) -> SyncEnv:
    """The secrets of one deployment, none of them read yet."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.services.deploy_secrets import Source, SyncEnv

    found = None
    if source != "runtime":
        from hyops.compose_secrets import secret_authority, secret_map
        from hyops.secretsync.mapping import parse_map

        path, data = secret_map(root, source, map_file)
        rows = parse_map(data, env=env, source=str(path), scopes=scopes)
        found = Source(secret_authority(root, source), rows)

    def cache() -> Secrets:
        from hyops.compose_secrets import secrets_of

        return secrets_of(root, password_file, password_command)

    return SyncEnv(list(keys), dict(shell or {}), cache, env, SystemClock(), _sealed, found)


def _sealed(values: Mapping[str, Secret], public: str, *, env: str, runner_ref: str) -> Sealed:
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.sealer_hpke import public_key, seal

    now = SystemClock().now()
    return seal(values, public_key(public), env=env, runner_ref=runner_ref, at=now, valid_s=SEAL_VALID_S)


async def _bootstrap(command: list[str], write: Callable[[bytes], None]) -> None:
    from hyops.adapters.local_command import run

    await run(command, write)


def _read(path: Path, kind: type[P], hint: str) -> P:
    try:
        return kind.read(path.read_bytes(), source=str(path))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint=hint) from exc
