"""Google Compute Engine's `instances.get` and `firewalls.list`, and the metadata server's token, as published.

Source: Compute Engine REST reference v1 (paths, resource fields, `maxResults`, `nextPageToken`, error envelope); "About
VM metadata" (`Metadata-Flavor`). It is a fake: nothing here boots a machine or filters a packet.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fakes.server import Answer, FakeServer, Request

INSTANCE = re.compile(r"/compute/v1/projects/([^/]+)/zones/([^/]+)/instances/([^/]+)")
FIREWALLS = re.compile(r"/compute/v1/projects/([^/]+)/global/firewalls")
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
PAGE = 2  # the real default is 500; two make every list a paged one


@dataclass
class FakeGce(FakeServer):
    """`instances` by (project, zone, name); `rules` by project, as the resources' own JSON."""

    instances: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    on_a_vm: bool = True
    denied: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def boot(
        self, project: str, zone: str, name: str, address: str, *, tags: list[str], status: str = "RUNNING"
    ) -> None:
        """`gcloud compute instances create`; a machine without tags has no `items`."""
        network = f"https://www.googleapis.com/compute/v1/projects/{project}/global/networks/default"
        self.instances[project, zone, name] = {
            "kind": "compute#instance",
            "id": "7",
            "name": name,
            "status": status,
            "tags": {"fingerprint": "x", **({"items": tags} if tags else {})},
            "networkInterfaces": [{"kind": "compute#networkInterface", "network": network, "networkIP": address}],
        }

    def rule(self, project: str, name: str, *, deny: bool = False, **more: Any) -> None:
        """`gcloud compute firewall-rules create`, with the fields that the API fills in."""
        what = [{"IPProtocol": "tcp", "ports": ["22"]}]
        self.rules.setdefault(project, []).append(
            {
                "kind": "compute#firewall",
                "name": name,
                "network": f"https://www.googleapis.com/compute/v1/projects/{project}/global/networks/default",
                "priority": 1000,
                "direction": "INGRESS",
                "disabled": False,
                "denied" if deny else "allowed": what,
                **more,
            }
        )

    def in_mode(self, mode: str, request: Request) -> Answer:
        """Out of order."""
        return self._error(503, "backendError", "The service is currently unavailable.")

    def answer(self, request: Request) -> Answer:
        """Route."""
        parts = urlsplit(request.path)
        if parts.path == TOKEN:
            if not self.on_a_vm or request.headers.get("metadata-flavor") != "Google":
                return Answer(403, b"Missing Metadata-Flavor:Google header.")
            return Answer(200, json.dumps({"access_token": "t", "expires_in": 3000, "token_type": "Bearer"}).encode())
        if request.headers.get("authorization") != "Bearer t":
            return self._error(401, "authError", "Invalid Credentials")
        if self.denied:
            return self._error(403, "forbidden", "Required 'compute.instances.get' permission")
        if (found := INSTANCE.fullmatch(parts.path)) is not None:
            known = self.instances.get((found[1], found[2], found[3]))
            return (
                self._body(known) if known else self._error(404, "notFound", f"The resource '{found[0]}' was not found")
            )
        if (found := FIREWALLS.fullmatch(parts.path)) is not None:
            return self._page(self.rules.get(found[1], []), parse_qs(parts.query))
        return self._error(404, "notFound", "not found")

    def _page(self, rules: list[dict[str, Any]], query: dict[str, list[str]]) -> Answer:
        start = int(query.get("pageToken", ["0"])[0])
        body: dict[str, Any] = {"kind": "compute#firewallList", "id": "projects/p/global/firewalls"}
        if chosen := rules[start : start + PAGE]:
            body["items"] = chosen  # an empty list has no `items`
        if len(rules) > start + PAGE:
            body["nextPageToken"] = str(start + PAGE)
        return self._body(body)

    def _body(self, body: Any) -> Answer:
        return Answer(200, json.dumps(body).encode())

    def _error(self, code: int, reason: str, message: str) -> Answer:
        errors = [{"message": message, "domain": "global", "reason": reason}]
        return Answer(code, json.dumps({"error": {"code": code, "message": message, "errors": errors}}).encode())
