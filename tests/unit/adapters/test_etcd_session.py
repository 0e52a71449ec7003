"""What a session makes of answers that are none of etcd's (LOOP-3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from hyops.adapters import etcd_records_session as module
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.adapters.etcd_records_follow import Follower
from hyops.adapters.etcd_records_keys import Keys
from hyops.adapters.etcd_records_session import EtcdSession
from hyops.errors import StoreLostError


class Gateway:
    """Answers as etcd does where nothing is kept; or, while it is `foreign`, as a proxy in its place."""

    def __init__(self) -> None:
        self.foreign = False
        self.asked = threading.Semaphore(0)

    async def call(self, path: str, body: dict[str, Any], **_how: Any) -> dict[str, Any]:
        """One answer."""
        self.asked.release()
        answer: dict[str, Any] = {"header": {"revision": "5", "cluster_id": "1"}}
        if not self.foreign:
            answer["responses"] = [{"response_range": {}} for _ in body.get("success", [])]
        return answer

    async def stream(self, *_what: Any) -> Any:
        """Nothing ever comes."""
        await asyncio.Event().wait()
        yield {}

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def gateway() -> Gateway:
    """One member."""
    return Gateway()


@pytest.fixture
def session(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[EtcdSession]:
    """Of one kind of record, with a quick heartbeat."""
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    made = EtcdSession(lambda: cast(EtcdGateway, gateway), "lab", "etcd lab")
    made.do(lambda: _nothing())
    made.follow(Follower(Keys("lab", "dispatch", "requests"), lambda: made.gateway, made.saw))
    yield made
    made.close()


async def _nothing() -> None:
    """The thread is there."""


@pytest.mark.req("LOOP-3")
def test_an_answer_that_is_none_of_etcds_is_a_lost_quorum_and_passes(gateway: Gateway, session: EtcdSession) -> None:
    """A proxy answers in etcd's place for a while: nothing is confirmed, and the heartbeat sees when that is over."""
    gateway.foreign = True
    with pytest.raises(StoreLostError, match="not a transaction"):
        session.do(session.confirm)
    gateway.foreign = False
    for _ in range(5):
        assert gateway.asked.acquire(timeout=10.0)
    while session.lost is not None:
        assert gateway.asked.acquire(timeout=10.0)

    session.do(session.confirm)
    session.look()
