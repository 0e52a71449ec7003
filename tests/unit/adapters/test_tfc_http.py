"""The adapter of Terraform Cloud believes only what is an answer; its token goes to one host and into no error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hyops.adapters.tfc_http import ATTEMPTS_MAX, BYTES_MAX, WAIT_MAX_S, TfcApi
from hyops.errors import ConfigError, DeadlineError, Effect, HyopsError, PrerequisiteError, TargetError
from hyops.ports.terraform_cloud import ExecutionMode, TerraformCloud, Workspace
from hyops.services.workspace import ensure_local
from hyops.testing.tfc import ORGANIZATION
from tfc_server import TOKEN, TfcServer

Call = Callable[[TerraformCloud], Awaitable[Any]]
FOUND = Workspace("ws-0000000000000000", ORGANIZATION, "ws-0000", ExecutionMode.REMOTE)
READS: dict[str, Call] = {
    "whoami": lambda cloud: cloud.whoami(),
    "workspace": lambda cloud: cloud.workspace(ORGANIZATION, "ws-0000"),
    "workspaces": lambda cloud: cloud.workspaces(ORGANIZATION),
}
WRITES: dict[str, Call] = {
    "create_local": lambda cloud: cloud.create_local(ORGANIZATION, "new"),
    "set_local": lambda cloud: cloud.set_local(FOUND),
}
CALLS = READS | WRITES


def ask(server: TfcServer, call: Call, **words: Any) -> Any:
    """One call against a server that runs for it."""

    async def scenario(url: str) -> Any:
        return await call(TfcApi(url, words.pop("token", TOKEN), **words))

    with server.serve() as url:
        return asyncio.run(scenario(url))


def effect_of(name: str) -> Effect:
    """What is known after a request whose answer cannot be used."""
    return Effect.NONE if name in READS else Effect.UNKNOWN


@pytest.mark.req("RUN-10", "UX-1")
@pytest.mark.parametrize("name", CALLS)
def test_a_token_that_is_not_accepted_is_said_so(name: str) -> None:
    """401: exit code 12, nothing touched, the command that stores another one, and not the token."""
    with pytest.raises(PrerequisiteError) as caught:
        ask(TfcServer(1), CALLS[name], token="wrong0canary")

    assert "401" in caught.value.message
    assert "hyops init terraform-cloud" in caught.value.hint
    assert "wrong0canary" not in str(caught.value.as_json())


@pytest.mark.req("RUN-10", "UX-1")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [204, 302, 400, 403, 409, 422, 500, 502, 503])
def test_every_other_status_is_an_error_with_its_effect(name: str, status: int) -> None:
    """A redirect is not followed; what was turned down changed nothing; a server that failed may have done it."""
    server = TfcServer(1)
    server.plain = status, b'{"errors": [{"status": "x", "title": "no", "detail": "because of it"}]}'
    with pytest.raises(TargetError) as caught:
        ask(server, CALLS[name])

    assert f"HTTP {status} no: because of it" in caught.value.message if status != 204 else True
    assert caught.value.effect is (Effect.NONE if 300 <= status < 500 else effect_of(name))
    assert len(server.seen) == 1


@pytest.mark.req("RUN-10", "INV-5")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"x"',
        b"{}",
        b'{"data": null}',
        b'{"data": [1]}',
        b'{"data": {"type": "workspaces"}}',
        b'{"data": {"type": "users", "id": "x", "attributes": {"username": "\\u001b[31mada"}}}',
        b'{"data": {"type": "runs", "id": "x", "attributes": {"name": "ws-0000", "execution-mode": "local"}}}',
        b'{"data": {"type": "workspaces", "id": "x", "attributes": {"name": "ws-0000"}}}',
        b'{"data": {"type": "workspaces", "id": "x", "attributes": {"name": "ws-0000", "execution-mode": "hybrid"}}}',
        b'{"data": {"type": "workspaces", "id": 7, "attributes": {"name": "ws-0000", "execution-mode": "local"}}}',
        b'{"data": {}, "data": {}}',
        b"\xff\xfe",
        b"x" * (BYTES_MAX + 1),
    ],
    ids=lambda body: str(body[:30]),
)
def test_what_is_not_an_answer_is_an_error(name: str, body: bytes) -> None:
    """Nonsense, another type, a mode that nobody knows, too much: never taken for `local`."""
    server = TfcServer()
    server.plain = 200, body
    with pytest.raises(TargetError) as caught:
        ask(server, CALLS[name])

    assert caught.value.effect is effect_of(name)


@pytest.mark.req("RUN-10", "INV-5")
def test_an_answer_about_another_workspace_is_an_error() -> None:
    """A local workspace of another name proves nothing about the one that was asked about."""
    server = TfcServer()
    other = {"type": "workspaces", "id": "ws-9", "attributes": {"name": "other", "execution-mode": "local"}}
    server.plain = 200, json.dumps({"data": other}).encode()

    with pytest.raises(TargetError, match="about other"):
        ask(server, READS["workspace"])


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize("following", ["none", 1, 0, "2", 2.5, True, [2]])
def test_a_list_that_does_not_lead_on_is_an_error(following: Any) -> None:
    """Pages without pagination, or that lead back: no endless reading, and no half list."""
    said: dict[str, Any] = {"data": []}
    if following != "none":
        said["meta"] = {"pagination": {"next-page": following}}
    server = TfcServer()
    server.plain = 200, json.dumps(said).encode()
    with pytest.raises(TargetError):
        ask(server, READS["workspaces"])

    assert len(server.seen) == 1


@pytest.mark.req("RUN-11", "RUN-10")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("reset", "waits"),
    [
        ("0.25", [0.25, 0.25]),
        ("3600", [WAIT_MAX_S, WAIT_MAX_S]),
        ("-1", [0.2, 0.4]),
        ("nan", [0.2, 0.4]),
        ("inf", [0.2, 0.4]),
        ("soon", [0.2, 0.4]),
    ],
)
def test_429_is_waited_out_as_the_answer_says(name: str, reset: str, waits: list[float]) -> None:
    """The time that it names, within a limit; without a usable one, longer each time. Done once, not thrice."""
    server, waited = TfcServer(1), []
    server.turned_away, server.reset = 2, reset

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    ask(server, CALLS[name], pause=pause)

    assert waited == waits
    assert len(server.bodies) == (1 if name in WRITES else 0)


@pytest.mark.req("RUN-11", "RUN-10")
@pytest.mark.parametrize("name", CALLS)
def test_429_for_ever_ends(name: str) -> None:
    """After a few attempts: exit code 23, and nothing was done."""
    server = TfcServer(1)
    server.turned_away = 1000

    async def pause(_: float) -> None:
        return None

    with pytest.raises(DeadlineError) as caught:
        ask(server, CALLS[name], pause=pause)

    assert caught.value.effect is Effect.NONE
    assert len(server.seen) == ATTEMPTS_MAX


@pytest.mark.req("RUN-11", "RUN-10")
@pytest.mark.parametrize("name", CALLS)
def test_a_whole_call_has_one_limit(name: str) -> None:
    """Waiting counts: a call that is turned away beyond its limit ends, as unknown only if it may have acted."""
    server = TfcServer(1)
    server.turned_away, server.reset = 1000, "5"

    async def pause(_: float) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineError) as caught:
        ask(server, CALLS[name], limit_s=0.3, pause=pause)

    assert caught.value.effect is effect_of(name)


class Failing(httpx.AsyncBaseTransport):
    """Fails as the library may; keeps what it was asked for."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise."""
        raise self.error


def errors_of(kind: type[Exception]) -> list[type[Exception]]:
    """A class and all below it."""
    return [kind, *(found for sub in kind.__subclasses__() for found in errors_of(sub))]


@pytest.mark.req("UX-1", "INV-10", "RUN-10")
@pytest.mark.parametrize("name", ["workspace", "set_local"])
@pytest.mark.parametrize("kind", [*errors_of(httpx.HTTPError), httpx.InvalidURL, OSError, TimeoutError])
def test_every_error_of_the_library_becomes_one_of_ours(kind: type[Exception], name: str) -> None:
    """All of httpx's tree, with the right effect, and none of them carries the token out."""
    words: dict[str, Any] = {"request": None, "response": None} if kind is httpx.HTTPStatusError else {}
    api = TfcApi("http://tfe.example.org", TOKEN, transport=Failing(kind(f"failed with {TOKEN}", **words)))

    async def scenario() -> None:
        await CALLS[name](api)

    with pytest.raises(HyopsError) as caught:
        asyncio.run(scenario())

    assert isinstance(caught.value, DeadlineError if "Timeout" in kind.__name__ else TargetError)
    assert caught.value.effect is (Effect.NONE if kind is httpx.ConnectError else effect_of(name))
    assert TOKEN not in str(caught.value.as_json())


@pytest.mark.req("RUN-10", "INV-10")
@pytest.mark.parametrize("name", ["..", ".", "", "...."])
def test_a_name_that_would_be_another_place_is_refused(name: str) -> None:
    """Before anything is sent."""
    server = TfcServer(1)
    with pytest.raises(ConfigError):
        ask(server, lambda cloud: cloud.workspace(ORGANIZATION, name))

    assert server.seen == []


@pytest.mark.req("RUN-10", "INV-10")
def test_a_name_stays_one_segment_of_the_path() -> None:
    """Slashes and question marks do not lead elsewhere."""
    server = TfcServer(1)

    assert ask(server, lambda cloud: cloud.workspace(ORGANIZATION, "../x?y=1#z")) is None
    assert server.seen == [f"GET /api/v2/organizations/{ORGANIZATION}/workspaces/..%2Fx%3Fy%3D1%23z"]


@pytest.mark.req("RUN-10")
def test_an_inherited_mode_becomes_the_workspaces_own() -> None:
    """Set to local, it stays local when the organization's default is changed afterwards."""
    server = TfcServer(1, default_mode="local")

    async def scenario(cloud: TerraformCloud) -> tuple[Workspace | None, Workspace | None]:
        before = await cloud.workspace(ORGANIZATION, "ws-0000")
        assert before is not None
        await cloud.set_local(before)
        server.default_mode = "remote"
        return before, await cloud.workspace(ORGANIZATION, "ws-0000")

    before, after = ask(server, scenario)

    assert (before.mode, before.inherited) == (ExecutionMode.LOCAL, True)
    assert (after.mode, after.inherited) == (ExecutionMode.LOCAL, False)


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize("heeds", [True, False])
def test_ensuring_over_the_api_reads_back_what_was_done(heeds: bool) -> None:
    """A remote workspace is refused, then set; a server that says yes and does nothing is not believed."""
    server = TfcServer(1, heeds=heeds)
    with pytest.raises(PrerequisiteError, match="runs remote"):
        ask(server, lambda cloud: ensure_local(cloud, ORGANIZATION, "ws-0000"))
    assert server.bodies == []
    if heeds:
        ensured = ask(server, lambda cloud: ensure_local(cloud, ORGANIZATION, "ws-0000", set_local=True))
        assert (ensured.done, ensured.workspace.mode) == ("set-local", ExecutionMode.LOCAL)
        return
    with pytest.raises(HyopsError) as caught:
        ask(server, lambda cloud: ensure_local(cloud, ORGANIZATION, "ws-0000", set_local=True))
    assert caught.value.exit_code == 40


@pytest.mark.req("UX-1", "RUN-10")
def test_a_certificate_that_is_none_is_named_by_its_file(tmp_path: Path) -> None:
    """A missing and a broken CA file are the operator's to mend, never a reason to trust anybody."""
    (tmp_path / "broken.pem").write_text("no certificate")
    for name in ("missing.pem", "broken.pem"):
        api = TfcApi("https://127.0.0.1:1", TOKEN, ca_file=tmp_path / name)
        with pytest.raises(ConfigError, match=name):
            asyncio.run(api.whoami())
