"""The modules of a catalogue on disk: found by reference, read strictly, faults with file, line and key (MOD-1)."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyops.adapters.yaml_files import read_yaml
from hyops.errors import ConfigError, HyopsError
from hyops.model import canonical
from hyops.model.module_spec import DriverProfile, ModuleSpec

SPEC = "spec.yml"
PACK_FILES_MAX = 1000


@dataclass(frozen=True)
class Module:
    """A spec with the profile and the pack that it names; `pack_digest` is of all files of the pack."""

    spec: ModuleSpec
    profile: DriverProfile
    pack: Path
    pack_digest: str


def module_of(roots: Sequence[Path], ref: str) -> Module:
    """The module of a reference; the first root that has it wins.

    Raises:
        ConfigError: there is none (with the nearest one), or a file of it is wrong.
    """
    found = _root_of(roots, ref)
    if found is None:
        near = difflib.get_close_matches(ref, [known for root in roots for known in _refs(root)], n=1)
        raise ConfigError(
            f"no module {ref[:200]!r} in the catalogue" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint="name a folder below `catalog/modules` that has a spec.yml",
        )
    spec, path = _spec(found, ref)
    if spec.profile is None or spec.pack is None:
        raise ConfigError(
            f"{ref} is run by a runner and not applied from here: a route leads to it, with target_kind: module",
            hint="or give it to a blueprint as a step",
        )
    where = found / "profiles" / spec.driver / f"{spec.profile}.yml"
    if not where.is_file():
        raise ConfigError(f"{path}: profile: there is no {where}")
    profile = read_yaml(where, DriverProfile)
    if (profile.profile_ref, profile.driver) != (spec.profile, spec.driver):
        raise ConfigError(f"{where}: profile_ref, driver: they are {profile.profile_ref!r} of {profile.driver!r}")
    pack = found / "packs" / spec.driver / spec.pack
    if not pack.is_dir():
        raise ConfigError(f"{path}: pack: there is no folder {pack}")
    return Module(spec, profile, pack, _digest(pack))


def runner_module(roots: Sequence[Path], ref: str) -> ModuleSpec:
    """The spec of a module that a runner runs by itself; the first root that has it wins.

    Raises:
        ConfigError: there is none (with those that there are), a person applies it, or its file is wrong.
        PrerequisiteError: its file cannot be read.
    """
    found = _root_of(roots, ref)
    if found is None:
        there = ", ".join(_run_by_runners(roots)) or "none"
        raise ConfigError(f"no module {ref[:200]!r} in the catalogue; those that a runner runs by themselves: {there}")
    spec, _ = _spec(found, ref)
    if spec.step is None:
        raise ConfigError(
            f"no runner runs {ref}, which is done by {spec.driver}: a person applies it, with "
            f"`hyops apply --module {ref}`",
            hint="route to a blueprint, or to a module that a runner runs",
        )
    return spec


def _run_by_runners(roots: Sequence[Path]) -> list[str]:
    """For an error: a spec that is wrong itself is left out."""
    found = set()
    for root in roots:
        for ref in _refs(root):
            with contextlib.suppress(HyopsError):
                if _spec(root, ref)[0].step is not None:
                    found.add(ref)
    return sorted(found)


def _root_of(roots: Sequence[Path], ref: str) -> Path | None:
    return next((root for root in roots if ref in _refs(root)), None)


def _spec(root: Path, ref: str) -> tuple[ModuleSpec, Path]:
    path = root / "modules" / ref / SPEC
    spec = read_yaml(path, ModuleSpec)
    if spec.module_ref != ref:
        raise ConfigError(f"{path}: module_ref: it is {spec.module_ref!r}, and its folder says {ref!r}")
    return spec, path


def _refs(root: Path) -> set[str]:
    folder = root / "modules"
    return {path.parent.relative_to(folder).as_posix() for path in folder.rglob(SPEC)}


def _digest(pack: Path) -> str:
    files = sorted(path for path in pack.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    if len(files) > PACK_FILES_MAX:
        raise ConfigError(f"{pack}: more than {PACK_FILES_MAX} files")
    told = {path.relative_to(pack).as_posix(): canonical.digest_bytes(path.read_bytes()) for path in files}
    return canonical.digest(told)
