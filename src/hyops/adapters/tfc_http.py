"""Terraform Cloud's API v2 over httpx: JSON:API documents, a bearer token, bounded answers (RUN-10).

The token goes to the one host that it belongs to: no redirects, no proxies from the environment, never into an error.
401 is about the token alone; what the token may not see and what does not exist are both 404. A request that was
turned away with 429 has done nothing and is repeated after the time that the answer names.
Source: HCP Terraform API documentation, "API Docs", "Workspaces", "Account".
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hyops.adapters.http_client import GIVEN_UP, httpx, whole
from hyops.errors import ConfigError, DeadlineError, Effect, PrerequisiteError, RecordError, TargetError
from hyops.model import canonical
from hyops.ports.terraform_cloud import ExecutionMode, Workspace

TYPE = "application/vnd.api+json"
BYTES_MAX = 4 * 1024 * 1024
PAGE_SIZE = 100
PAGES_MAX = 100
ATTEMPTS_MAX = 6
WAIT_MAX_S = 5.0
"""For one 429; 30 requests a second are allowed, so an honest answer names less than a second."""


class TfcApi:
    """`TerraformCloud`. `limit_s` bounds a whole call with all its pages and repetitions."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        limit_s: float = 30.0,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url, self._token, self._limit_s = url.rstrip("/"), token, limit_s
        self._ca_file, self._transport, self._pause = ca_file, transport, pause

    async def whoami(self) -> str:
        """See the port."""
        said = await self._call("GET", "/account/details")
        if said is None:
            raise PrerequisiteError("Terraform Cloud: this token has no account that it may look at")
        account = _one(said)
        name = _attributes(account, Effect.NONE).get("username")
        if account.get("type") != "users" or not isinstance(name, str) or not name.isprintable():
            raise TargetError("Terraform Cloud: the answer is not an account", effect=Effect.NONE)
        return name

    async def workspace(self, organization: str, name: str) -> Workspace | None:
        """See the port."""
        said = await self._call("GET", f"/organizations/{_in_path(organization)}/workspaces/{_in_path(name)}")
        if said is None:
            return None
        found = _workspace(_one(said), organization, Effect.NONE)
        if found.name != name:
            raise TargetError(
                f"Terraform Cloud: asked about workspace {name}, answered about {found.name[:90]}", effect=Effect.NONE
            )
        return found

    async def workspaces(self, organization: str) -> list[Workspace]:
        """See the port."""
        path = f"/organizations/{_in_path(organization)}/workspaces"
        found: list[Workspace] = []
        page: int | None = 1
        async with self._limited("GET"):
            for _ in range(PAGES_MAX):
                said = await self._call("GET", f"{path}?page%5Bnumber%5D={page}&page%5Bsize%5D={PAGE_SIZE}")
                if said is None:
                    raise _hidden(f"organization {organization}")
                found += [_workspace(item, organization, Effect.NONE) for item in _many(said)]
                page = _next_page(said, page or 1)
                if page is None:
                    return sorted(found, key=lambda workspace: workspace.name)
        raise TargetError(f"Terraform Cloud: more than {PAGES_MAX} pages of workspaces", effect=Effect.NONE)

    async def create_local(self, organization: str, name: str) -> Workspace:
        """See the port."""
        body = _document({"name": name, **_LOCAL})
        said = await self._call("POST", f"/organizations/{_in_path(organization)}/workspaces", body)
        if said is None:
            raise _hidden(f"organization {organization}, or the right to make workspaces in it")
        return _workspace(_one(said), organization)

    async def set_local(self, workspace: Workspace) -> Workspace:
        """See the port."""
        said = await self._call("PATCH", f"/workspaces/{_in_path(workspace.workspace_id)}", _document(_LOCAL))
        if said is None:
            raise _hidden(f"workspace {workspace.organization}/{workspace.name}, or the right to change it")
        return _workspace(_one(said), workspace.organization)

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The document of a success; None for 404."""
        async with self._limited(method):
            for attempt in range(1, ATTEMPTS_MAX + 1):
                status, headers, data = await self._send(method, path, body)
                if status != httpx.codes.TOO_MANY_REQUESTS:
                    return _read(method, status, data)
                if attempt < ATTEMPTS_MAX:
                    await self._pause(_wait_s(headers, attempt))
        raise DeadlineError(f"Terraform Cloud: turned away {ATTEMPTS_MAX} times (HTTP 429)", effect=Effect.NONE)

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": TYPE, "Accept-Encoding": "identity"}
        content = None if body is None else canonical.encode(body)
        if content is not None:
            headers["Content-Type"] = TYPE
        effect = _effect(method)
        try:
            async with (
                httpx.AsyncClient(
                    verify=self._tls(),
                    transport=self._transport,
                    timeout=self._limit_s,
                    trust_env=False,
                    follow_redirects=False,
                    event_hooks=GIVEN_UP,
                ) as client,
                client.stream(method, f"{self._url}/api/v2{path}", headers=headers, content=content) as reply,
            ):
                data = await whole(reply, BYTES_MAX)
                if data is None:
                    raise TargetError(f"Terraform Cloud: an answer of more than {BYTES_MAX} bytes", effect=effect)
                return reply.status_code, reply.headers, data
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise DeadlineError(f"Terraform Cloud: no answer ({type(exc).__name__})", effect=effect) from exc
        except httpx.ConnectError as exc:
            raise TargetError(f"Terraform Cloud: no connection to {self._url}", effect=Effect.NONE) from exc
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as exc:
            raise TargetError(f"Terraform Cloud: {type(exc).__name__}", effect=effect) from exc

    def _limited(self, method: str) -> _Limit:
        return _Limit(self._limit_s, _effect(method))

    def _tls(self) -> ssl.SSLContext:
        if not self._url.startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and takes no time to load
        try:
            return ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except OSError as exc:  # also ssl.SSLError
            raise ConfigError(f"Terraform Cloud: {self._ca_file}: {exc.strerror or 'not a certificate'}") from exc


class _Limit:
    """`asyncio.timeout` that ends in an error of ours."""

    def __init__(self, limit_s: float, effect: Effect) -> None:
        self._limit_s, self._effect, self._timer = limit_s, effect, asyncio.timeout(limit_s)

    async def __aenter__(self) -> None:
        await self._timer.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            said = f"Terraform Cloud: not done within {self._limit_s:g} s"
            raise DeadlineError(said, effect=self._effect) from exc


_LOCAL: dict[str, Any] = {
    "execution-mode": str(ExecutionMode.LOCAL),
    "setting-overwrites": {"execution-mode": True, "agent-pool": True},  # else the organization's default decides
}


def _document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": {"type": "workspaces", "attributes": dict(attributes)}}


def _effect(method: str) -> Effect:
    """What is known of a request without an answer."""
    return Effect.NONE if method == "GET" else Effect.UNKNOWN


def _in_path(name: str) -> str:
    """One segment of a path; a name of dots only would be another place."""
    if not name or not name.strip("."):
        raise ConfigError(f"{name!r} is not a name")
    return quote(name, safe="")


def _hidden(what: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"Terraform Cloud: {what}: absent, or this token may not see it (HTTP 404)",
        hint="check the name and what the token's team may do",
    )


def _read(method: str, status: int, data: bytes) -> dict[str, Any] | None:
    if status == httpx.codes.NOT_FOUND:
        return None
    if status == httpx.codes.UNAUTHORIZED:
        raise PrerequisiteError(
            "Terraform Cloud: the token is not accepted (HTTP 401)",
            hint="store another: hyops init terraform-cloud",
        )
    if status not in (httpx.codes.OK, httpx.codes.CREATED):
        turned_down = 300 <= status < 500  # the request was understood and not done
        effect = Effect.NONE if turned_down or method == "GET" else Effect.UNKNOWN
        raise TargetError(f"Terraform Cloud: {method}: HTTP {status}{_told(data)}", effect=effect)
    try:
        said = canonical.parse(data, source="Terraform Cloud", bytes_max=BYTES_MAX)
    except RecordError as exc:
        raise TargetError(exc.message, effect=_effect(method)) from exc
    if not isinstance(said, dict):
        raise TargetError("Terraform Cloud: not a JSON:API document", effect=_effect(method))
    return said


def _told(data: bytes) -> str:
    """The titles and details of a JSON:API error document, cut short; nothing when it is none."""
    try:
        said = canonical.parse(data, source="errors", bytes_max=BYTES_MAX)
        told = [f"{error.get('title', '')}: {error.get('detail', '')}".strip(": ") for error in said["errors"]]
    except (RecordError, KeyError, TypeError, AttributeError):
        return ""
    return f" {'; '.join(told)[:300]}"


def _one(said: Mapping[str, Any]) -> Mapping[str, Any]:
    data = said.get("data")
    return data if isinstance(data, Mapping) else {}


def _many(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = said.get("data")
    if not isinstance(data, list) or not all(isinstance(item, Mapping) for item in data):
        raise TargetError("Terraform Cloud: no list in the answer", effect=Effect.NONE)
    return data


def _attributes(item: Mapping[str, Any], effect: Effect) -> Mapping[str, Any]:
    found = item.get("attributes")
    if not isinstance(found, Mapping):
        raise TargetError("Terraform Cloud: no object with attributes in the answer", effect=effect)
    return found


def _workspace(item: Mapping[str, Any], organization: str, effect: Effect = Effect.UNKNOWN) -> Workspace:
    told = _attributes(item, effect)
    name, identity, mode = told.get("name"), item.get("id"), told.get("execution-mode")
    if item.get("type") != "workspaces" or not isinstance(name, str) or not isinstance(identity, str):
        raise TargetError("Terraform Cloud: the answer is not a workspace", effect=effect)
    if mode not in list(ExecutionMode):
        raise TargetError(
            f"Terraform Cloud: workspace {name[:90]} runs in an unknown mode, {str(mode)[:40]!r}",
            effect=effect,
        )
    own = told.get("setting-overwrites")
    inherited = isinstance(own, Mapping) and own.get("execution-mode") is False
    return Workspace(identity, organization, name, ExecutionMode(mode), inherited, told.get("locked") is not False)


def _next_page(said: Mapping[str, Any], page: int) -> int | None:
    """The number of the page after this one; TargetError when the answer does not lead on."""
    try:
        following = said["meta"]["pagination"]["next-page"]
    except (KeyError, TypeError) as exc:
        raise TargetError("Terraform Cloud: a list without its pagination", effect=Effect.NONE) from exc
    if following is None:
        return None
    if type(following) is not int or following <= page:
        raise TargetError(f"Terraform Cloud: page {page} leads to {following!r}", effect=Effect.NONE)
    return following


def _wait_s(headers: Mapping[str, str], attempt: int) -> float:
    """What the answer asks for (`x-ratelimit-reset` or `retry-after`, seconds), else twice as long each time."""
    for name in ("x-ratelimit-reset", "retry-after"):
        try:
            asked = float(headers.get(name, ""))
        except ValueError:
            continue
        if math.isfinite(asked) and asked >= 0:
            return min(asked, WAIT_MAX_S)
    return min(0.1 * (1 << attempt), WAIT_MAX_S)
