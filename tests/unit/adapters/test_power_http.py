"""The HTTP power switch believes nothing that is not exactly an answer, and its token goes nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from hyops.adapters.power_http import BYTES_MAX, HttpPowerSwitch, PowerWords
from hyops.errors import ConfigError, DeadlineError, HyopsError, PrerequisiteError, TargetError
from hyops.ports.power import PowerState
from hyops.runner.options import Power
from power_server import TOKEN, PowerServer


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The file with the token."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def ask(url: str, token: Path, *, limit_s: float = 10.0, **words: Any) -> PowerState:
    """The state of host `a`."""
    return asyncio.run(HttpPowerSwitch(url, token, limit_s=limit_s, **words).state("a"))


@pytest.mark.req("INV-5", "FEN-1")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"off",
        b"[]",
        b'"off"',
        b'{"power": null}',
        b'{"power": ["off"]}',
        b'{"state": "off"}',
        b'{"power": "on", "power": "off"}',
        b'{"host": "b", "power": "off"}',
        b'{"host": null, "power": "off"}',
        b'{"power": "off"} {"power": "on"}',
        b'{"power": "off", "pad": "' + b"x" * BYTES_MAX + b'"}',
        b"\xff\xfe",
    ],
)
def test_what_is_not_an_answer_is_no_state(body: bytes, token: Path) -> None:
    """Garbage, two answers in one, too much, another host's: an error, never `off`."""
    with PowerServer(body).serve() as url, pytest.raises(TargetError):
        ask(url, token)


@pytest.mark.req("INV-5", "FEN-1")
@pytest.mark.parametrize("status", [202, 204, 302, 401, 403, 404, 409, 500, 503])
def test_only_a_success_is_read(status: int, token: Path) -> None:
    """`off` in the body of an error or a redirect is nothing; another success is read as one."""
    with PowerServer(b'{"power": "off"}' if status != 204 else b"", status).serve() as url:
        if status == 202:
            assert ask(url, token) is PowerState.OFF
            return
        with pytest.raises(TargetError):
            ask(url, token)


@pytest.mark.req("VOC-5")
@pytest.mark.parametrize("word", ["OFF", "paused", "cycling", "soft-off", ""])
def test_a_word_that_nobody_agreed_on_is_unknown(word: str, token: Path) -> None:
    """Neither on nor off."""
    with PowerServer(f'{{"power": "{word}"}}'.encode()).serve() as url:
        assert ask(url, token) is PowerState.UNKNOWN


@pytest.mark.req("FEN-1")
def test_another_api_of_the_kind_needs_other_words_only(token: Path) -> None:
    """The words of a Redfish BMC: other paths, an order with a body, other names for on and off."""
    words = PowerWords(
        state_path="/redfish/v1/Systems/{host}",
        off_path="/redfish/v1/Systems/{host}/Actions/ComputerSystem.Reset",
        off_body={"ResetType": "ForceOff"},
        state_key="PowerState",
        host_key="Id",
        on=frozenset({"On"}),
        off=frozenset({"Off"}),
    )
    server = PowerServer(b'{"Id": "a", "PowerState": "Off"}')

    async def scenario(url: str) -> None:
        switch = HttpPowerSwitch(url, token, limit_s=10.0, words=words)
        await switch.off("a")
        assert await switch.state("a") is PowerState.OFF

    with server.serve() as url:
        asyncio.run(scenario(url))

    assert server.seen == [
        "POST /redfish/v1/Systems/a/Actions/ComputerSystem.Reset",
        "GET /redfish/v1/Systems/a",
    ]
    assert server.bodies == [b'{"ResetType":"ForceOff"}', b""]


@pytest.mark.req("INV-10", "FEN-1")
def test_a_hosts_name_cannot_leave_its_place_in_the_path(token: Path) -> None:
    """Slashes and dots in a name stay a name."""
    server = PowerServer(b'{"power": "off"}')
    with server.serve() as url:
        asyncio.run(HttpPowerSwitch(url, token, limit_s=10.0).off("../b/off?x="))

    assert server.seen == ["POST /hosts/..%2Fb%2Foff%3Fx%3D/off"]


class Failing(httpx.AsyncBaseTransport):
    """Fails as the library may."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise."""
        raise self.error


def errors_of(kind: type[Exception]) -> list[type[Exception]]:
    """A class and all below it."""
    return [kind, *(found for sub in kind.__subclasses__() for found in errors_of(sub))]


@pytest.mark.req("UX-1", "INV-10")
@pytest.mark.parametrize("kind", [*errors_of(httpx.HTTPError), httpx.InvalidURL, OSError, TimeoutError])
def test_every_error_of_the_library_becomes_one_of_ours(kind: type[Exception], token: Path) -> None:
    """All of httpx's tree, and none of them carries the token out."""
    words: dict[str, Any] = {"request": None, "response": None} if kind is httpx.HTTPStatusError else {}
    error = kind(f"failed with {TOKEN}", **words)
    with pytest.raises(HyopsError) as caught:
        ask("http://switch", token, transport=Failing(error))

    assert isinstance(caught.value, DeadlineError if "Timeout" in kind.__name__ else TargetError)
    assert TOKEN not in str(caught.value.as_json())


@pytest.mark.req("INV-10", "UX-1")
@pytest.mark.parametrize("content", [None, b"", b"\n", b"two words", b"line\nline", b"\xc3\xa4", b"x\0y"])
def test_a_token_that_is_none_is_named_by_its_file(content: bytes | None, tmp_path: Path) -> None:
    """Missing, empty, broken: refused before anything is sent, without its content."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    server = PowerServer()
    with server.serve() as url, pytest.raises((ConfigError, PrerequisiteError), match="token"):
        ask(url, path)

    assert server.seen == []


@pytest.mark.req("UX-1")
def test_a_certificate_that_is_none_is_named_by_its_file(token: Path, tmp_path: Path) -> None:
    """A missing and a broken CA file are the operator's to mend, never a reason to trust anybody."""
    (tmp_path / "broken.pem").write_text("no certificate")
    for name in ("missing.pem", "broken.pem"):
        with pytest.raises(ConfigError, match=name):
            ask("https://127.0.0.1:1", token, ca_file=tmp_path / name)


@pytest.mark.req("UX-2", "INV-10")
@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://switch"},
        {"url": "http://user:secret@switch"},
        {"url": "http://switch/?token=x"},
        {"url": "switch:8081"},
        {"token_file": "relative"},
        {"limit_s": 0},
        {"limit_s": 11},
        {"head_start_s": -1},
        {"token": "x"},
    ],
)
def test_options_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    """Another scheme, secrets in the address, no limit, a token instead of its file."""
    good: dict[str, Any] = {"url": "https://switch.internal:8081/api", "token_file": "/etc/hyops/power"}
    assert Power(**good).head_start_s == 1.0
    with pytest.raises(ValidationError):
        Power(**(good | change))
