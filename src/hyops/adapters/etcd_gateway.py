"""The JSON gateway of etcd (v3.4 to v3.6) over several members: the first answer within a time limit wins.

Every request that goes through here may reach etcd more than once, so callers send only what is safe to repeat.
A new attempt goes to the next member every `stagger_s`, the earlier ones stay under way: a member that is dead, cut
off or in the middle of an election costs one stagger, not its whole time-out. What one member refuses for a reason that
every other one has too ends the call at once. With a login, a request carries a token, which is asked for anew when
etcd does not know it (any more): tokens end after five minutes without use, and with a member's restart. A login costs
a member far more than a request, so one that is slow is waited for, by later calls too, and never asked for again
meanwhile: members on which all stages of several hosts sign in at once would else never answer any of them in time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hyops.adapters.etcd_posts import Posts
from hyops.adapters.http_client import GIVEN_UP, httpx, tls_for
from hyops.ports.lease import QuorumLostError

ANSWER_BYTES_MAX = 1024 * 1024
LEASE_NOT_FOUND = 5  # gRPC NOT_FOUND, as the gateway reports a lease that is gone
INVALID, DENIED, EXHAUSTED, FAILED, COMPACTED, UNKNOWN_TOKEN = 3, 7, 8, 9, 11, 16  # gRPC codes
TOKEN_OVER = ("invalid auth token", "user name is empty", "auth store is old")
SIGN_IN_S = 5.0  # bcrypt alone takes a tenth of a second of a core
PASSING = ("too many requests", "not leader", "learner")  # of those codes, what another member or a moment mends


class LeaseGoneError(Exception):
    """Etcd says that the lease does not exist (any more)."""


class EtcdRefusedError(QuorumLostError):
    """Etcd understood and will not: no other member would either. `code` is gRPC's; 0: the answer is too long."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class EtcdLogin:
    """A user of etcd's own."""

    user: str
    password: str = field(repr=False)


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
        login: EtcdLogin | None = None,
        stagger_s: float = 0.15,
        attempt_s: float = 0.4,
        limit_s: float = 1.0,
    ) -> None:
        if not endpoints:
            raise ValueError("etcd needs at least one endpoint")
        self.endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._stagger_s, self._attempt_s, self._limit_s = stagger_s, attempt_s, limit_s
        self._first = 0
        self._login, self._token = login, ""
        self._signing_in: dict[int, asyncio.Task[str]] = {}
        tls = tls if tls is not None else tls_for(self.endpoints)
        self._posts = Posts(tls)
        self._client = httpx.AsyncClient(
            verify=tls,
            trust_env=False,  # a proxy between us and the quorum would be one more thing that can fail
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
            event_hooks=GIVEN_UP,
        )

    async def close(self) -> None:
        """Give the connections back."""
        for task in (under_way := list(self._signing_in.values())):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._posts.close()
        await self._client.aclose()

    async def call(
        self,
        path: str,
        body: dict[str, Any],
        *,
        limit_s: float | None = None,
        answer_max: int = ANSWER_BYTES_MAX,
    ) -> dict[str, Any]:
        """Post until one member answers; `body` must be safe to repeat.

        Raises:
            QuorumLostError: no member answered in time. LeaseGoneError: etcd says the lease is gone.
            EtcdRefusedError: etcd will not do it, or the answer is longer than `answer_max`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._limit_s if limit_s is None else min(limit_s, self._limit_s))
        running: set[asyncio.Task[tuple[int, dict[str, Any]]]] = set()
        attempt, fault = 0, "TimeoutError"
        try:
            while (left := end - loop.time()) > 0:
                if len(running) < 2 * len(self.endpoints):
                    which, share_s = (self._first + attempt) % len(self.endpoints), min(self._attempt_s, left)
                    running.add(asyncio.create_task(self._post(which, path, body, share_s, answer_max)))
                    attempt += 1
                wait_s = min(self._stagger_s, left)
                done, running = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                errors = [task.exception() for task in done]  # of each: nobody else asks when two end at once
                for task, error in zip(done, errors, strict=True):
                    if isinstance(error, (LeaseGoneError, EtcdRefusedError)):
                        raise error
                    if error is None:
                        self._first, answer = task.result()
                        return answer
                    if attempt == 1 or not str(error).endswith("TimeoutError"):
                        fault = str(error)  # a refusal tells more than the silence of a later attempt
                if done:  # refused at once: the next member soon, but never in a busy loop
                    await asyncio.sleep(min(0.02, max(0.0, end - loop.time())))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        raise QuorumLostError(f"{path}: no member of {len(self.endpoints)} answered in time; last: {fault}")

    async def _post(
        self, which: int, path: str, body: dict[str, Any], limit_s: float, answer_max: int
    ) -> tuple[int, dict[str, Any]]:
        url = self.endpoints[which] + path
        try:
            async with asyncio.timeout(limit_s):
                token = self._token or await self._sign_in(which, "")
                try:
                    return which, await self._one(url, body, token, limit_s, answer_max)
                except EtcdRefusedError as exc:
                    if self._login is None or not any(words in str(exc) for words in TOKEN_OVER):
                        raise
                return which, await self._one(url, body, await self._sign_in(which, token), limit_s, answer_max)
        except (httpx.HTTPError, TimeoutError, OSError) as exc:
            raise QuorumLostError(f"{url}: {type(exc).__name__}{_why(exc)}") from exc

    async def _one(self, url: str, body: dict[str, Any], token: str, limit_s: float, answer_max: int) -> dict[str, Any]:
        async with asyncio.timeout(limit_s):
            status, text = await self._posts.post(url, json.dumps(body).encode(), token, answer_max)
        if text is None:
            raise EtcdRefusedError(f"{url}: an answer of more than {answer_max} bytes", 0)
        value = _first_object(text)
        if status == 200 and value is not None and "error" not in value:
            return value
        if value is not None and value.get("code") == LEASE_NOT_FOUND and "lease not found" in str(value.get("error")):
            raise LeaseGoneError(str(value.get("error")))
        said = text[:200].decode(errors="replace").strip() if value is None else str(value.get("error"))
        if (code := _lasting(status, value)) is not None:
            raise EtcdRefusedError(f"{url}: {said}", code)
        raise QuorumLostError(f"{url}: HTTP {status} {said}")

    async def _sign_in(self, which: int, stale: str) -> str:
        """A token that is not `stale`; at each member one login at a time, which outlives whoever waits for it."""
        if self._login is None or self._token != stale:
            return self._token
        if which not in self._signing_in:
            task = asyncio.create_task(self._signed_in(which, self._login))
            self._signing_in[which] = task
            task.add_done_callback(lambda done: self._sign_in_over(which, done))
        return await asyncio.shield(self._signing_in[which])

    async def _signed_in(self, which: int, login: EtcdLogin) -> str:
        url, body = self.endpoints[which] + "/v3/auth/authenticate", {"name": login.user, "password": login.password}
        answer = await self._one(url, body, "", SIGN_IN_S, ANSWER_BYTES_MAX)
        self._token = str(answer.get("token", ""))
        return self._token

    def _sign_in_over(self, which: int, done: asyncio.Task[str]) -> None:
        del self._signing_in[which]
        if not done.cancelled():
            done.exception()  # seen, though nobody may wait for it any more

    async def watch(self, keys: Sequence[str], revision: int, attempt: int) -> AsyncIterator[list[dict[str, Any]]]:
        """Events of `keys` from `revision` on, from one member; ends when the member cannot go on.

        The caller reads the state again and watches from there; with compaction there is nothing else to do either.
        """
        async for result in self.stream(min(keys), max(keys) + "\0", revision, attempt):
            if not result.get("created"):
                yield [event for event in result.get("events", []) if isinstance(event, dict)]

    async def stream(
        self, low: str, high: str, revision: int, attempt: int, created_s: float = 0.4
    ) -> AsyncIterator[dict[str, Any]]:
        """What one member tells of the keys from `low` to before `high`: first that it watches, then each answer.

        Ends when the member cannot go on: it is gone, it does not say within `created_s` that it watches, it has
        compacted what was asked for, or it will not.
        """
        which = (self._first + attempt) % len(self.endpoints)
        body = {"create_request": {"key": b64(low), "range_end": b64(high), "start_revision": str(revision)}}
        try:
            async with asyncio.timeout(created_s) as patience:
                token = self._token or await self._sign_in(which, "")
                limits = httpx.Timeout(created_s, read=None)
                opened = self._client.stream(
                    "POST", self.endpoints[which] + "/v3/watch", json=body, headers=_as(token), timeout=limits
                )
                async with opened as answer:
                    async for line in answer.aiter_lines():
                        patience.reschedule(None)
                        result = (_first_object(line.encode()) or {}).get("result")
                        if isinstance(result, dict) and "token" in str(result.get("cancel_reason")):
                            await self._sign_in(which, token)
                        if not isinstance(result, dict) or result.get("canceled"):
                            return
                        yield result
        except (httpx.HTTPError, OSError, TimeoutError, QuorumLostError):
            return


def _as(token: str) -> dict[str, str]:
    return {"Authorization": token} if token else {}


def _lasting(status: int, value: dict[str, Any] | None) -> int | None:
    """The code of a refusal that no repetition changes."""
    if value is None:  # not etcd's API but what stands before it: "must have empty CommonName"
        return DENIED if status in (400, 401, 403) else None
    code, said = value.get("code"), str(value.get("error"))
    if any(words in said for words in PASSING):
        return None
    if code == EXHAUSTED and not ("space exceeded" in said or "larger than max" in said):
        return None
    return code if code in (INVALID, DENIED, EXHAUSTED, FAILED, COMPACTED, UNKNOWN_TOKEN) else None


def _why(exc: BaseException) -> str:
    """The words of a TLS failure, which name what is to be mended."""
    return f": {exc}" if str(exc) and not isinstance(exc, TimeoutError) else ""


def _first_object(text: bytes) -> dict[str, Any] | None:
    try:
        value, _ = json.JSONDecoder().raw_decode(text.decode("utf-8").lstrip())
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
