"""The job of `hyops apply` for one stage of the control loop: its files, whom it trusts, its release (LOOP-4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyops.adapters.module_files import Module
    from hyops.compose_module import Asked
    from hyops.engine.module_inputs import Where
    from hyops.model.policy import ServicePolicy
    from hyops.ports.plays import Play
    from hyops.ports.states import StateStore
    from hyops.services.config import DecisionConfig, StageConfig
    from hyops.services.stage_plan import ReleaseWanted, StageFile, StageHost, StageWanted

FILE_MAX = 4 * 1024 * 1024
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
SENT = {"setup_files": "hyops.runner.setup_files", "stage_files": "hyops.runner.stage_files",
        "stage_setup": "hyops.runner.stage_setup"}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What the desk needs of the module's own."""

    play: Callable[[str, bool, tuple[int, ...]], Play]
    published: Callable[[Mapping[str, Any]], dict[str, Any]]
    contract: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


def stage_job(
    asked: Asked,
    module: Module,
    action: str,
    source: Path,
    value: Any,
    lines: Any,
    states: StateStore,
    tell: Callable[[str], None],
) -> Job:
    """Read all that the inputs name; nothing is asked of the host yet.

    Raises:
        ConfigError, PrerequisiteError: a key or a file is wrong; names file, line and key.
        UnsafePolicyError: a policy may lead to something unsafe.
    """
    from hyops.compose_proved import refuse_unsafe
    from hyops.engine.module_inputs import resolve
    from hyops.errors import ConfigError
    from hyops.model import canonical
    from hyops.services.config import DecisionConfig
    from hyops.services.stage_outputs import published
    from hyops.services.stage_plan import STAGES, place

    stage = STAGES.get(module.spec.constants.get("stage", ""))
    if stage is None:
        raise ConfigError(f"{module.spec.module_ref}: constants.stage: one of {', '.join(STAGES)}")
    inputs = resolve(module.spec, value, lines, str(source))
    host = inputs["target"]["name"]
    contract = {"inputs_file": str(source), "inputs_digest": canonical.digest(inputs), "host": host}
    if action == "destroy":
        plan = {**place(stage), "purge": asked.purge}
        going = _player(module, source, inputs, {"plan": plan, "data": {}}, {})
        return Job(going, lambda answer: {}, contract, {"host": host, "purge_records": asked.purge})
    config = _checked(stage, inputs, lines, source)
    keys, missing = _trusted(inputs, states, lines, source)
    for ref in missing:
        tell(f"not installed yet, so not trusted yet: {ref}; apply this module again when it is")
    files = _files(inputs["files"], source, lines)
    if isinstance(config, DecisionConfig):
        refuse_unsafe(_policies(config, inputs), inputs["accepted_findings"], lines, source, asked.root, tell)
    release, archive = _release(asked.root, inputs.get("release"), source)
    wanted = _wanted(stage, inputs, files, keys, release)
    hidden = {name: file.data.decode(errors="replace") for name, file in wanted.files.items() if file.private}
    variables = {"plan": wanted.plan(), "data": wanted.data(), "archive": str(archive)}
    facts = {"host": host, "release": release.release_id, **({"not_trusted_yet": missing} if missing else {})}
    return Job(
        _player(module, source, inputs, variables, hidden),
        lambda answer: published(wanted, host, answer),
        contract,
        facts,
    )


def _player(
    module: Module, source: Path, inputs: Mapping[str, Any], variables: Mapping[str, Any], hidden: Mapping[str, str]
) -> Callable[[str, bool, tuple[int, ...]], Play]:
    from hyops.engine.redact import Redactor
    from hyops.ports.plays import Play, PlayHost

    target = inputs["target"]
    known, key = (source.parent / target[name] for name in ("known_hosts", "key_file"))
    _present(source, {"target.known_hosts": known, "target.key_file": key})
    host = PlayHost(target["name"], target["address"], target["port"], target["user"], key, known)
    redact = Redactor(hidden).text

    def play(action: str, check: bool, held: tuple[int, ...]) -> Play:
        return Play(module.pack, f"{action}.yml", host, variables, redact, check, module_utils(), held)

    return play


def module_utils() -> dict[str, bytes]:
    """What works on the host, as Ansible takes it along."""
    from importlib import import_module

    texts = {name: Path(import_module(module).__file__ or "").read_text() for name, module in SENT.items()}
    return {
        f"hyops_{name}.py": text.replace("from hyops.runner.", "from ansible.module_utils.hyops_").encode()
        for name, text in texts.items()
    }


def _checked(stage: StageHost, inputs: Mapping[str, Any], lines: Any, source: Path) -> StageConfig:
    """The configuration by its own type, with the lines of the inputs; the host's hyops looks at it once more."""
    from hyops.adapters.yaml_files import typed
    from hyops.errors import ConfigError
    from hyops.services import config, config_execution, config_requests

    kinds: dict[str, type[config.StageConfig]] = {
        "decision": config.DecisionConfig,
        "dispatch": config_requests.DispatchConfig,
        "approval": config_requests.ApprovalConfig,
        "execution": config_execution.ExecutionConfig,
    }
    given = inputs["config"]
    ours = {"api_version": "hybridops/v1", "kind": stage.config_kind, "signing_key": "/k", "trusted_keys": "/t"}
    if twice := sorted(given.keys() & ours.keys()):
        line = lines.get(("config", twice[0]), 1)
        raise ConfigError(f"{source}:{line}: config.{twice[0]}: it is set by the installation; leave it out")
    if "homes" in given:
        raise ConfigError(f"{source}:{lines.get(('config', 'homes'), 1)}: config.homes: an installed stage has its own")
    below = {where[1:]: line for where, line in lines.items() if where[:1] == ("config",)}
    return typed({**given, **ours}, below, kinds[stage.stage], source=str(source))


def _policies(config: DecisionConfig, inputs: Mapping[str, Any]) -> list[tuple[ServicePolicy, Where]]:
    """Each with its place in the inputs, where a single service may stand without a list."""
    alone = isinstance(inputs["config"]["protected"], dict)
    return [
        (one.policy, ("config", "protected", *(() if alone else (number,)), "policy"))
        for number, one in enumerate(config.protected)
    ]


def _trusted(
    inputs: Mapping[str, Any], states: StateStore, lines: Any, source: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries, each key once, and the state references that have none yet."""
    from hyops.errors import ConfigError, UsageError

    keys: dict[str, dict[str, Any]] = {str(one.get("public")): one for one in inputs["trusted_keys"]}
    missing = []
    for number, ref in enumerate(inputs["trust"]):
        try:
            kept = states.read(ref)
        except UsageError as exc:
            where = f"{source}:{lines.get(('trust', number), 1)}: trust.{number}"
            raise ConfigError(f"{where}: {exc.message}", hint="it is <module_ref>, or <module_ref>#<instance>") from exc
        key = kept.state.outputs.get("signing_key") if kept is not None and kept.state.status == "ok" else None
        if isinstance(key, dict):
            keys.setdefault(str(key.get("public")), key)
        else:
            missing.append(ref)
    return list(keys.values()), missing


def _files(given: Mapping[str, Any], source: Path, lines: Any) -> dict[str, StageFile]:
    import re

    from hyops.errors import ConfigError
    from hyops.services.stage_plan import OURS, StageFile

    found = {}
    for name, entry in given.items():
        where = f"{source}:{lines.get(('files', name), 1)}: files.{name}"
        if re.fullmatch(NAME, name) is None or name in OURS:
            raise ConfigError(f"{where}: a plain name is needed, and none of {', '.join(OURS)}")
        path = source.parent / entry["from"]
        try:
            if not path.is_file() or path.stat().st_size > FILE_MAX:
                raise ConfigError(f"{where}.from: {path}: not a file of at most {FILE_MAX} bytes")
            if entry["private"] and path.stat().st_mode & 0o077:
                raise ConfigError(f"{where}.from: {path}: others may read this secret", hint=f"chmod 600 {path}")
            found[name] = StageFile(path.read_bytes(), entry["private"])
        except OSError as exc:
            raise ConfigError(f"{where}.from: {path}: {exc.strerror}") from exc
    return found


def _present(source: Path, paths: Mapping[str, Path]) -> None:
    from hyops.errors import PrerequisiteError

    for key, path in paths.items():
        try:
            there = path.is_file()
        except OSError as exc:
            raise PrerequisiteError(f"{source}: {key}: {path}: {exc.strerror}", hint="name another") from exc
        if not there:
            raise PrerequisiteError(f"{source}: {key}: {path}: no such file", hint="make it, or name another")


def _wanted(
    stage: StageHost, inputs: Mapping[str, Any], files: Any, keys: list[dict[str, Any]], release: ReleaseWanted
) -> StageWanted:
    from hyops.services.stage_plan import StageWanted

    return StageWanted(
        stage,
        inputs["config"],
        files,
        keys,
        release,
        inputs["memory_max_mb"],
        inputs["tasks_max"],
        tuple(inputs["write_paths"]),
    )


def _release(root: Path, given: Any, source: Path) -> tuple[ReleaseWanted, Path]:
    """The hyops to install, and the file that holds it."""
    from hyops.adapters.release_archive import archived, kept
    from hyops.adapters.release_files import python_here, running
    from hyops.services.stage_plan import ReleaseWanted

    if given is not None:
        path = source.parent / given["archive"]
        size, packed = archived(path, given["sha256"])
        return ReleaseWanted(f"archive-{given['sha256'][:16]}", size, packed, given["sha256"], None), path
    release = running(catalog=True)
    path, packed, sha256 = kept(release, root / "work" / "releases")
    return ReleaseWanted(release.release_id, release.size, packed, sha256, python_here()), path
