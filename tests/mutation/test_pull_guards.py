"""Each guard of pull mode is taken out; what it keeps must then break, or its tests prove nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.pull_http import PullServer
from hyops.adapters.pull_identity import RunnerCertificates, server_context
from hyops.model import pull
from hyops.ports.pull import PullRequest, PullResponse
from hyops.runner.pull import Agent
from hyops.runner.pull_config import PullConfig
from hyops.runner.pull_http import Asking, Reply, UnreachableError
from pull_peer import SERVER, Authority
from waiting import PATIENCE_S

REFS = frozenset({"cloud-runner"})


def served(ca: Authority, name: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether one with that certificate gets an answer from a desk."""

    async def answer(request: PullRequest) -> PullResponse:
        return PullResponse(200)

    async def body() -> bool:
        judge = RunnerCertificates(ca.file, ca.folder / "crl.pem", REFS, SystemClock(), lambda line: None)
        server = PullServer(judge, answer, body_max=9, answer_limit_s=5.0, say=lambda line: None)
        context = server_context(ca.file, ca.folder / "desk.crt", ca.folder / "desk.key")
        listening = await server.listen("127.0.0.1", 0, context)
        port = int(listening.sockets[0].getsockname()[1])
        files = (ca.file, ca.folder / f"{name}.crt", ca.folder / f"{name}.key")
        asker = Asking(PullConfig("127.0.0.1", port, *files), "a" * 32)
        try:
            return (await asyncio.to_thread(asker.ask, "wait", "", at=0)).status == 200
        except UnreachableError:
            return False
        finally:
            asker.close()
            listening.close()

    return asyncio.run(asyncio.wait_for(body(), PATIENCE_S))


@pytest.mark.req("RUN-3", "RUN-11")
@pytest.mark.parametrize("guard", ["revoked", "name"])
def test_without_the_look_at_list_or_name_a_stranger_is_served(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    """Take the list, or the names, out of the judgement: who was refused is served."""
    ca = Authority(tmp_path / "ca")
    ca.issue("desk", "desk", SERVER)
    serial = ca.issue("x", "cloud-runner" if guard == "revoked" else "stranger")
    if guard == "revoked":
        ca.revoke(serial)
    assert not served(ca, "x", monkeypatch)
    if guard == "revoked":
        monkeypatch.setattr(RunnerCertificates, "_reread", lambda self: None)
    else:
        monkeypatch.setattr(RunnerCertificates, "who", lambda self, certificate: "cloud-runner")
    assert served(ca, "x", monkeypatch)


@pytest.mark.req("RUN-11", "INV-4")
def test_without_numbers_an_opening_that_arrives_twice_opens_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a `wait` is repeated: one server is started; forget the number, and it is two."""
    reply = Reply(200, {}, json.dumps({"desk": "d", "channels": [1, 2]}).encode())
    for guarded in (True, False):
        agent, opened = Agent.__new__(Agent), list[int]()
        agent._desk, agent._after, agent.channels = "d", 0, {}
        monkeypatch.setattr(agent, "_open", opened.append, raising=False)
        for _ in range(2):
            agent._heed(reply)
            if not guarded:
                agent._after = 0
        assert (opened == [1, 2]) is guarded
    assert pull.opened(reply.body) == ("d", [1, 2])
