"""Google Secret Manager as authority, over its REST API v1 (SEC-1).

A ref is `NAME`, `NAME@VERSION`, or `projects/PROJECT/secrets/NAME` for another project, with `@VERSION` too. Each
value is checked against the CRC32C that comes with it. Source: Secret Manager REST reference,
`projects.secrets.versions.access`; Google Cloud APIs, "Errors"; "Using OAuth 2.0 for server to server applications".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from hyops.ports.clock import Clock

REF = re.compile(
    r"(?:projects/(?P<project>[a-z0-9:.-]+)/secrets/)?(?P<name>[A-Za-z0-9_-]{1,255})(?:@(?P<version>[1-9][0-9]*|latest))?"
)
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ASSERTION_S = 600


@dataclass(frozen=True)
class ServiceAccount:
    """A key file of a service account, as `gcloud iam service-accounts keys create` writes it."""

    path: Path


@dataclass(frozen=True)
class MetadataServer:
    """The identity of the virtual machine that we run on."""

    url: str = "http://metadata.google.internal"


@dataclass
class GsmAuthority:
    """`Authority`. `project` is where a bare name is looked up."""

    project: str
    login: TokenFile | ServiceAccount | MetadataServer
    clock: Clock
    url: str = "https://secretmanager.googleapis.com"
    ca_file: Path | None = None
    limit_s: float = 15.0

    name = "gsm"

    def __post_init__(self) -> None:
        self.place = f"projects/{self.project}"

    async def read(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """See the port."""
        wanted = {ref: self._version(ref) for ref in refs}
        assertion = self._assertion()
        return await read_as_bearer(
            ("gsm", self.limit_s, self.ca_file),
            refs,
            token=lambda client: self._token(client, assertion),
            ask=lambda client, headers, ref: self._access(client, headers, wanted[ref]),
        )

    def _version(self, ref: str) -> str:
        parts = REF.fullmatch(ref)
        if parts is None:
            raise ConfigError(f"gsm: {ref}: a reference is NAME, NAME@VERSION or projects/PROJECT/secrets/NAME")
        project, version = parts["project"] or self.project, parts["version"] or "latest"
        return f"projects/{project}/secrets/{parts['name']}/versions/{version}"

    def _assertion(self) -> tuple[str, str] | None:
        """Where a service account logs in, and what it shows there; None for the other logins."""
        if not isinstance(self.login, ServiceAccount):
            return None
        path = self.login.path
        try:
            key = json.loads(credential("gsm", path))
            mail, pem, url = str(key["client_email"]), str(key["private_key"]), str(key["token_uri"])
            now = int(self.clock.now().timestamp())
            claims = {"iss": mail, "scope": SCOPE, "aud": url, "iat": now, "exp": now + ASSERTION_S}
            return url, _signed(claims, str(key.get("private_key_id", "")), pem)
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"gsm: {path}: not the key file of a service account") from None

    async def _token(self, client: AuthorityClient, assertion: tuple[str, str] | None) -> str:
        if isinstance(self.login, TokenFile):
            return token_of("gsm", self.login.path)
        if assertion is not None:
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion[1]}
            reply = await client.call("POST", assertion[0], form=form)
        else:
            assert isinstance(self.login, MetadataServer)
            url = f"{self.login.url}/computeMetadata/v1/instance/service-accounts/default/token"
            reply = await client.call("GET", url, headers={"Metadata-Flavor": "Google"})
        return access_token(reply)

    async def _access(self, client: AuthorityClient, headers: Mapping[str, str], version: str) -> Answer:
        reply = await client.call("GET", f"{self.url}/v1/{version}:access", headers=headers)
        if reply.status == 200:
            return _value(reply.object(), version)
        raise _trouble(reply)


def _value(said: Mapping[str, Any], asked: str) -> Fetched:
    """The value, when it is the one that was asked for and is whole."""
    name, payload = said.get("name"), said.get("payload")
    if not isinstance(name, str) or not isinstance(payload, dict):
        raise TroubleError(Trouble.MALFORMED, "its answer holds no payload")
    if name.split("/")[2:4] != asked.split("/")[2:4]:  # it names the project by number
        raise TroubleError(Trouble.MALFORMED, "it answered about another secret")
    try:
        data = base64.b64decode(payload.get("data", ""), validate=True)
        text = data.decode("utf-8")
    except (binascii.Error, TypeError, ValueError):
        raise TroubleError(Trouble.MALFORMED, "the value is not a text") from None
    if "dataCrc32c" in payload and str(crc32c(data)) != str(payload["dataCrc32c"]):
        raise TroubleError(Trouble.MALFORMED, "the value is damaged: its checksum does not fit")
    return Fetched(Secret(text), name.rpartition("/")[2])


def _trouble(reply: Reply) -> TroubleError:
    error = error_of(reply)
    status, said = error.get("status"), str(error.get("message", ""))
    if reply.status == 404 and status == "NOT_FOUND" and said.startswith("Secret "):
        return TroubleError(Trouble.MISSING, MISSING_WHY)
    if reply.status == 404:
        return TroubleError(Trouble.MISPLACED, "there is no such project, or that is no Secret Manager")
    if reply.status == 400 and status == "FAILED_PRECONDITION":
        if "DISABLED state" in said or "DESTROYED state" in said:
            return TroubleError(Trouble.MISSING, "that version is disabled or destroyed")
        return TroubleError(Trouble.SEALED, "it cannot decrypt the value (its key service)")
    return failed(reply)


def _signed(claims: Mapping[str, object], key_id: str, pem: str) -> str:
    """A JSON Web Token, RS256."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")
    head = {"alg": "RS256", "typ": "JWT", "kid": key_id}
    body = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims))
    seal = base64.urlsafe_b64encode(key.sign(body, padding.PKCS1v15(), hashes.SHA256())).rstrip(b"=")
    return b".".join((body, seal)).decode()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
