"""What `hyops secrets` works on (see `compose`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyops.adapters.sealer_hpke import SealKey
    from hyops.model.sealed import Sealed
    from hyops.model.secret import Secret
    from hyops.model.secrets import SecretsConfig
    from hyops.ports.authority import Authority
    from hyops.services.secrets import Secrets


def secrets_of(root: Path, password_file: Path | None = None, password_command: str | None = None) -> Secrets:
    """An environment's vault cache; a password named on the command line beats the configured one."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.secret_cache_ansible_vault import AnsibleVaultCache
    from hyops.services.secrets import Secrets

    def password() -> bytes:
        return _vault_password(root, password_file, password_command)

    return Secrets(AnsibleVaultCache(root / "vault" / "bootstrap.vault.env", password), SystemClock())


def _vault_password(root: Path, file: Path | None, command: str | None) -> bytes:
    import shlex

    from hyops.adapters import vault_password
    from hyops.errors import ConfigError
    from hyops.model.secrets import PasswordSource

    if file is not None:
        return vault_password.from_file(file)
    if command is not None:
        source: PasswordSource | None = PasswordSource(command=shlex.split(command))
    else:
        source = _secrets_config(root).password
    if source is None:
        raise ConfigError(
            f"{secrets_file(root)}: password: absent",
            hint="name a file, a command or a keyring there, or pass --vault-password-file",
        )
    if source.command is not None:
        return vault_password.from_command(source.command)
    if source.keyring is not None:
        return vault_password.from_keyring(source.keyring)
    return vault_password.from_file(root / str(source.file))


def secrets_file(root: Path) -> Path:
    """Where an environment says where its secrets come from."""
    return root / "config" / "secrets" / "secrets.yml"


def secret_map(root: Path, authority: str, map_file: Path | None) -> tuple[Path, bytes]:
    """The CSV map of an authority: the one that is named, or the environment's."""
    from hyops.errors import PrerequisiteError

    path = map_file if map_file is not None else root / "config" / "secrets" / authority / "allowed.csv"
    try:
        return path, path.read_bytes()
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint="write scope,ENV_KEY,REF there, or --map-file") from exc


def secret_authority(root: Path, name: str) -> Authority:
    """An authority, from its section of the configuration."""
    from hyops.errors import ConfigError

    section = getattr(_secrets_config(root), name)
    if section is None:
        raise ConfigError(f"{secrets_file(root)}: {name}: absent", hint=f"say there how {name} is reached")
    make = {"vault": _vault, "gsm": _gsm, "asm": _asm, "akv": _akv}[name]
    return make(section, lambda text: None if text is None else root / str(text))


def _secrets_config(root: Path) -> SecretsConfig:
    from hyops.adapters.yaml_files import read_yaml
    from hyops.model.secrets import SecretsConfig

    return read_yaml(secrets_file(root), SecretsConfig)


def _vault(section: Any, at: Callable[[Any], Any]) -> Authority:
    from hyops.adapters.authority_vault import AppRoleLogin, JwtLogin, TokenLogin, VaultAuthority

    login: TokenLogin | AppRoleLogin | JwtLogin
    if section.approle is not None:
        login = AppRoleLogin(section.approle.role_id, at(section.approle.secret_id_file), section.approle.mount)
    elif section.jwt is not None:
        login = JwtLogin(section.jwt.role, at(section.jwt.jwt_file), section.jwt.mount)
    else:
        login = TokenLogin(at(section.token_file))
    return VaultAuthority(
        section.address, login, section.namespace, section.mounts, at(section.ca_file), section.limit_s
    )


def _gsm(section: Any, at: Callable[[Any], Any]) -> Authority:
    from hyops.adapters.authority_gsm import GsmAuthority, MetadataServer, ServiceAccount
    from hyops.adapters.authority_http import TokenFile
    from hyops.adapters.clock_system import SystemClock

    login: TokenFile | ServiceAccount | MetadataServer = MetadataServer()
    if section.service_account_file is not None:
        login = ServiceAccount(at(section.service_account_file))
    elif section.token_file is not None:
        login = TokenFile(at(section.token_file))
    more = {} if section.url is None else {"url": section.url}
    return GsmAuthority(
        section.project, login, SystemClock(), ca_file=at(section.ca_file), limit_s=section.limit_s, **more
    )


def _asm(section: Any, at: Callable[[Any], Any]) -> Authority:
    from hyops.adapters.authority_asm import AsmAuthority

    return AsmAuthority(section.region, section.profile, section.url, at(section.ca_file), section.limit_s)


def _akv(section: Any, at: Callable[[Any], Any]) -> Authority:
    from hyops.adapters.authority_akv import AkvAuthority, Application, ManagedIdentity
    from hyops.adapters.authority_http import TokenFile

    login: TokenFile | Application | ManagedIdentity = ManagedIdentity(section.identity_client_id)
    if section.application is not None:
        app = section.application
        files = at(app.secret_file), at(app.federated_token_file)
        login = Application(app.tenant, app.client_id, *files, app.url)
    elif section.token_file is not None:
        login = TokenFile(at(section.token_file))
    return AkvAuthority(section.url, login, at(section.ca_file), section.limit_s)


def seal_key(path: Path, *, create: bool) -> SealKey:
    """A runner's own key."""
    from hyops.adapters.sealer_hpke import SealKey

    return SealKey.create(path) if create else SealKey.load(path)


def sealed_for(values: Mapping[str, Secret], public: Path, *, env: str, runner_ref: str, valid_s: float) -> Sealed:
    """Values that only the runner with that key can read."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.sealer_hpke import public_key, seal
    from hyops.errors import PrerequisiteError

    try:
        key = public_key(public.read_text(encoding="ascii", errors="replace"))
    except OSError as exc:
        raise PrerequisiteError(f"{public}: {exc.strerror}") from exc
    return seal(values, key, env=env, runner_ref=runner_ref, at=SystemClock().now(), valid_s=valid_s)


def unsealed(sealed_file: Path, key_file: Path, *, env: str, runner_ref: str) -> dict[str, Secret]:
    """The values of a sealed file, on the runner that it is for."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.errors import PrerequisiteError
    from hyops.model.sealed import Sealed

    try:
        data = sealed_file.read_bytes()
    except OSError as exc:
        raise PrerequisiteError(f"{sealed_file}: {exc.strerror}") from exc
    sealed = Sealed.read(data, source=str(sealed_file))
    return seal_key(key_file, create=False).open(sealed, env=env, runner_ref=runner_ref, now=SystemClock().now())
