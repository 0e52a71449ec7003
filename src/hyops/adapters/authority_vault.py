"""HashiCorp Vault and OpenBao as authority: kv version 1 and 2; token, AppRole and JWT; namespaces (SEC-1).

A ref is `mount/path#FIELD`, with `mount/path?version=3#FIELD` for an older version of kv 2. Mounts are kv 2 unless the
configuration says 1. Source: Vault API documentation, "KV secrets engine - version 1" and "- version 2 (API)",
"AppRole auth method", "JWT/OIDC auth method", "HTTP status codes".

That a secret is missing is certain only when its mount is there and of that version: a kv 2 path read from a kv 1 mount
gets the same answer, and would take keys out of the cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from hyops.adapters.authority_http import (
    AuthorityClient,
    Reply,
    TroubleError,
    all_refused,
    ask_all,
    credential,
    failed,
    field_of,
    opened,
    token_of,
)
from hyops.errors import ConfigError
from hyops.ports.authority import Answer, Refused, Trouble

REF = re.compile(r"(?P<path>[^?#]+)(?:\?version=(?P<version>[1-9][0-9]{0,9}))?#(?P<field>.+)")
KvVersion = Literal[1, 2]


@dataclass(frozen=True)
class TokenLogin:
    """A token that somebody (an agent, an operator) put into a file."""

    token_file: Path


@dataclass(frozen=True)
class AppRoleLogin:
    """A role and its secret id; `secret_id_file` None where the role binds to addresses alone."""

    role_id: str
    secret_id_file: Path | None
    mount: str = "approle"


@dataclass(frozen=True)
class JwtLogin:
    """A role and a signed token of a platform that Vault trusts."""

    role: str
    jwt_file: Path
    mount: str = "jwt"


@dataclass(frozen=True)
class Place:
    """One secret with all its fields."""

    mount: str
    kv: KvVersion
    path: str
    version: str | None


@dataclass(frozen=True)
class Wanted:
    """A ref, taken apart."""

    page: Place
    field: str


@dataclass(frozen=True)
class Page:
    """What lies at a place; shows nothing of it."""

    fields: Mapping[str, Any] = field(repr=False)
    version: str | None


@dataclass
class VaultAuthority:
    """`Authority`. Namespaces are those of Vault Enterprise and OpenBao."""

    address: str
    login: TokenLogin | AppRoleLogin | JwtLogin
    namespace: str | None = None
    mounts: Mapping[str, KvVersion] = field(default_factory=dict)
    ca_file: Path | None = None
    limit_s: float = 15.0

    name = "vault"

    def __post_init__(self) -> None:
        self.address = self.address.rstrip("/")
        self.place = self.address + (f" {self.namespace}" if self.namespace else "")

    async def read(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """See the port. A token that was got by a login is given back at the end."""
        wanted = {ref: self._wanted(ref) for ref in refs}
        login = self._login_body()
        async with opened("vault", self.limit_s, self.ca_file, tls=self.address.startswith("https:")) as client:
            try:
                headers = await self._logged_in(client, login)
            except TroubleError as exc:
                return all_refused(refs, exc.refused)
            places = list(dict.fromkeys(one.page for one in wanted.values()))
            found = await ask_all(places, self.limit_s, lambda place: self._page(client, headers, place))
            if login is not None:
                await self._give_back(client, headers)
        return {ref: _field(found[one.page], one.field) for ref, one in wanted.items()}

    def _wanted(self, ref: str) -> Wanted:
        parts = REF.fullmatch(ref)
        segments = parts["path"].split("/") if parts else []
        if parts is None or len(segments) < 2 or any(part in ("", ".", "..") for part in segments):
            raise ConfigError(f"vault: {ref}: a reference is mount/path#FIELD")
        path = parts["path"]
        known = sorted((mount for mount in self.mounts if path.startswith(mount + "/")), key=len)
        mount = known[-1] if known else segments[0]
        kv = self.mounts.get(mount, 2)
        if parts["version"] and kv == 1:
            raise ConfigError(f"vault: {ref}: {mount} is kv version 1, which keeps no versions")
        return Wanted(Place(mount, kv, path[len(mount) + 1 :], parts["version"]), parts["field"])

    def _login_body(self) -> tuple[str, dict[str, str]] | None:
        """The mount and what is posted there; None for a token. Read before anybody is asked."""
        login = self.login
        if isinstance(login, AppRoleLogin):
            secret_id = {} if login.secret_id_file is None else {"secret_id": credential("vault", login.secret_id_file)}
            return login.mount, {"role_id": login.role_id, **secret_id}
        if isinstance(login, JwtLogin):
            return login.mount, {"role": login.role, "jwt": credential("vault", login.jwt_file)}
        return None

    async def _logged_in(self, client: AuthorityClient, login: tuple[str, dict[str, str]] | None) -> dict[str, str]:
        headers = {"X-Vault-Request": "true"} | ({"X-Vault-Namespace": self.namespace} if self.namespace else {})
        if isinstance(self.login, TokenLogin):
            return headers | {"X-Vault-Token": token_of("vault", self.login.token_file)}
        assert login is not None
        mount, body = login
        reply = await client.call("POST", f"{self.address}/v1/auth/{quote(mount)}/login", headers=headers, body=body)
        if reply.status == 200:
            auth = reply.object().get("auth")
            token = auth.get("client_token") if isinstance(auth, dict) else None
            if not isinstance(token, str) or not token:
                raise TroubleError(Trouble.MALFORMED, "its answer to the login holds no token")
            return headers | {"X-Vault-Token": token}
        if reply.status in (400, 404):  # 400: wrong role or secret; 404: no such login method
            raise TroubleError(Trouble.DENIED, f"it refuses the login at auth/{mount} (HTTP {reply.status})")
        raise self._trouble(reply)

    async def _give_back(self, client: AuthorityClient, headers: Mapping[str, str]) -> None:
        try:
            await client.call("POST", f"{self.address}/v1/auth/token/revoke-self", headers=headers)
        except TroubleError:
            return  # it runs out by itself, and the values are here

    async def _page(self, client: AuthorityClient, headers: Mapping[str, str], one: Place) -> Page | Refused:
        middle = "data/" if one.kv == 2 else ""
        query = f"?version={one.version}" if one.version else ""
        url = f"{self.address}/v1/{quote(one.mount)}/{middle}{quote(one.path)}{query}"
        reply = await client.call("GET", url, headers=headers)
        said = reply.object()
        if reply.status == 200:
            return _page(said, one.kv)
        if reply.status == 404 and said.keys() & {"errors", "warnings", "data"}:
            return await self._missing(client, headers, one, said)
        raise self._trouble(reply)

    async def _missing(
        self, client: AuthorityClient, headers: Mapping[str, str], one: Place, said: Mapping[str, Any]
    ) -> Refused:
        errors = said.get("errors")
        told = errors if isinstance(errors, list) else []
        if said.get("warnings") or any("no handler for route" in str(error) for error in told):
            return Refused(Trouble.MISPLACED, f"there is no kv version {one.kv} at {one.mount}")
        if isinstance(said.get("data"), dict):
            return Refused(
                Trouble.MISSING, "its latest version is deleted" if not one.version else "that version is gone"
            )
        url = f"{self.address}/v1/sys/internal/ui/mounts/{quote(one.mount)}"
        reply = await client.call("GET", url, headers=headers)
        mount = reply.object().get("data")
        if reply.status != 200 or not isinstance(mount, dict):
            return Refused(Trouble.MISPLACED, f"not there, and it does not confirm the mount {one.mount}")
        options = mount.get("options")
        version = options.get("version", "1") if isinstance(options, dict) else "1"
        if mount.get("type") not in ("kv", "generic") or str(version) != str(one.kv):
            return Refused(Trouble.MISPLACED, f"there is no kv version {one.kv} at {one.mount}")
        return Refused(Trouble.MISSING, "it has no such secret")

    def _trouble(self, reply: Reply) -> TroubleError:
        errors = reply.object().get("errors")
        if reply.status == 503 and isinstance(errors, list) and any("sealed" in str(error) for error in errors):
            return TroubleError(Trouble.SEALED, "it is sealed")
        return failed(reply)


def _page(said: Mapping[str, Any], kv: KvVersion) -> Page:
    fields, version = said.get("data"), None
    if kv == 2 and isinstance(fields, dict):
        metadata = fields.get("metadata")
        version = metadata.get("version") if isinstance(metadata, dict) else None
        fields = fields.get("data") if isinstance(version, int) else None
    if not isinstance(fields, dict):
        raise TroubleError(Trouble.MALFORMED, f"its answer is not that of kv version {kv}")
    return Page(fields, None if version is None else str(version))


def _field(page: Page | Refused, name: str) -> Answer:
    if isinstance(page, Refused):
        return page
    return field_of(page.fields, name, page.version)
