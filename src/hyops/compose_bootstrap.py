"""What `hyops runner bootstrap` works with: the executor's own entry, a person's login, this very release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyops.services.bootstrap import Bootstrap
    from hyops.services.config_execution import RunnerLogin

FILE_MAX = 4 * 1024 * 1024


def bootstrap(
    runner_ref: str,
    *,
    config_file: Path,
    folder: Path,
    admin: str,
    admin_key: Path,
    only_this_key: bool,
    place: dict[str, Any],
    tell: Callable[[str], None],
) -> tuple[Bootstrap, RunnerLogin]:
    """One host, and how the executor reaches it. `place` says that where the executor has no entry for it yet.

    Raises:
        ConfigError, PrerequisiteError: a file is missing or wrong; names it.
    """
    from dataclasses import replace

    from hyops.adapters.admin_ssh import SshAdmin
    from hyops.adapters.key_public import public_of
    from hyops.adapters.release_files import python_here, running
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.compose_pki import runner_target
    from hyops.compose_transport import executor_config, transport_of
    from hyops.errors import UsageError
    from hyops.ports.transport import RunnerHello
    from hyops.services import bootstrap as service

    config = executor_config(config_file)
    login = _login(config, runner_ref, place, str(config_file))
    config = config.model_copy(update={"runners": {**config.runners, runner_ref: login}})
    if only_this_key and login.certificate is not None:
        raise UsageError(
            f"{runner_ref} lets the dispatcher in by a certificate: no key stands there, so leave --only-this-key out",
            hint="a stolen key is taken back with `hyops pki revoke`",
        )
    entrance = None if login.certificate is not None else public_of(Path(login.key_file))
    ours = service.executors(_read(Path(config.trusted_keys)), config.trusted_keys)
    want = replace(service.wanted(runner_ref, folder, files_of(folder), ours, entrance), only_this_key=only_this_key)
    target = replace(runner_target(runner_ref, login, config.bastions), user=admin, key_file=admin_key, identity=None)
    transport = transport_of(config, TrustedVerifier.load(Path(config.trusted_keys)))

    async def dial() -> RunnerHello:
        async with transport.connect(runner_ref) as session:
            return await session.hello()

    login_there = SshAdmin(runner_ref, target)
    return service.Bootstrap(want, login_there, running(), python_here(), setup_text(), dial, tell), login


def setup_text() -> bytes:
    """`hyops.runner.setup` and the one module that it takes from here, as a program for a host without hyops."""
    from hyops.runner import setup, setup_files

    name = setup_files.__name__
    held, main = (Path(module.__file__ or "").read_text() for module in (setup_files, setup))
    return (
        f"import sys, types\nsys.modules[{name!r}] = types.ModuleType({name!r})\n"
        f"exec(compile({held!r}, {name!r}, 'exec'), sys.modules[{name!r}].__dict__)\n"
        f"exec(compile({main!r}, {setup.__name__!r}, 'exec'))\n"
    ).encode()


def files_of(folder: Path) -> dict[str, Any]:
    """What lies in the folder; closed to others here, it is closed to others there.

    Raises:
        ConfigError: not a folder, or something in it is no plain file that can be read.
    """
    from hyops.errors import ConfigError
    from hyops.services.bootstrap import RunnerFile

    try:
        entries = sorted(folder.iterdir())
    except OSError as exc:
        raise ConfigError(f"{folder}: {exc.strerror}", hint="name the folder of the runner's files") from exc
    found = {}
    for path in entries:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_MAX:
            raise ConfigError(f"{path}: not a plain file of at most {FILE_MAX} bytes", hint="take it out of the folder")
        found[path.name] = RunnerFile(path.name, _read(path), path.stat().st_mode & 0o077 == 0)
    return found


def signing_key(runner_config: Path) -> dict[str, Any]:
    """On a runner: the entry of its signing key for `trusted_keys.json`."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer
    from hyops.compose_runner import runner_job
    from hyops.runner.config import RunnerConfig

    config = RunnerConfig.load(runner_config)
    runner_job(config)  # every file that a job needs is looked at, too
    signer = Ed25519Signer.load(config.signing_key)
    return signer.trusted(f"runner:{config.runner_ref}", name=config.runner_ref).body()


def _login(config: Any, runner_ref: str, place: dict[str, Any], source: str) -> RunnerLogin:
    from hyops.errors import UsageError
    from hyops.services.config_execution import RunnerLogin
    from hyops.services.runner_files import USER

    given = {key: value for key, value in place.items() if value is not None}
    if (known := config.runners.get(runner_ref)) is not None:
        entry: RunnerLogin = known
        if other := sorted(key for key, value in given.items() if getattr(entry, key) != value):
            raise UsageError(
                f"{source}: runners.{runner_ref}: it has another {', '.join(other)}; leave the options out"
            )
        if entry.user != USER:
            raise UsageError(f"{source}: runners.{runner_ref}.user: the runner's user is {USER}, not {entry.user}")
        return entry
    if lacking := sorted({"address", "key_file", "known_hosts"} - given.keys()):
        raise UsageError(f"{source} has no runner {runner_ref}: name {', '.join(lacking)} of it by options")
    return RunnerLogin.of({"user": USER, **given}, source="options")


def _read(path: Path) -> bytes:
    from hyops.errors import ConfigError

    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
