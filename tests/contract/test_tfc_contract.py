"""The contract of Terraform Cloud, kept by the fake in memory and by the adapter against a server.

The second half asks the server itself, without the adapter, whether it does what the API's documentation publishes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from hyops.adapters.tfc_http import TfcApi
from hyops.ports.terraform_cloud import ExecutionMode, TerraformCloud, Workspace
from hyops.testing.tfc import (
    ORGANIZATION,
    SECRET_ORGANIZATION,
    MemoryTerraformCloud,
    TerraformCloudContract,
)
from tfc_server import TOKEN, TYPE, TfcServer


class TestMemory(TerraformCloudContract):
    """The fake in memory."""

    @asynccontextmanager
    async def opened(self, count: int = 1) -> AsyncIterator[TerraformCloud]:
        """See the contract."""
        names = [(ORGANIZATION, f"ws-{n:04}") for n in range(count)] + [(SECRET_ORGANIZATION, "vault")]
        yield MemoryTerraformCloud(
            [Workspace(f"id-{n}", *where, ExecutionMode.REMOTE) for n, where in enumerate(names)]
        )


class TestHttp(TerraformCloudContract):
    """The adapter, over a socket."""

    @asynccontextmanager
    async def opened(self, count: int = 1) -> AsyncIterator[TerraformCloud]:
        """See the contract."""
        with TfcServer(count).serve() as url:
            yield TfcApi(url, TOKEN)


Ask = Any


@pytest.fixture
def server() -> TfcServer:
    """A server with three workspaces."""
    return TfcServer(3)


@pytest.fixture
def ask(server: TfcServer) -> Iterator[Ask]:
    """One plain request with the token; returns the reply."""
    with server.serve() as url, httpx.Client(base_url=f"{url}/api/v2", trust_env=False) as client:

        def asked(method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
            sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": TYPE} | headers
            return client.request(method, path, json=body, headers=sent)

        yield asked


def document(**attributes: Any) -> dict[str, Any]:
    """A request about a workspace."""
    return {"data": {"type": "workspaces", "attributes": attributes}}


HERE = f"/organizations/{ORGANIZATION}/workspaces"
THERE = f"/organizations/{SECRET_ORGANIZATION}/workspaces"


@pytest.mark.parametrize("token", ["Bearer wrong", "", f"Basic {TOKEN}"])
def test_the_server_answers_401_to_a_wrong_token_and_nothing_else(ask: Ask, token: str) -> None:
    """Published: 401 is reserved for problems with the token, with a JSON:API error object."""
    reply = ask("GET", HERE, Authorization=token)

    assert reply.status_code == 401
    assert reply.json()["errors"][0]["status"] == "401"
    assert reply.headers["content-type"].startswith(TYPE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", THERE),
        ("POST", THERE),
        ("GET", f"{THERE}/vault"),
        ("GET", "/organizations/nobody/workspaces"),
        ("GET", f"{HERE}/none"),
        ("PATCH", "/workspaces/ws-none"),
        ("GET", "/somewhere"),
    ],
)
def test_the_server_answers_404_to_all_that_is_hidden_or_absent(ask: Ask, method: str, path: str) -> None:
    """Published: 404 for what does not exist and for what the token may not see, so that nobody learns which."""
    assert ask(method, path, document(name="x")).status_code == 404


def test_the_server_pages_as_published(ask: Ask) -> None:
    """20 items a page unless asked, at most 100, with `meta.pagination`; the last page has no next one."""
    first = ask("GET", f"{HERE}?page%5Bsize%5D=2").json()
    last = ask("GET", f"{HERE}?page%5Bsize%5D=2&page%5Bnumber%5D=2").json()

    told = first["meta"]["pagination"]
    assert (len(first["data"]), told["next-page"], told["prev-page"], told["total-count"]) == (2, 2, None, 3)
    assert (len(last["data"]), last["meta"]["pagination"]["next-page"]) == (1, None)
    assert ask("GET", HERE).json()["meta"]["pagination"]["page-size"] == 20
    assert ask("GET", f"{HERE}?page%5Bsize%5D=500").json()["meta"]["pagination"]["page-size"] == 100


def test_the_server_makes_a_workspace_remote_unless_told(ask: Ask) -> None:
    """Published: the default of `execution-mode` is `remote`, and a mode that is given is the workspace's own."""
    plain = ask("POST", HERE, document(name="plain"))
    own = ask("POST", HERE, document(name="own", **{"execution-mode": "local"}))

    assert (plain.status_code, own.status_code) == (201, 201)
    assert plain.json()["data"]["attributes"]["execution-mode"] == "remote"
    assert plain.json()["data"]["attributes"]["setting-overwrites"]["execution-mode"] is False
    assert own.json()["data"]["attributes"]["execution-mode"] == "local"
    assert own.json()["data"]["attributes"]["setting-overwrites"]["execution-mode"] is True


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "ws-0000"},
        {"name": "two words"},
        {"name": ""},
        {"name": "x", "execution-mode": "elsewhere"},
        {"name": "x", "execution-mode": "agent"},
    ],
)
def test_the_server_answers_422_with_a_pointer(ask: Ask, attributes: dict[str, Any]) -> None:
    """Published: malformed or taken names, unknown modes and `agent` without a pool are validation errors."""
    reply = ask("POST", HERE, document(**attributes))

    assert reply.status_code == 422
    assert reply.json()["errors"][0]["source"]["pointer"].startswith("/data/attributes/")


def test_the_server_changes_a_workspace_by_name_and_by_id(ask: Ask) -> None:
    """Published: PATCH on both paths; a body that is not JSON:API is turned down."""
    identity = ask("GET", f"{HERE}/ws-0001").json()["data"]["id"]

    assert ask("PATCH", f"/workspaces/{identity}", document(**{"execution-mode": "local"})).status_code == 200
    assert ask("PATCH", f"{HERE}/ws-0002", document(**{"execution-mode": "local"})).status_code == 200
    modes = [item["attributes"]["execution-mode"] for item in ask("GET", HERE).json()["data"]]
    assert modes == ["remote", "local", "local"]
    assert ask("PATCH", f"{HERE}/ws-0000", [1]).status_code == 400
    assert ask("PATCH", f"{HERE}/ws-0000", document(), **{"Content-Type": "text/plain"}).status_code == 415


def test_the_server_turns_away_with_429_and_says_for_how_long(ask: Ask, server: TfcServer) -> None:
    """Published: 30 requests a second, then 429; `x-ratelimit-reset` is in seconds."""
    server.turned_away = 1
    reply = ask("GET", HERE)

    assert reply.status_code == 429
    assert float(reply.headers["x-ratelimit-reset"]) > 0
    assert ask("GET", HERE).status_code == 200
