"""The JSON gateway of etcd (v3.4 to v3.6) over several members: the first answer within a time limit wins.

Every request that goes through here may reach etcd more than once, so callers send only what is safe to repeat.
A new attempt goes to the next member every `stagger_s`, the earlier ones stay under way: a member that is dead, cut
off or in the middle of an election costs one stagger, not its whole time-out.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from hyops.adapters.http_client import GIVEN_UP, httpx, tls_for
from hyops.ports.lease import QuorumLostError

ANSWER_BYTES_MAX = 1024 * 1024
LEASE_NOT_FOUND = 5  # gRPC NOT_FOUND, as the gateway reports a lease that is gone


class LeaseGoneError(Exception):
    """Etcd says that the lease does not exist (any more)."""


def b64(text: str) -> str:
    """Keys and values travel as base64."""
    return base64.b64encode(text.encode()).decode()


class EtcdGateway:
    """A few calls to one etcd cluster. Open it once per process; `close` it at the end."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: ssl.SSLContext | None = None,
        stagger_s: float = 0.15,
        attempt_s: float = 0.4,
        limit_s: float = 1.0,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._stagger_s, self._attempt_s, self._limit_s = stagger_s, attempt_s, limit_s
        self._first = 0
        self._client = httpx.AsyncClient(
            verify=tls if tls is not None else tls_for(self._endpoints),
            trust_env=False,  # a proxy between us and the quorum would be one more thing that can fail
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16),
            event_hooks=GIVEN_UP,
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def call(self, path: str, body: dict[str, Any], *, limit_s: float | None = None) -> dict[str, Any]:
        """Post until one member answers; `body` must be safe to repeat.

        Raises:
            QuorumLostError: no member answered in time. LeaseGoneError: etcd says the lease is gone.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._limit_s if limit_s is None else min(limit_s, self._limit_s))
        running: set[asyncio.Task[tuple[int, dict[str, Any]]]] = set()
        attempt, fault = 0, "no attempt"
        try:
            while (left := end - loop.time()) > 0:
                if len(running) < 2 * len(self._endpoints):
                    which = (self._first + attempt) % len(self._endpoints)
                    running.add(asyncio.create_task(self._post(which, path, body, min(self._attempt_s, left))))
                    attempt += 1
                wait_s = min(self._stagger_s, left)
                done, running = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if isinstance(error, LeaseGoneError):
                        raise error
                    if error is None:
                        self._first, answer = task.result()
                        return answer
                    fault = str(error)
                if done:  # refused at once: the next member soon, but never in a busy loop
                    await asyncio.sleep(min(0.02, max(0.0, end - loop.time())))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        raise QuorumLostError(f"{path}: no member of {len(self._endpoints)} answered in time; last: {fault}")

    async def _post(self, which: int, path: str, body: dict[str, Any], limit_s: float) -> tuple[int, dict[str, Any]]:
        url = self._endpoints[which] + path
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._client.post(url, json=body, timeout=limit_s)
        except (httpx.HTTPError, TimeoutError, OSError) as exc:
            raise QuorumLostError(f"{url}: {type(exc).__name__}") from exc
        text = answer.content[:ANSWER_BYTES_MAX]
        value = _first_object(text)
        if answer.status_code == 200 and value is not None and "error" not in value:
            return which, value
        if value is not None and value.get("code") == LEASE_NOT_FOUND and "lease not found" in str(value.get("error")):
            raise LeaseGoneError(str(value.get("error")))
        raise QuorumLostError(f"{url}: HTTP {answer.status_code} {text[:200]!r}")

    async def watch(self, keys: Sequence[str], revision: int, attempt: int) -> AsyncIterator[list[dict[str, Any]]]:
        """Events of `keys` from `revision` on, from one member; ends when the member cannot go on.

        The caller reads the state again and watches from there; with compaction there is nothing else to do either.
        """
        url = self._endpoints[(self._first + attempt) % len(self._endpoints)] + "/v3/watch"
        low, high = min(keys), max(keys) + "\0"
        body = {"create_request": {"key": b64(low), "range_end": b64(high), "start_revision": str(revision)}}
        try:
            async with self._client.stream("POST", url, json=body, timeout=httpx.Timeout(0.4, read=None)) as answer:
                async for line in answer.aiter_lines():
                    result = (_first_object(line.encode()) or {}).get("result")
                    if not isinstance(result, dict) or result.get("canceled"):
                        return
                    yield [event for event in result.get("events", []) if isinstance(event, dict)]
        except (httpx.HTTPError, OSError):
            return


def _first_object(text: bytes) -> dict[str, Any] | None:
    try:
        value, _ = json.JSONDecoder().raw_decode(text.decode("utf-8").lstrip())
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
