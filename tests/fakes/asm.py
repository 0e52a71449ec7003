"""AWS Secrets Manager: moto, which keeps the published API, behind sockets, with the errors that moto never has.

Source: Secrets Manager API reference, `GetSecretValue` errors and "Common errors"; JSON 1.1 protocol: every error is a
body with `__type` and a message.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fakes.server import Answer, FakeServer, Request

KEY_ID = "AKIAHYOPSCANARY00001"
DENIED = "User: arn:aws:iam::123456789012:user/dr is not authorized to perform: secretsmanager:GetSecretValue"


@dataclass
class FakeAsm(FakeServer):
    """`key_ids`: the access keys that there are; moto itself would take any. `denied`: names that nobody may read."""

    key_ids: set[str] = field(default_factory=lambda: {KEY_ID})
    denied: set[str] = field(default_factory=set)
    swapped: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._app = _moto()
        self._backend("Reset", {}, reset=True)

    def call(self, action: str, **body: Any) -> dict[str, Any]:
        """What an administrator does: `CreateSecret`, `PutSecretValue`, `DeleteSecret`."""
        answer = self._backend(action, body)
        assert answer.status == 200, answer.encoded()
        value = json.loads(answer.encoded())
        assert isinstance(value, dict)
        return value

    def in_mode(self, mode: str, request: Request) -> Answer:
        """Errors of the service's own."""
        if mode.startswith("throttled"):
            return _error(400, "ThrottlingException", "Rate exceeded")
        if mode == "sealed":
            return _error(400, "DecryptionFailure", "Secrets Manager can't decrypt the protected secret text")
        raise NotImplementedError(mode)

    def answer(self, request: Request) -> Answer:
        """Credentials, permission, then moto."""
        credential = request.headers.get("authorization", "").partition("Credential=")[2].split("/")
        if credential[0] not in self.key_ids or credential[3:4] != ["secretsmanager"]:
            return _error(400, "UnrecognizedClientException", "The security token included in the request is invalid.")
        if request.headers.get("x-amz-target") != "secretsmanager.GetSecretValue":
            return _error(400, "AccessDeniedException", DENIED)
        if request.json().get("SecretId") in self.denied:
            return _error(400, "AccessDeniedException", DENIED)
        answer = self._backend("GetSecretValue", request.json())
        if self.swapped and answer.status == 200:
            return Answer(
                200, json.loads(answer.encoded()) | {"Name": "another", "ARN": "arn:aws:another"}, answer.headers
            )
        return answer

    def _backend(self, action: str, body: dict[str, Any], *, reset: bool = False) -> Answer:
        data = json.dumps(body).encode()
        signed = (
            f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260314/eu-west-1/secretsmanager/aws4_request, SignedHeaders=host"
        )
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/moto-api/reset" if reset else "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "motoapi.amazonaws.com" if reset else "secretsmanager.eu-west-1.amazonaws.com",
            "HTTP_X_AMZ_TARGET": f"secretsmanager.{action}",
            "HTTP_AUTHORIZATION": signed,
            "CONTENT_TYPE": "application/x-amz-json-1.1",
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "https",
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        began: list[tuple[str, list[tuple[str, str]]]] = []
        made = b"".join(self._app(environ, lambda status, headers, *_: began.append((status, headers))))
        status, headers = began[0]
        kept = tuple(pair for pair in headers if pair[0].lower() in ("content-type", "x-amzn-requestid"))
        return Answer(int(status.split()[0]), made, kept)


@cache
def _moto() -> Any:
    """All of AWS, made once: its state is the process's anyway, and each fake begins with a reset."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


def _error(status: int, code: str, message: str) -> Answer:
    headers = (("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", code))
    return Answer(status, {"__type": code, "Message": message}, headers)
