"""Which standing runner a dispatch goes to: one that was written down for it, never one that is guessed (RUN-2).

A runner's state record says that it was made once; whether it stands now is asked of the runner itself.
"""

from __future__ import annotations

from collections.abc import Collection

from hyops.errors import ConfigError, PrerequisiteError, UnsafePlanError, UsageError
from hyops.model.module_state import ModuleState
from hyops.model.runners import RunnerMap, RunnerPlace
from hyops.model.vocabulary import DecisionType, TargetCloud

READY = "cap.ctrl.runner"


def selected(
    runners: RunnerMap,
    cloud: TargetCloud,
    kind: DecisionType,
    *,
    named: str | None = None,
    lost: Collection[str] = (),
    source: str = "runners.yml",
) -> tuple[str, RunnerPlace]:
    """The runner that is written down for this kind of move to this target, and where it is.

    `named`: what was asked for, which must be that one. `lost`: the sites that failed.

    Raises:
        ConfigError: nothing is written down. UnsafePlanError: another one was asked for.
        PrerequisiteError: its site may not run this.
    """
    key = f"{cloud}/{kind}"
    mapped = runners.mapping.get(key)
    if mapped is None:
        raise ConfigError(
            f"{source}: mapping.{key}: absent", hint=f"write there which runner a {kind} to {cloud} goes to"
        )
    if named is not None and named != mapped:
        raise UnsafePlanError(
            f"runner {named} was asked for, and {source}: mapping.{key} says {mapped}",
            hint="ask for that one, or change the mapping, which is the environment's to decide",
        )
    return mapped, placed(mapped, kind, runners, lost)


def placed(ref: str, kind: DecisionType, runners: RunnerMap, lost: Collection[str]) -> RunnerPlace:
    """Where a runner is, when its site may run this.

    Raises:
        PrerequisiteError: nobody wrote it down, it is off the on-prem plane, or in or behind a lost site.
    """
    place = runners.runners.get(ref)
    if place is None:
        raise PrerequisiteError(f"runner {ref}: nobody wrote down where it is", hint="add it to runners.yml")
    if kind is DecisionType.FAILBACK and place.site not in runners.onprem_sites:
        raise PrerequisiteError(
            f"runner {ref} is in {place.site}: failback runs on the on-prem plane alone",
            hint=f"route failback to a runner in {', '.join(runners.onprem_sites)}",
        )
    if kind is DecisionType.FAILOVER:
        _outside(ref, place, lost)
    return place


def _outside(ref: str, place: RunnerPlace, lost: Collection[str]) -> None:
    if within := sorted({place.site, *place.reached_through} & set(lost)):
        raise PrerequisiteError(
            f"runner {ref} is in, or reached through, {', '.join(within)}, which failed",
            hint="route this failover to a runner in another site",
        )


def runner_of_state(state: ModuleState, vm_key: str | None, source: str) -> str:
    """The runner that a state record tells of.

    Raises:
        PrerequisiteError: it is not ok, or no ready runner. UsageError: it tells of several, or not of that one.
    """
    if state.status != "ok":
        raise PrerequisiteError(
            f"{source}: status is {state.status}, not ok", hint="bring the runner up first; its module's run says why"
        )
    if (ready := state.outputs.get(READY)) != "ready":
        raise PrerequisiteError(f"{source}: {READY} is {ready!r}, not 'ready': it is the state of no runner")
    several = state.outputs.get("runners")
    if not isinstance(several, dict):
        if vm_key is not None:
            raise UsageError(f"--runner-vm-key {vm_key!r}: {source} tells of one runner only")
        return _ref(state.outputs.get("runner_ref"), f"{source}: outputs.runner_ref")
    if vm_key is None or vm_key not in several:
        raise UsageError(f"--runner-vm-key {vm_key!r}: {source} has {', '.join(sorted(several)) or 'none'}")
    return _ref(several[vm_key], f"{source}: outputs.runners.{vm_key}")


def never_made(state: ModuleState | None, source: str) -> str | None:
    """Why a record proves that a runner does not stand; None when it proves nothing.

    Args:
        state: what its making leaves behind, None where nothing lies. One of any other status may stand: a making
            that failed, or whose end nobody saw, left something there.
        source: where the record lies.
    """
    if state is None:
        return f"there is no {source}, which its making leaves behind"
    return f"{source} says that it was destroyed" if state.status == "destroyed" else None


def _ref(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise PrerequisiteError(f"{where}: not a runner's name", hint="deploy the runner's module again")
    return value
