"""Every error of the libraries below an authority becomes a trouble of ours, and none of them is quoted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from hyops.adapters import authority_asm
from hyops.adapters.authority_http import AuthorityClient, Reply, TroubleError, _asked_wait_s, ask_all, failed
from hyops.adapters.authority_vault import Place, TokenLogin, VaultAuthority
from hyops.adapters.http_client import httpx
from hyops.ports.authority import Fetched, Refused, Trouble

CANARY = "c4nary-in-an-error"
OUR_SIDE = {"HTTPError", "StreamError"}  # abstract
HTTPX = [
    kind
    for _, kind in inspect.getmembers(httpx, inspect.isclass)
    if issubclass(kind, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError) and kind.__name__ not in OUR_SIDE
]
BOTO = [
    kind
    for _, kind in inspect.getmembers(botocore.exceptions, inspect.isclass)
    if issubclass(kind, botocore.exceptions.BotoCoreError)
]


class Raising:
    """An httpx client whose every call fails in one way."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    @asynccontextmanager
    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Never an answer."""
        made = self.kind.__new__(self.kind, CANARY)
        made.args = (CANARY,)
        raise made
        yield


@pytest.mark.req("SEC-1", "SEC-2")
@pytest.mark.parametrize("kind", HTTPX, ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_is_a_trouble(kind: type[Exception]) -> None:
    """Walks the library, so that a new error of it is not forgotten."""

    async def call() -> Reply:
        client: Any = Raising(kind)
        return await AuthorityClient(client, "vault", asyncio.get_running_loop().time() + 1).call("GET", "https://x")

    with pytest.raises(TroubleError) as caught:
        asyncio.run(call())
    assert caught.value.refused.trouble in {Trouble.UNREACHABLE, Trouble.MALFORMED}
    assert CANARY not in caught.value.refused.why


@pytest.mark.req("SEC-1", "SEC-2")
@pytest.mark.parametrize("kind", BOTO, ids=lambda kind: kind.__name__)
def test_every_error_of_botocore_is_a_trouble(kind: type[Exception]) -> None:
    """The same for AWS; no credentials is a denied login, no connection an unreachable authority."""

    class Client:
        def get_secret_value(self, **_: Any) -> Any:
            made = kind.__new__(kind)
            made.args = (CANARY,)
            raise made

    with pytest.raises(TroubleError) as caught:
        authority_asm.get(Client(), "name")
    assert caught.value.refused.trouble is not Trouble.MISSING
    assert CANARY not in caught.value.refused.why


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    ("code", "status", "message", "trouble"),
    [
        ("ResourceNotFoundException", 400, "", Trouble.MISSING),
        ("InvalidRequestException", 400, "...because it was marked for deletion.", Trouble.MISSING),
        ("InvalidRequestException", 400, "something else", Trouble.MALFORMED),
        ("AccessDeniedException", 400, "", Trouble.DENIED),
        ("ExpiredTokenException", 400, "", Trouble.DENIED),
        ("DecryptionFailure", 400, "", Trouble.SEALED),
        ("ThrottlingException", 400, "", Trouble.THROTTLED),
        ("Whatever", 429, "", Trouble.THROTTLED),
        ("InternalServiceError", 500, "", Trouble.UNREACHABLE),
        ("Whatever", 400, CANARY, Trouble.MALFORMED),
    ],
)
def test_every_code_of_aws_has_its_trouble(code: str, status: int, message: str, trouble: Trouble) -> None:
    """By the code; the message decides only what kind of invalid request it was."""
    said = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    refused = authority_asm._trouble(said).refused

    assert refused.trouble is trouble
    assert CANARY not in refused.why


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (400, Trouble.MALFORMED),
        (401, Trouble.DENIED),
        (403, Trouble.DENIED),
        (404, Trouble.MALFORMED),
        (408, Trouble.UNREACHABLE),
        (412, Trouble.MALFORMED),
        (500, Trouble.UNREACHABLE),
        (503, Trouble.UNREACHABLE),
    ],
)
def test_a_bare_status_is_never_missing(status: int, trouble: Trouble) -> None:
    """Only an answer that the adapter understands can say that a secret is gone."""
    assert failed(Reply(status, {}, CANARY.encode())).refused.trouble is trouble


def test_the_wait_that_is_asked_for_is_understood() -> None:
    """Seconds or a date; nonsense is the usual wait."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)

    assert _asked_wait_s("7", 0.25) == 7
    assert 60 < _asked_wait_s(soon, 0.25) <= 120
    assert _asked_wait_s("Mon, 01 Jan 2001 00:00:00 GMT", 0.25) == 0
    assert _asked_wait_s("soon", 0.25) == 0.25
    assert _asked_wait_s(None, 0.25) == 0.25


def test_a_late_answer_costs_the_others_nothing() -> None:
    """When the time is up, what is there is taken, and the rest is unreachable."""

    async def ask(key: str) -> Fetched | Refused:
        if key == "late":
            await asyncio.Event().wait()
        return Refused(Trouble.MISSING, "")

    answers = asyncio.run(ask_all(["late", "quick"], 0.05, ask))
    assert {key: a.trouble for key, a in answers.items() if isinstance(a, Refused)} == {
        "late": Trouble.UNREACHABLE,
        "quick": Trouble.MISSING,
    }


def test_a_reply_shows_nothing_of_its_body() -> None:
    """Neither in a message nor in a debugger's list of locals."""
    assert CANARY not in repr(Reply(200, {}, CANARY.encode()))


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("body", [b"[" * 400_000, b'{"data":' * 100_000, b"9" * 10_000, b"\xff", b"[]", b""])
def test_a_body_that_cannot_be_read_is_no_answer(body: bytes) -> None:
    """However deep, long or odd it is."""
    assert Reply(200, {}, body).object() == {}


class Hostile(AuthorityClient):
    """A Vault that says the same to every question, and something else about its mounts."""

    def __init__(self, said: Reply, mount: Reply) -> None:
        self.said, self.mount = said, mount

    async def call(self, method: str, url: str, **_: Any) -> Reply:
        """No wire."""
        return self.mount if "/sys/" in url else self.said


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    ("said", "mount"),
    [
        (b'{"errors": 5}', b"{}"),
        (b'{"errors": "no"}', b"[]"),
        (b'{"errors": {"a": 1}}', b'{"data": 5}'),
        (b'{"errors": []}', b'{"data": {"type": "kv", "options": "x"}}'),
        (b'{"errors": []}', b'{"data": {"type": "kv", "options": [2]}}'),
        (b'{"errors": null}', b"[" * 400_000),
    ],
)
def test_an_odd_answer_of_vault_proves_nothing_missing(said: bytes, mount: bytes) -> None:
    """It is misplaced at most, which takes no key out of the cache, and never a bug of ours."""
    vault = VaultAuthority("https://vault.invalid", TokenLogin(Path("/nonexistent")))
    client = Hostile(Reply(404, {}, said), Reply(200, {}, mount))
    answer = asyncio.run(vault._page(client, {}, Place("kv", 2, "a", None)))
    assert isinstance(answer, Refused)
    assert answer.trouble is Trouble.MISPLACED


@pytest.mark.req("SEC-1", "SEC-2")
@pytest.mark.parametrize("token", ["t\u00f6k\u20acn", "\ud800"])
def test_a_token_that_no_header_can_hold_is_a_trouble(token: str) -> None:
    """What a login gave is not quoted."""

    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            end = asyncio.get_running_loop().time() + 60
            headers = {"X-Vault-Token": token}
            await AuthorityClient(client, "vault", end).call("GET", "http://127.0.0.1:9/", headers=headers)

    with pytest.raises(TroubleError) as caught:
        asyncio.run(ask())
    assert caught.value.refused.trouble is Trouble.MALFORMED
    assert token not in str(caught.value)
