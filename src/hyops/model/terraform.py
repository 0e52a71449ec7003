"""Terraform's own credentials file and the environment variables made of it (RUN-10).

Source: Terraform CLI configuration, "Credentials": `{"credentials": {host: {"token": ...}}}`, and "Environment Variable
Credentials": `TF_TOKEN_` and the host, with dots as `_` and hyphens as `__`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.base import Part

DEFAULT_HOST = "app.terraform.io"
FILE = "credentials.tfrc.json"
VARIABLE = "TF_TOKEN_"
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def checked_host(host: str) -> str:
    """The host name in lower case; ValueError for anything that Terraform could not name in a variable."""
    name = host.lower()
    if ":" in name:
        raise ValueError(f"host {host[:253]!r}: a port has no place in Terraform's variable; name the host alone")
    if len(name) > 253 or "." not in name or not all(LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"host {host[:253]!r}: not a full host name in ASCII (write `xn--...` for others)")
    return name


Host = Annotated[str, AfterValidator(checked_host)]
Token = Annotated[str, Field(pattern=r"^[!-~]{8,4096}$", repr=False)]


class HostCredentials(Part):
    """The token of one host."""

    token: Token


class TerraformCredentials(Part):
    """`credentials.tfrc.json`; what else Terraform would read there is refused, so that nothing is lost in silence."""

    credentials: dict[Host, HostCredentials] = Field(default_factory=dict, max_length=100)

    def with_token(self, host: str, token: str) -> TerraformCredentials:
        """The same with this host's token, old or new; all others are kept."""
        others = {name: entry.body() for name, entry in self.credentials.items()}
        return TerraformCredentials.of({"credentials": {**others, checked_host(host): {"token": token}}}, source=FILE)


def variable_of(host: str) -> str:
    """`app.terraform.io` -> `TF_TOKEN_app_terraform_io`; a hyphen becomes `__`."""
    return VARIABLE + checked_host(host).replace("-", "__").replace(".", "_")


def project(known: TerraformCredentials, hosts: Iterable[str]) -> dict[str, str]:
    """The secrets that a job gets as environment variables: the tokens of the hosts that it names, and no other's.

    Raises:
        ConfigError: not a host name. PrerequisiteError: no token is stored for a host.
    """
    found: dict[str, str] = {}
    for host in hosts:
        try:
            name = checked_host(host)
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        entry = known.credentials.get(name)
        if entry is None:
            raise PrerequisiteError(
                f"no token for {name} is stored in this root", hint=f"hyops init terraform-cloud --host {name}"
            )
        found[variable_of(name)] = entry.token
    return found
