"""AWS Secrets Manager as authority, through botocore (SEC-1).

A ref is `NAME`, an ARN, or either with `#FIELD` for one field of a value that is a JSON object. botocore is an extra
(`hyops[aws]`) and is loaded when AWS is asked: it knows the dozen places where credentials come from, and signs. It has
no limit for an answer of its own; those of the siblings hold here too, for the login services that it may ask as well.
Source: Secrets Manager API reference, `GetSecretValue` and its errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from hyops.adapters.authority_http import REPLY_BYTES_MAX, TroubleError, ask_all, field_of
from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.secret import Secret
from hyops.ports.authority import Answer, Fetched, Refused, Trouble

T = TypeVar("T")
REF = re.compile(r"(?P<name>[A-Za-z0-9/_+=.@:-]{1,2048})(?:#(?P<field>.+))?")
ATTEMPTS_MAX = 3
THREAD = "asm"  # the name of those that ask
LOGINS = ("sts", "sso", "sso-oidc", "signin")  # which botocore may ask for credentials, as its shared file says
DENIED = {
    "AccessDeniedException",
    "AccessDenied",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "ExpiredTokenException",
    "ExpiredToken",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
}
THROTTLED = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
SEALED = {"DecryptionFailure", "KMSAccessDeniedException", "EncryptionFailure"}


@dataclass
class AsmAuthority:
    """`Authority`. Credentials are found as the AWS tools find them; `profile` chooses one of the shared file."""

    region: str
    profile: str | None = None
    url: str | None = None
    ca_file: Path | None = None
    limit_s: float = 15.0

    name = "asm"

    def __post_init__(self) -> None:
        self.place = self.region

    async def read(self, refs: Sequence[str]) -> Mapping[str, Answer]:
        """See the port."""
        wanted = {ref: self._parts(ref) for ref in refs}
        limit = Limit()
        client = await in_thread(lambda: self.client(limit))
        limit.end = time.monotonic() + self.limit_s
        names = list(dict.fromkeys(name for name, _ in wanted.values()))
        found = await ask_all(names, self.limit_s, lambda name: in_thread(lambda: get(client, name)))
        return {ref: _field(found[name], field) for ref, (name, field) in wanted.items()}

    def _parts(self, ref: str) -> tuple[str, str | None]:
        parts = REF.fullmatch(ref)
        if parts is None:
            raise ConfigError(f"asm: {ref}: a reference is NAME or NAME#FIELD")
        return parts["name"], parts["field"]

    def client(self, limit: Limit) -> Any:
        """botocore's client, which asks for nothing once the limit is over."""
        try:
            import botocore.config
            import botocore.exceptions
            import botocore.session
        except ImportError as exc:
            raise PrerequisiteError("asm: botocore is not installed", hint="pip install 'hyops[aws]'") from exc
        each_s = max(0.1, self.limit_s / ATTEMPTS_MAX)
        config = botocore.config.Config(
            retries={"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"},
            connect_timeout=each_s,
            read_timeout=each_s,
            max_pool_connections=16,
            proxies={},
        )
        try:
            session = botocore.session.Session(profile=self.profile)
            trust = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True
            for service in ("secrets-manager", *LOGINS):
                ours = self.ca_file is not None and service == "secrets-manager"
                self._bound(session, service, str(self.ca_file) if ours else trust, each_s, limit)
            return session.create_client(
                "secretsmanager",
                region_name=self.region,
                endpoint_url=self.url,
                config=config,
                verify=None if self.ca_file is None else str(self.ca_file),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as exc:
            raise ConfigError(f"asm: {type(exc).__name__}: the AWS configuration cannot be used") from exc

    def _bound(self, session: Any, service: str, trust: str | bool, each_s: float, limit: Limit) -> None:
        """Let nothing that this service answers be longer than our limit, and nothing be asked for after it."""
        from botocore.httpsession import URLLib3Session

        from hyops.adapters.bounded_botocore import BoundedSender

        http = URLLib3Session(verify=trust, proxies={}, timeout=(each_s, each_s), max_pool_connections=16)
        session.register(f"before-send.{service}", BoundedSender(http, limit))


@dataclass
class Limit:
    """Of one read, kept in the threads too: one that nobody waits for any more would go on asking by itself."""

    end: float = math.inf
    """In `time.monotonic`."""

    def __call__(self, received: int) -> None:
        """Raises TroubleError."""
        if received > REPLY_BYTES_MAX:
            raise TroubleError(Trouble.MALFORMED, f"its answer has more than {REPLY_BYTES_MAX} bytes")
        if not received and time.monotonic() > self.end:  # what a login gave late is still taken, and kept
            raise TroubleError(Trouble.UNREACHABLE, "no answer in time")


async def in_thread(work: Callable[[], T]) -> T:
    """What blocking work gives, from a thread that holds up nobody's exit when it hangs."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if made.done():  # given up
            return
        if error is not None:
            made.set_exception(error)
        else:
            made.set_result(cast("T", value))

    def run() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = work()
        except Exception as exc:  # noqa: BLE001  # translation to the waiting side: raised there
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, daemon=True, name=THREAD).start()
    return await made


def get(client: Any, name: str) -> Fetched:
    """One value, or the trouble; every error of the library ends here."""
    import botocore.exceptions as errors

    try:
        said = client.get_secret_value(SecretId=name)
    except errors.ClientError as exc:
        raise _trouble(exc.response) from exc
    except (errors.NoCredentialsError, errors.PartialCredentialsError, errors.CredentialRetrievalError) as exc:
        raise TroubleError(Trouble.DENIED, f"no credentials ({type(exc).__name__})") from exc
    except errors.SSLError as exc:
        raise TroubleError(Trouble.UNREACHABLE, "its certificate is not trusted") from exc
    except (errors.ResponseStreamingError, errors.IncompleteReadError) as exc:
        raise TroubleError(Trouble.MALFORMED, "the answer broke off") from exc
    except (errors.HTTPClientError, errors.ConnectionError) as exc:
        raise TroubleError(Trouble.UNREACHABLE, f"no connection ({type(exc).__name__})") from exc
    except (errors.BotoCoreError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise TroubleError(Trouble.MALFORMED, f"an answer that its API does not know ({type(exc).__name__})") from exc
    if name not in (said.get("Name"), said.get("ARN")) and not str(said.get("ARN", "")).startswith(name):
        raise TroubleError(Trouble.MALFORMED, "it answered about another secret")
    text = said.get("SecretString")
    if text is None and isinstance(said.get("SecretBinary"), bytes):
        try:
            text = said["SecretBinary"].decode("utf-8")
        except UnicodeDecodeError:
            raise TroubleError(Trouble.MALFORMED, "the value is not a text") from None
    if not isinstance(text, str):
        raise TroubleError(Trouble.MALFORMED, "its answer holds no value")
    version = said.get("VersionId")
    if not isinstance(version, str | None):
        raise TroubleError(Trouble.MALFORMED, "its answer names no version")
    return Fetched(Secret(text), version)


def _trouble(response: Mapping[str, Any]) -> TroubleError:
    error = response.get("Error", {})
    code, said = str(error.get("Code", "")), str(error.get("Message", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "ResourceNotFoundException":
        return TroubleError(Trouble.MISSING, "it has no such secret, or no current version of it")
    if code == "InvalidRequestException" and re.search(r"marked (for deletion|deleted)|was deleted", said):
        return TroubleError(Trouble.MISSING, "the secret is marked for deletion")
    if code in DENIED:
        return TroubleError(Trouble.DENIED, f"it refuses us ({code})")
    if code in THROTTLED or status == 429:
        return TroubleError(Trouble.THROTTLED, "too many requests, also after waiting")
    if code in SEALED:
        return TroubleError(Trouble.SEALED, "it cannot decrypt the value (its key service)")
    if status >= 500:
        return TroubleError(Trouble.UNREACHABLE, f"it has an error of its own (HTTP {status})")
    return TroubleError(Trouble.MALFORMED, f"an answer that its API does not know (HTTP {status})")


def _field(answer: Answer, name: str | None) -> Answer:
    if name is None or not isinstance(answer, Fetched):
        return answer
    try:
        fields = json.loads(answer.value.reveal())
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return Refused(Trouble.MALFORMED, "the value is not a JSON object")
    return field_of(fields, name, answer.version)
