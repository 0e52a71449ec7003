"""`config/secrets/secrets.yml`: where an environment's secrets come from, and what opens its vault cache (SEC-1).

It names files and commands, never a value. Paths without a leading slash start at the runtime root.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hyops.model.base import Part

PathText = Annotated[str, Field(min_length=1, max_length=512)]
Url = Annotated[str, Field(pattern=r"^https://[^\s?#@]+$", max_length=512)]
Short = Annotated[str, Field(pattern=r"^\S{1,256}$")]
Mount = Annotated[str, Field(pattern=r"^[^\s/?#][^\s?#]*[^\s/?#]$|^[^\s/?#]$", max_length=256)]
LimitS = Annotated[float, Field(gt=0, le=300)]


def _one_of(part: Part, names: tuple[str, ...]) -> None:
    if sum(getattr(part, name) is not None for name in names) != 1:
        raise ValueError(f"exactly one of {', '.join(names)} is needed")


class PasswordSource(Part):
    """Where the vault password comes from: exactly one of the three."""

    file: PathText | None = None
    command: Annotated[list[PathText], Field(min_length=1, max_length=32)] | None = None
    keyring: Short | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _one_of(self, ("file", "command", "keyring"))
        return self


class AppRole(Part):
    """Login to Vault with a role and a secret id."""

    role_id: Short
    secret_id_file: PathText | None = None
    mount: Mount = "approle"


class Jwt(Part):
    """Login to Vault with a token that a platform signed."""

    role: Short
    jwt_file: PathText
    mount: Mount = "jwt"


class VaultConfig(Part):
    """HashiCorp Vault or OpenBao. `mounts` lists those of kv version 1, or with a slash in their name."""

    address: Url
    namespace: Short | None = None
    token_file: PathText | None = None
    approle: AppRole | None = None
    jwt: Jwt | None = None
    mounts: dict[Mount, Literal[1, 2]] = Field(default_factory=dict)
    ca_file: PathText | None = None
    limit_s: LimitS = 15.0

    @model_validator(mode="after")
    def _one(self) -> Self:
        _one_of(self, ("token_file", "approle", "jwt"))
        return self


class GsmConfig(Part):
    """Google Secret Manager. Without a file, the identity of the virtual machine."""

    project: Annotated[str, Field(pattern=r"^[a-z0-9:.-]{1,64}$")]
    service_account_file: PathText | None = None
    token_file: PathText | None = None
    url: Url | None = None
    ca_file: PathText | None = None
    limit_s: LimitS = 15.0


class AsmConfig(Part):
    """AWS Secrets Manager; credentials are found as the AWS tools find them."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    profile: Short | None = None
    url: Url | None = None
    ca_file: PathText | None = None
    limit_s: LimitS = 15.0


class Application(Part):
    """An application's own login to Azure."""

    tenant: Short
    client_id: Short
    secret_file: PathText | None = None
    federated_token_file: PathText | None = None
    url: Url = "https://login.microsoftonline.com"

    @model_validator(mode="after")
    def _one(self) -> Self:
        _one_of(self, ("secret_file", "federated_token_file"))
        return self


class AkvConfig(Part):
    """Azure Key Vault. Without a login, the identity of the virtual machine."""

    url: Url
    application: Application | None = None
    token_file: PathText | None = None
    identity_client_id: Short | None = None
    ca_file: PathText | None = None
    limit_s: LimitS = 15.0


class SecretsConfig(Part):
    """The file. Each authority that is used has its section."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["Secrets"]
    password: PasswordSource | None = None
    vault: VaultConfig | None = None
    gsm: GsmConfig | None = None
    asm: AsmConfig | None = None
    akv: AkvConfig | None = None
