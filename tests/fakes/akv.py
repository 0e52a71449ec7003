"""Azure Key Vault, the identity platform and the metadata service of a VM, as their REST APIs are published.

Source: Key Vault REST reference 7.4 ("Get Secret", "Authentication, requests and responses", "REST API error codes",
"Throttling guidance"); "OAuth 2.0 client credentials flow"; "How to use managed identities"; bodies from issues.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from fakes.server import Answer, FakeServer, Request

TENANT = "72f988bf-0000-4000-8000-2d7cd011db47"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class FakeAkv(FakeServer):
    """`denied`: names that the caller may not read. `apps`: client id -> secret; `federated`: client id -> token."""

    secrets: dict[str, list[tuple[str, str, bool]]] = field(default_factory=dict)  # name -> (version, value, enabled)
    tokens: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    apps: dict[str, str] = field(default_factory=dict)
    federated: dict[str, str] = field(default_factory=dict)
    on_a_vm: bool = False
    swapped: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def put(self, name: str, value: str) -> str:
        """`az keyvault secret set`; the version's id."""
        version = uuid.uuid4().hex
        self.secrets.setdefault(name.lower(), []).append((version, value, True))
        return version

    def disable(self, name: str) -> None:
        """`az keyvault secret set-attributes --enabled false` of the latest version."""
        version, value, _ = self.secrets[name.lower()][-1]
        self.secrets[name.lower()][-1] = (version, value, False)

    def in_mode(self, mode: str, request: Request) -> Answer:
        """Too many requests."""
        if mode.startswith("throttled"):
            after = mode.partition(" ")[2]
            body = {"error": {"code": "Throttled", "message": "Request was not processed because too many requests."}}
            return Answer(429, body, (("Retry-After", after),) if after else ())
        raise NotImplementedError(mode)

    def answer(self, request: Request) -> Answer:
        """Route: the identity platform, the metadata service, the secrets."""
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == f"/{TENANT}/oauth2/v2.0/token" and request.method == "POST":
            return self._grant(request)
        if parts.path == "/metadata/identity/oauth2/token":
            if request.headers.get("metadata") != "true":
                return Answer(400, {"error": "invalid_request", "error_description": "Required metadata header"})
            if not self.on_a_vm or query.get("resource") != "https://vault.azure.net":
                return Answer(400, {"error": "invalid_request", "error_description": "Identity not found"})
            return self._token()
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            challenge = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", '
            challenge += 'resource="https://vault.azure.net"'
            said = {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}}
            return Answer(401, said, (("WWW-Authenticate", challenge),))
        if "api-version" not in query:
            return _error(400, "BadParameter", "api-version must be specified")
        pieces = parts.path.strip("/").split("/")
        if request.method != "GET" or pieces[0] != "secrets" or not 2 <= len(pieces) <= 3:
            return Answer(404, b"")
        return self._get(pieces[1], pieces[2] if len(pieces) == 3 else "")

    def _get(self, name: str, version: str) -> Answer:
        if name.lower() in self.denied:
            said = f"The user, group or application does not have secrets get permission on key vault '{name}'"
            return _error(403, "Forbidden", said, "AccessDenied")
        versions = self.secrets.get(name.lower(), [])
        found = [one for one in versions if version in ("", one[0])]
        if not found:
            said = f"A secret with (name/id) {name} was not found in this key vault."
            return _error(404, "SecretNotFound", said)
        number, value, enabled = found[-1]
        if not enabled:
            return _error(403, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled")
        whose = "another" if self.swapped else name
        attributes = {"enabled": True, "created": 1773457200, "updated": 1773457200, "recoveryLevel": "Recoverable"}
        return Answer(200, {"value": value, "id": f"{self.url}/secrets/{whose}/{number}", "attributes": attributes})

    def _grant(self, request: Request) -> Answer:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        client = form.get("client_id", "")
        if form.get("grant_type") != "client_credentials" or form.get("scope") != "https://vault.azure.net/.default":
            return Answer(400, {"error": "invalid_request"})
        secret = self.apps.get(client)
        by_secret = secret is not None and form.get("client_secret") == secret
        by_token = form.get("client_assertion_type") == ASSERTION and client in self.federated
        if by_secret or (by_token and form.get("client_assertion") == self.federated[client]):
            return self._token()
        said = "AADSTS7000215: Invalid client secret provided."
        return Answer(401, {"error": "invalid_client", "error_description": said, "error_codes": [7000215]})

    def _token(self) -> Answer:
        token = f"eyJ0eXAi.{uuid.uuid4().hex}"
        self.tokens.add(token)
        return Answer(200, {"token_type": "Bearer", "expires_in": 3599, "access_token": token})


def _error(status: int, code: str, message: str, inner: str | None = None) -> Answer:
    error: dict[str, object] = {"code": code, "message": message}
    return Answer(status, {"error": error | ({"innererror": {"code": inner}} if inner else {})})
