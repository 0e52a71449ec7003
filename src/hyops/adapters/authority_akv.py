"""Azure Key Vault as authority, over its REST API (SEC-1).

A ref is `NAME` or `NAME@VERSION`. Source: Key Vault REST reference 7.4, "Get Secret", "Authentication, requests and
responses"; Microsoft identity platform, "OAuth 2.0 client credentials flow"; "How to use managed identities on a VM".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hyops.adapters.authority_http import (
    MISSING_WHY,
    AuthorityClient,
    Reply,
    TokenFile,
    TroubleError,
    access_token,
    credential,
    error_of,
    failed,
    read_as_bearer,
    token_of,
)
from hyops.errors import ConfigError
from hyops.model.secret import Secret
from hyops.ports.authority import Answer, Fetched, Trouble

REF = re.compile(r"(?P<name>[0-9A-Za-z-]{1,127})(?:@(?P<version>[0-9a-f]{32}))?")
API = "7.4"
RESOURCE = "https://vault.azure.net"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Application:
    """An application's own login: a secret, or a federated token of a platform that Azure trusts."""

    tenant: str
    client_id: str
    secret_file: Path | None = None
    federated_token_file: Path | None = None
    url: str = "https://login.microsoftonline.com"


@dataclass(frozen=True)
class ManagedIdentity:
    """The identity of the virtual machine that we run on."""

    client_id: str | None = None
    url: str = "http://169.254.169.254"


@dataclass
class AkvAuthority:
    """`Authority`. `url` is the vault's own, for example `https://dr-west.vault.azure.net`."""

    url: str
    login: TokenFile | Application | ManagedIdentity
    ca_file: Path | None = None
    limit_s: float = 15.0

    name = "akv"

    def __post_init__(self) -> None:
        self.url = self.place = self.url.rstrip("/")

    async def read(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """See the port."""
        wanted = {ref: self._parts(ref) for ref in refs}
        form = self._form()
        return await read_as_bearer(
            ("akv", self.limit_s, self.ca_file),
            refs,
            token=lambda client: self._token(client, form),
            ask=lambda client, headers, ref: self._get(client, headers, *wanted[ref]),
        )

    def _parts(self, ref: str) -> tuple[str, str]:
        parts = REF.fullmatch(ref)
        if parts is None:
            raise ConfigError(f"akv: {ref}: a reference is NAME or NAME@VERSION; letters, digits and hyphens")
        return parts["name"], parts["version"] or ""

    def _form(self) -> dict[str, str] | None:
        """What an application shows; None for the other logins. Read before anybody is asked."""
        login = self.login
        if not isinstance(login, Application):
            return None
        form = {"grant_type": "client_credentials", "client_id": login.client_id, "scope": f"{RESOURCE}/.default"}
        if login.federated_token_file is not None:
            token = credential("akv", login.federated_token_file)
            return form | {"client_assertion_type": ASSERTION, "client_assertion": token}
        if login.secret_file is None:
            raise ConfigError("akv: the application has neither secret_file nor federated_token_file")
        return form | {"client_secret": credential("akv", login.secret_file)}

    async def _token(self, client: AuthorityClient, form: Mapping[str, str] | None) -> str:
        login = self.login
        if isinstance(login, TokenFile):
            return token_of("akv", login.path)
        if isinstance(login, Application):
            url = f"{login.url}/{quote(login.tenant, safe='')}/oauth2/v2.0/token"
            reply = await client.call("POST", url, form=form)
        else:
            whose = f"&client_id={quote(login.client_id, safe='')}" if login.client_id else ""
            query = f"api-version=2018-02-01&resource={quote(RESOURCE, safe='')}{whose}"
            url = f"{login.url}/metadata/identity/oauth2/token?{query}"
            reply = await client.call("GET", url, headers={"Metadata": "true"})
        return access_token(reply)

    async def _get(self, client: AuthorityClient, headers: Mapping[str, str], name: str, version: str) -> Answer:
        url = f"{self.url}/secrets/{name}/{version}?api-version={API}"
        reply = await client.call("GET", url, headers=headers)
        if reply.status == 200:
            return _value(reply.object(), name)
        raise _trouble(reply)


def _value(said: Mapping[str, Any], name: str) -> Fetched:
    value, whose = said.get("value"), said.get("id")
    if not isinstance(value, str) or not isinstance(whose, str):
        raise TroubleError(Trouble.MALFORMED, "its answer holds no value")
    parts = whose.split("/secrets/")[-1].split("/")
    if parts[0].lower() != name.lower():
        raise TroubleError(Trouble.MALFORMED, "it answered about another secret")
    return Fetched(Secret(value), parts[1] if len(parts) > 1 else None)


def _trouble(reply: Reply) -> TroubleError:
    error = error_of(reply)
    code = error.get("code")
    inner = error.get("innererror", error.get("innerError"))  # both are seen
    why = inner.get("code") if isinstance(inner, dict) else None
    if reply.status == 404 and code in ("SecretNotFound", "SecretVersionNotFound"):
        return TroubleError(Trouble.MISSING, MISSING_WHY)
    if reply.status == 404:
        return TroubleError(Trouble.MISPLACED, "that is no key vault")
    if reply.status == 403 and why == "SecretDisabled":
        return TroubleError(Trouble.MISSING, "the secret is disabled")
    return failed(reply)
