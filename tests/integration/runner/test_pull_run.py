"""A real run over pull mode: control and agent go away in its middle, and it comes home once (RUN-5, RUN-11)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from hyops.adapters.transport_pull import PullRunnerTransport
from hyops.errors import NotApprovedError, RunnerUnreachableError
from hyops.model.vocabulary import Outcome
from hyops.testing.evidence import VERIFIER
from hyops.testing.runs import noop_plan, plan_of, spec_of, step
from pull_peer import PullPeer
from waiting import PATIENCE_S


@pytest.mark.req("RUN-5", "RUN-11", "INV-7")
@pytest.mark.fault(12, 14)
def test_a_run_outlives_desk_and_agent_and_comes_home_once(runner: Runner, tmp_path: Path) -> None:
    """Desk and agent are killed while a step runs: the follower attaches again at its offset, without gap or repeat."""
    runner.configure(options={"hold": "b"})
    serve = [sys.executable, "-m", "hyops", "runner-serve", "--config", str(runner.config)]
    peer = PullPeer(tmp_path / "pull", command=serve)
    peer.start()
    transport = PullRunnerTransport(peer.socket, {"cloud-runner"}, VERIFIER)
    spec = spec_of(plan_of([step("a"), step("b", "a"), step("c", "b")]))
    seen: list[tuple[str, int]] = []
    attached = asyncio.Event()

    async def follow(until: str) -> str:
        """Events from the last offset on; the last kind or the end."""
        async with transport.connect("cloud-runner") as session:
            await session.hello()
            attached.set()
            async for event in session.attach(spec.run_id, seen[-1][1] if seen else 0):
                seen.append((str(event.body.get("kind", event.stream)), event.offset))
                if (event.body.get("kind"), event.body.get("body", {}).get("step")) == (until, "b"):
                    return until
        return seen[-1][0]

    async def body() -> None:
        async with transport.connect("cloud-runner") as session:
            unapproved = spec_of(noop_plan(), token="other").model_copy(update={"approvals": []})
            with pytest.raises(NotApprovedError):
                await session.start(unapproved, {})
            assert await session.start(spec, {}) == "started"
            assert await session.start(spec, {}) == "existing"
        assert await follow("intent") == "intent"
        attached.clear()
        broken = asyncio.create_task(follow("never"))
        for end, start in ((peer.end_desk, peer.start_desk), (peer.end_agent, peer.start_agent)):
            await attached.wait()
            await asyncio.to_thread(end, signal.SIGKILL)
            with pytest.raises(RunnerUnreachableError):
                await broken
            await asyncio.to_thread(start)
            attached.clear()
            broken = asyncio.create_task(follow("never"))
        await asyncio.to_thread(lambda: os.close(os.open(runner.folder / "held", os.O_WRONLY)))
        assert await broken == "end"
        async with transport.connect("cloud-runner") as session:
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    try:
        asyncio.run(asyncio.wait_for(body(), PATIENCE_S))
    finally:
        peer.end()
    assert runner.effects == ["a", "b", "c"]
    offsets = [offset for _, offset in seen[:-1]]
    assert offsets == sorted(set(offsets))
    assert [kind for kind, _ in seen].count("run-opened") == 1
