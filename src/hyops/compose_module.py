"""Modules that are applied from here: catalogue, inputs, driver, state and lock (LOOP-4, MOD-1, MOD-2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyops.adapters.module_files import Module
    from hyops.ports.plays import PlayDriver
    from hyops.services.module_desk import ModuleDesk

DRIVERS = {"config/ansible": "hyops.adapters.driver_ansible:AnsibleDriver"}
ENTRY_POINTS = "hyops.drivers"
"""Drivers of other packages, by entry point: name = `tool/name`, value = a class that takes a `DriverProfile`."""


@dataclass(frozen=True)
class Asked:
    """What a person asked for; `inputs` None: those of the environment, else of the last time."""

    root: Path
    env: str
    module_ref: str
    instance: str | None = None
    inputs: Path | None = None
    purge: bool = False

    @property
    def state_ref(self) -> str:
        """`<module_ref>[#<instance>]`."""
        return self.module_ref + (f"#{self.instance}" if self.instance else "")


def module_desk(asked: Asked, action: str, tell: Callable[[str], None]) -> ModuleDesk:
    """One module on one host.

    Raises:
        ConfigError: the module, its inputs or a file that they name is wrong; PrerequisiteError: one is missing.
    """
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.module_files import module_of
    from hyops.adapters.states_files import FileStates
    from hyops.compose_stage import stage_job
    from hyops.engine.catalog import default_roots
    from hyops.model import ids
    from hyops.model.module_state import state_path
    from hyops.services.module_desk import ModuleDesk
    from hyops.services.module_state import ModuleBook

    state_path(asked.state_ref)
    module = module_of(default_roots(), asked.module_ref)
    states, clock = FileStates(asked.root), SystemClock()
    source, value, lines = _inputs(asked, states)
    job = stage_job(asked, module, action, source, value, lines, states, tell)
    run_id = ids.derived(action, clock.now(), f"{asked.state_ref} {job.contract['inputs_digest']}")
    return ModuleDesk(
        spec=module.spec,
        driver=driver_of(module),
        book=ModuleBook(states, clock, asked.state_ref, run_id),
        play=job.play,
        published=job.published,
        lock=lambda: _lock(asked, action),
        contract=job.contract,
        facts={
            "env": asked.env,
            "driver": module.spec.driver,
            "profile": module.spec.profile,
            "pack": module.spec.pack,
            "pack_digest": module.pack_digest,
            **job.facts,
        },
        tell=tell,
    )


def driver_of(module: Module) -> PlayDriver:
    """The driver that the spec names: ours, or one that another package brings by an entry point.

    Raises:
        ConfigError: there is none of this name.
    """
    from importlib import import_module
    from importlib.metadata import entry_points

    from hyops.errors import ConfigError, foreign

    name = module.spec.driver
    if name in DRIVERS:
        where, _, attribute = DRIVERS[name].partition(":")
        found: PlayDriver = getattr(import_module(where), attribute)(module.profile)
        return found
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        with foreign():
            theirs: PlayDriver = entry.load()(module.profile)
        return theirs
    known = sorted([*DRIVERS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))])
    raise ConfigError(f"{module.spec.module_ref}: driver: there is no {name!r}; there are: {', '.join(known)}")


def _lock(asked: Asked, action: str) -> Any:
    """One process at a time works on a module; whatever it starts holds the lock on."""
    from hyops.adapters.owned_lock import owned_lock
    from hyops.ownership import make_folder

    folder = asked.root / "work" / "modules"
    make_folder(folder, 0o700)
    name = asked.state_ref.replace("/", "__").replace("#", "--")
    return owned_lock(folder / f"{name}.lock", f"hyops {action} --module {asked.state_ref}", wait_s=0.5)


def _inputs(asked: Asked, states: Any) -> tuple[Path, Any, Any]:
    """The file with the inputs, its value and the lines of its keys."""
    from hyops.adapters.yaml_files import with_lines
    from hyops.errors import ConfigError, PrerequisiteError
    from hyops.model.module_state import state_path

    source = asked.inputs
    if source is None:
        module_id = state_path(asked.module_ref)[0].split("/")[2]
        source = asked.root / "config" / "modules" / module_id / f"{asked.instance or 'latest'}.inputs.yml"
        kept = states.read(asked.state_ref)
        if not source.exists() and kept is not None and kept.state.input_contract.get("inputs_file"):
            source = Path(str(kept.state.input_contract["inputs_file"]))
    try:
        data = source.read_bytes()
    except FileNotFoundError as exc:
        raise PrerequisiteError(f"{source}: no such file", hint="name the inputs with --inputs") from exc
    except OSError as exc:
        raise ConfigError(f"{source}: {exc.strerror}", hint="name a readable file with --inputs") from exc
    return (source.absolute(), *with_lines(data, source=str(source)))
