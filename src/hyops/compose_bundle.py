"""How a plan's files are found: in the runtime root of the environment that a stage is configured for (RUN-1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hyops.model.plan import Plan, Step
from hyops.ports.bundle import BundleFile
from hyops.services.execution_parts import Bundles


class Rooted(Protocol):
    """A configuration that may name runtime roots."""

    runtime_root: str | None
    shared_root: str | None


def digests_of(config: Rooted) -> Callable[[Sequence[Step]], Mapping[str, str]]:
    """What the steps of a plan name, as it goes into the plan: digest by name."""
    found = _files_of(config)
    return lambda steps: {name: file.digest for name, file in found(steps).items()}


def bundles_of(config: Rooted) -> Bundles:
    """What the executor ships: the files of an approved plan, refused when they are other ones by now."""
    from hyops.engine.bundling import refuse_changed

    found = _files_of(config)

    def files(plan: Plan) -> Mapping[str, BundleFile]:
        now = found(plan.steps)
        refuse_changed(plan.bundle, {name: file.digest for name, file in now.items()})
        return now

    return Bundles(files=files)


def _files_of(config: Rooted) -> Callable[[Sequence[Step]], Mapping[str, BundleFile]]:
    from hyops.adapters.bundle_files import FileBundles
    from hyops.engine.bundling import named_by
    from hyops.errors import ConfigError

    shared = Path(config.shared_root) if config.shared_root else None
    reader = FileBundles(Path(config.runtime_root), shared) if config.runtime_root else None

    def files(steps: Sequence[Step]) -> Mapping[str, BundleFile]:
        wanted = named_by(steps)
        if wanted and reader is None:
            raise ConfigError(
                f"{wanted[0].where}: names {wanted[0].name}, but no runtime_root is configured",
                hint="set runtime_root in the configuration of this stage",
            )
        return reader.files(wanted) if reader else {}

    return files
