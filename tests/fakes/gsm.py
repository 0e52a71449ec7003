"""Google Secret Manager, its token endpoint and the metadata server, as their REST APIs are published.

Source: Secret Manager REST reference (`projects.secrets.versions.access`), "Google Cloud APIs: Errors", "Using OAuth
2.0 for server to server applications", "About VM metadata"; error bodies that users posted in issues.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from fakes.server import Answer, FakeServer, Request

NUMBER = "414141414141"  # answers name the project by number
ACCESS = re.compile(r"/v1/projects/([^/]+)/secrets/([^/]+)/versions/([^/:]+):access")
CODES = {400: "FAILED_PRECONDITION", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
CODES |= {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}


@dataclass
class FakeGsm(FakeServer):
    """`projects`: the ids that there are. `denied`: names that the caller may not read."""

    projects: set[str] = field(default_factory=lambda: {"dr-control", "dr-other"})
    secrets: dict[tuple[str, str], list[tuple[bytes, str]]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    accounts: dict[str, rsa.RSAPublicKey] = field(default_factory=dict)
    on_a_vm: bool = False
    damaged: bool = False
    swapped: bool = False
    kms_off: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def put(self, name: str, value: bytes, project: str = "dr-control") -> None:
        """`gcloud secrets versions add`."""
        self.secrets.setdefault((project, name), []).append((value, "ENABLED"))

    def turn(self, name: str, state: str, project: str = "dr-control") -> None:
        """`gcloud secrets versions disable` or `destroy` of the latest version."""
        versions = self.secrets[project, name]
        versions[-1] = (versions[-1][0], state)

    def in_mode(self, mode: str, request: Request) -> Answer:
        """Too many requests."""
        if mode.startswith("throttled"):
            after = mode.partition(" ")[2]
            return self._error(429, "Quota exceeded for quota metric 'Access requests'", after)
        raise NotImplementedError(mode)

    def answer(self, request: Request) -> Answer:
        """Route: the token endpoint, the metadata server, the secrets."""
        path = urlsplit(request.path).path
        if path == "/token" and request.method == "POST":
            return self._grant(request)
        if path == "/computeMetadata/v1/instance/service-accounts/default/token":
            if not self.on_a_vm or request.headers.get("metadata-flavor") != "Google":
                return Answer(403, b"Missing Metadata-Flavor:Google header.")
            return self._token()
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return self._error(401, "Request had invalid authentication credentials. Expected OAuth 2 access token")
        found = ACCESS.fullmatch(path)
        if found is None or request.method != "GET":
            return Answer(404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>")
        return self._access(*found.groups())

    def _access(self, project: str, name: str, version: str) -> Answer:
        if project not in self.projects or name in self.denied:
            why = f"Permission 'secretmanager.versions.access' denied for resource 'projects/{project}/secrets/{name}/"
            return self._error(403, why + f"versions/{version}' (or it may not exist).")
        versions = self.secrets.get((project, name))
        if versions is None:
            return self._error(404, f"Secret [projects/{NUMBER}/secrets/{name}] not found or has no versions.")
        number = len(versions) if version == "latest" else int(version)
        full = f"projects/{NUMBER}/secrets/{'another' if self.swapped else name}/versions/{number}"
        if number > len(versions):
            return self._error(404, f"Secret Version [{full}] not found.")
        data, state = versions[number - 1]
        if state != "ENABLED":
            return self._error(400, f"Secret Version [{full}] is in {state} state.")
        if self.kms_off:
            return self._error(400, "The key used to encrypt this version is not enabled, current state is: DISABLED.")
        sum_ = str(_crc32c(data))
        shown = base64.b64encode(data[:-1] + b"?" if self.damaged else data).decode()
        return Answer(200, {"name": full, "payload": {"data": shown, "dataCrc32c": sum_}})

    def _grant(self, request: Request) -> Answer:
        form = parse_qs(request.body.decode())
        refused = Answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return Answer(400, {"error": "unsupported_grant_type"})
        try:
            signed, _, seal = form["assertion"][0].rpartition(".")
            head, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
            key = self.accounts[claims["iss"]]
            raw = base64.urlsafe_b64decode(seal + "==")
            key.verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (KeyError, ValueError, binascii.Error, InvalidSignature):
            return refused
        now = time.time()
        young = claims["iat"] <= now + 60 and now < claims["exp"] <= claims["iat"] + 3600
        if (
            head["alg"] != "RS256"
            or claims["aud"] != f"{self.url}/token"
            or not young
            or "cloud-platform" not in claims["scope"]
        ):
            return refused
        return self._token()

    def _token(self) -> Answer:
        token = f"ya29.{uuid.uuid4().hex}"
        self.tokens.add(token)
        return Answer(200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    def _error(self, code: int, message: str, retry_after: str = "") -> Answer:
        body = {"error": {"code": code, "message": message, "status": CODES[code]}}
        return Answer(code, body, (("Retry-After", retry_after),) if retry_after else ())


def _crc32c(data: bytes) -> int:
    """By table and from the other end, so that it is not the code under test."""
    table: list[Any] = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 * (n & 1))
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
