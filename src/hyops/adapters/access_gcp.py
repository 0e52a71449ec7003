"""What Google Compute Engine says of an instance and of its network's firewall; read-only (ACC-1).

Source: Compute Engine REST reference v1, `instances.get` and `firewalls.list` (paging by `nextPageToken`); "About VM
metadata" for the identity of the runner's machine, which needs `compute.instances.get` and `compute.firewalls.list`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hyops.adapters.http_client import httpx, tls_for
from hyops.errors import PrerequisiteError
from hyops.ports.access import FirewallSeen, InstanceSeen

API, METADATA = "https://compute.googleapis.com", "http://metadata.google.internal"
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105  a path
LIMIT_S = 10.0
PAGES_MAX = 20
REPLY_BYTES_MAX = 8 * 1024 * 1024
OTHER_SOURCES = ("sourceTags", "sourceServiceAccounts")


class ComputeApi:
    """`CloudProbes`."""

    def __init__(self, api: str = API, metadata: str = METADATA) -> None:
        self._api, self._metadata = api, metadata

    async def instance(self, project: str, zone: str, instance: str) -> InstanceSeen:
        """See the port."""
        (body,) = await self._get(f"/compute/v1/projects/{project}/zones/{zone}/instances/{instance}", pages=1)
        try:
            cards = body["networkInterfaces"]
            return InstanceSeen(
                str(body["status"]),
                tuple(str(card["networkIP"]) for card in cards),
                tuple(str(tag) for tag in body.get("tags", {}).get("items", [])),
                _short(cards[0]["network"]),
            )
        except (KeyError, TypeError, IndexError, AttributeError) as exc:
            raise PrerequisiteError(f"instance {instance}: the API's answer lacks {exc}") from exc

    async def firewalls(self, project: str, network: str) -> list[FirewallSeen]:
        """See the port: every ingress rule of the network, whatever the page it stands on."""
        found = []
        for page in await self._get(f"/compute/v1/projects/{project}/global/firewalls", pages=PAGES_MAX):
            try:
                rules = [_rule(rule) for rule in page.get("items", []) if rule.get("direction", "INGRESS") == "INGRESS"]
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise PrerequisiteError(f"project {project}: a firewall rule that is none: {exc}") from exc
            found += [rule for rule in rules if rule.network == network]
        return found

    async def _get(self, path: str, *, pages: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with httpx.AsyncClient(
            timeout=LIMIT_S, trust_env=False, follow_redirects=False, verify=tls_for([self._api])
        ) as client:
            token = (await _object(client, self._metadata + TOKEN, {"Metadata-Flavor": "Google"}, {})).get(
                "access_token"
            )
            if not isinstance(token, str) or not token:
                raise PrerequisiteError("the metadata server gave no token", hint="give the runner a service account")
            query: dict[str, str] = {}
            while True:
                page = await _object(client, self._api + path, {"Authorization": f"Bearer {token}"}, query)
                found.append(page)
                if not page.get("nextPageToken"):
                    return found
                if len(found) >= pages:
                    raise PrerequisiteError(f"{path}: more than {pages} pages, and a rule may stand on the next")
                query = {"pageToken": str(page["nextPageToken"])}


async def _object(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], query: Mapping[str, str]
) -> dict[str, Any]:
    """One JSON object; everything else tells nothing."""
    where = url.partition("?")[0]
    try:
        reply = await client.get(url, headers=dict(headers), params=dict(query))
        if len(reply.content) > REPLY_BYTES_MAX:
            raise PrerequisiteError(f"{where}: {len(reply.content)} bytes")
        value = reply.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise PrerequisiteError(f"{where}: {type(exc).__name__}", hint="see that the runner reaches the API") from exc
    if reply.status_code != 200 or not isinstance(value, dict):
        hint = "grant the runner's service account compute.viewer" if reply.status_code in (401, 403) else None
        raise PrerequisiteError(f"{where}: HTTP {reply.status_code}", hint=hint)
    return value


def _rule(rule: Mapping[str, Any]) -> FirewallSeen:
    allow = "allowed" in rule
    parts = rule["allowed"] if allow else rule["denied"]
    return FirewallSeen(
        name=str(rule["name"]),
        network=_short(rule["network"]),
        priority=int(rule.get("priority", 1000)),
        allow=allow,
        disabled=rule.get("disabled") is True,
        sources=tuple(str(source) for source in rule.get("sourceRanges", [])),
        target_tags=tuple(str(tag) for tag in rule.get("targetTags", [])),
        protocols=tuple((str(p["IPProtocol"]).lower(), tuple(map(_range, p.get("ports", [])))) for p in parts),
        other_sources=any(rule.get(name) for name in OTHER_SOURCES),
    )


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(text))
    if found is None:
        raise ValueError(f"{text!r} is no port range")
    return int(found[1]), int(found[2] or found[1])


def _short(url: str) -> str:
    """`default` of `https://www.googleapis.com/compute/v1/projects/p/global/networks/default`."""
    return str(url).rpartition("/networks/")[2]
