"""Terraform Cloud's API v2 on loopback, as its documentation publishes it: JSON:API, 404 for all that is hidden.

A fake, and complete only for workspaces and the own account. What it keeps of the published behaviour has tests of
its own (`contract/test_tfc_contract.py`), so that an adapter is not tested against an invention.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hyops.testing.tfc import ORGANIZATION, SECRET_ORGANIZATION

TOKEN = "canary0token.atlasv1.5f1c"
TYPE = "application/vnd.api+json"
NAME = re.compile(r"[A-Za-z0-9_-]{1,90}")
Answer = tuple[int, dict[str, Any] | None]


class TfcServer:
    """`turned_away`: how many requests get 429 first. `seen`: method and path of each. `mode`: a plain answer instead.

    `default_mode` is the organization's, and `heeds` False makes changes succeed without effect.
    """

    def __init__(self, count: int = 0, *, default_mode: str = "remote", heeds: bool = True) -> None:
        self.default_mode, self.heeds = default_mode, heeds
        self.organizations: dict[str, dict[str, dict[str, Any]]] = {ORGANIZATION: {}, SECRET_ORGANIZATION: {}}
        self.hidden = {SECRET_ORGANIZATION}
        for number in range(count):
            self.add(ORGANIZATION, f"ws-{number:04}")
        self.add(SECRET_ORGANIZATION, "vault")
        self.turned_away = 0
        self.reset = "0.004"
        self.plain: tuple[int, bytes] | None = None
        self.seen: list[str] = []
        self.bodies: list[Any] = []
        self.url = ""

    def add(self, organization: str, name: str, **attributes: Any) -> dict[str, Any]:
        """One workspace, in the organization's default mode unless told otherwise."""
        identity = f"ws-{sum(map(len, self.organizations.values())):016}"
        own = "execution-mode" in attributes
        told = {"name": name, "locked": False, "setting-overwrites": {"execution-mode": own, "agent-pool": own}}
        item = {"id": identity, "type": "workspaces", "attributes": told | attributes}
        self.organizations[organization][identity] = item
        return item

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Its URL, while it serves."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            do_POST = do_PATCH = do_GET  # noqa: N815  the names in the base class

            def log_message(self, format: str, *words: object) -> None:  # noqa: A002  the name in the base class
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield self.url
            finally:
                server.shutdown()
                thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        self.seen.append(f"{request.command} {request.path}")
        raw = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if self.plain is not None:
            return _reply(request, *self.plain)
        if self.turned_away > 0:
            self.turned_away -= 1
            limits = {"x-ratelimit-limit": "30", "x-ratelimit-remaining": "0", "x-ratelimit-reset": self.reset}
            return _reply(request, 429, _encoded(_errors(429, "Too many requests")), limits)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _reply(request, 401, _encoded(_errors(401, "unauthorized")))
        status, said = self._routed(request, raw)
        return _reply(request, status, b"" if said is None else _encoded(said))

    def _routed(self, request: BaseHTTPRequestHandler, raw: bytes) -> Answer:
        where = urlsplit(request.path)
        parts = [unquote(part) for part in where.path.split("/")[1:]]
        body: Any = None
        if request.command in ("POST", "PATCH"):
            if request.headers.get("Content-Type") != TYPE:
                return 415, _errors(415, "unsupported media type")
            try:
                body = json.loads(raw)
            except ValueError:
                return 400, _errors(400, "bad request")
            self.bodies.append(body)
        match (request.command, *parts):
            case ("GET", "api", "v2", "account", "details"):
                told = {"username": "ada", "is-service-account": False}
                return 200, {"data": {"id": "user-1", "type": "users", "attributes": told}}
            case (method, "api", "v2", "organizations", organization, "workspaces", *rest) if self._sees(organization):
                if method == "GET" and not rest:
                    return self._listed(organization, where.path, parse_qs(where.query))
                if method == "POST" and not rest:
                    return self._created(organization, body)
                return self._one(method, self._named(organization, rest), body)
            case (method, "api", "v2", "workspaces", identity):
                return self._one(method, self._identified(identity), body)
        return 404, _errors(404, "not found")

    def _sees(self, organization: str) -> bool:
        return organization in self.organizations and organization not in self.hidden

    def _named(self, organization: str, rest: list[str]) -> dict[str, Any] | None:
        of = self.organizations[organization].values()
        return next((item for item in of if [item["attributes"]["name"]] == rest), None)

    def _identified(self, identity: str) -> dict[str, Any] | None:
        seen = (items for name, items in self.organizations.items() if self._sees(name))
        return next((items[identity] for items in seen if identity in items), None)

    def _one(self, method: str, item: dict[str, Any] | None, body: Any) -> Answer:
        if item is None or method not in ("GET", "PATCH"):
            return 404, _errors(404, "not found")
        if method == "PATCH":
            if (wrong := _wrong(body, named=False)) is not None:
                return wrong
            if self.heeds:
                item["attributes"].update(_settings(body["data"]["attributes"]))
        return 200, {"data": self._shown(item)}

    def _created(self, organization: str, body: Any) -> Answer:
        if (wrong := _wrong(body, named=True)) is not None:
            return wrong
        told = body["data"]["attributes"]
        if self._named(organization, [told["name"]]) is not None:
            return 422, _errors(422, "invalid attribute", "Name has already been taken", "/data/attributes/name")
        item = self.add(organization, told["name"], **(_settings(told) if self.heeds else {}))
        return 201, {"data": self._shown(item)}

    def _listed(self, organization: str, path: str, query: dict[str, list[str]]) -> Answer:
        number = int(query.get("page[number]", ["1"])[0])
        size = min(int(query.get("page[size]", ["20"])[0]), 100)
        items = list(self.organizations[organization].values())
        pages = max(1, -(-len(items) // size))
        told = {
            "current-page": number,
            "page-size": size,
            "prev-page": number - 1 if number > 1 else None,
            "next-page": number + 1 if number < pages else None,
            "total-pages": pages,
            "total-count": len(items),
        }
        shown = [self._shown(item) for item in items[(number - 1) * size : number * size]]
        self_link = f"{self.url}{path}?page%5Bnumber%5D={number}&page%5Bsize%5D={size}"
        return 200, {"data": shown, "links": {"self": self_link}, "meta": {"pagination": told}}

    def _shown(self, item: dict[str, Any]) -> dict[str, Any]:
        """What inherits follows the organization at the moment of the question."""
        told = dict(item["attributes"])
        told.setdefault("execution-mode", self.default_mode)
        told["operations"] = told["execution-mode"] != "local"
        return {**item, "attributes": told}


def _settings(told: dict[str, Any]) -> dict[str, Any]:
    """The attributes that are kept; an execution mode that is given is the workspace's own from then on."""
    kept = {key: told[key] for key in ("execution-mode", "setting-overwrites") if key in told}
    if "execution-mode" in kept:
        kept.setdefault("setting-overwrites", {"execution-mode": True, "agent-pool": True})
    return kept


def _wrong(body: Any, *, named: bool) -> Answer | None:
    try:
        data = body["data"]
        told = data["attributes"]
        kind, mode, name = data["type"], told.get("execution-mode", "local"), told.get("name", "")
    except (TypeError, KeyError, AttributeError):
        return 400, _errors(400, "bad request")
    if kind != "workspaces":
        return 422, _errors(422, "invalid type", "data.type must be workspaces", "/data/type")
    if named and not NAME.fullmatch(name):
        detail = "Name can only include letters, numbers, -, and _"
        return 422, _errors(422, "invalid attribute", detail, "/data/attributes/name")
    if mode not in ("remote", "local", "agent") or (mode == "agent" and "agent-pool-id" not in told):
        detail = "Execution mode is invalid or lacks its agent pool"
        return 422, _errors(422, "invalid attribute", detail, "/data/attributes/execution-mode")
    return None


def _errors(status: int, title: str, detail: str = "", pointer: str = "") -> dict[str, Any]:
    error: dict[str, Any] = {"status": str(status), "title": title}
    if detail:
        error |= {"detail": detail, "source": {"pointer": pointer}}
    return {"errors": [error]}


def _encoded(said: Any) -> bytes:
    return json.dumps(said).encode()


def _reply(request: BaseHTTPRequestHandler, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Type", f"{TYPE}; charset=utf-8")
    request.send_header("Content-Length", str(len(body)))
    for name, value in (more or {}).items():
        request.send_header(name, value)
    request.end_headers()
    try:
        request.wfile.write(body)
    except OSError:  # the client has had enough of it
        request.close_connection = True
