"""What `hyops import` works on (see `compose`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.control.foreign.document import Foreign
    from hyops.services.importing import Imported


def imported_decision(file: Path, service: str | None) -> Imported:
    """A foreign decision record."""
    from hyops.services.importing import import_decision

    return import_decision(_foreign(file), service=service)


def imported_routes(file: Path, env: str | None, runners: Mapping[str, str]) -> Imported:
    """The routes of a foreign dispatcher."""
    from hyops.services.importing import import_routes

    return import_routes(_foreign(file), env=env, runners=runners, not_run=_not_run)


def imported_state(file: Path) -> Imported:
    """The state of a foreign module."""
    from hyops.services.importing import import_state

    return import_state(_foreign(file))


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        PrerequisiteError: something is there already, or it cannot be written.
    """
    import secrets

    from hyops.adapters import store_files
    from hyops.errors import PrerequisiteError

    pending = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            store_files.write_new(pending, data, 0o640)
            path.hardlink_to(pending)
        finally:
            pending.unlink(missing_ok=True)
        store_files.sync_directory(path.parent)
    except FileExistsError as exc:
        raise PrerequisiteError(f"{path}: is there already, and stays as it is", hint="name another file") from exc
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint="name a file in a folder that is there") from exc


def _not_run(module_ref: str) -> str | None:
    from hyops.compose_loop import lone_module
    from hyops.engine.catalog import default_roots
    from hyops.errors import ConfigError, UnsafePlanError

    try:
        lone_module(default_roots(), module_ref)
    except (ConfigError, UnsafePlanError) as exc:
        return exc.message
    return None


def _foreign(file: Path) -> Foreign:
    from hyops.adapters.yaml_files import with_lines
    from hyops.control.foreign.document import Foreign
    from hyops.errors import PrerequisiteError

    try:
        data = file.read_bytes()
    except OSError as exc:
        raise PrerequisiteError(f"{file}: {exc.strerror}") from exc
    return Foreign.of(str(file), *with_lines(data, source=str(file)))
