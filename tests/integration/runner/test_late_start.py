"""A start may come in long after its link is dead: that a runner knows no run proves nothing about one (EXE-1, VOC-5).

So an attempt of which a start may have been sent is neither closed nor overtaken because its runner says `absent`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from hyops.adapters.runner_link import EndedError
from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.model.run import RunSpec
from hyops.testing.runs import plan_of, spec_of, step
from local_runner import LocalLink, session
from waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

    from local_runner import LocalPipe


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, PATIENCE_S))


@asynccontextmanager
async def on_its_way(link: LocalLink, spec: RunSpec) -> AsyncIterator[LocalPipe]:
    """A start that has left, to a server that stands still, on a link that is dead by now."""
    pipe = await link.open()
    pipe.process.send_signal(signal.SIGSTOP)
    try:
        data = canonical.encode(spec.body())
        header = {"verb": "start", "spec_bytes": len(data), "protocol": PROTOCOL_MAX}
        await pipe.write(wire.encode(header, data))
        pipe.close()
        yield pipe
    finally:
        if pipe.process.returncode is None:
            pipe.process.send_signal(signal.SIGCONT)


async def arrives(pipe: LocalPipe) -> dict[str, Any]:
    """It comes in now; what the server has to say about it, to nobody."""
    pipe.process.send_signal(signal.SIGCONT)
    said: dict[str, Any] = {}
    with suppress(EndedError):
        said, _ = wire.header_of(await pipe.read_line())
    await pipe.process.wait()
    return said


@pytest.mark.req("EXE-1", "EXE-3", "VOC-5")
@pytest.mark.fault(14)
def test_a_runner_that_knows_no_run_may_have_it_the_next_moment(runner: Runner) -> None:
    """Its whole memory is empty: no run, no trace of one, no epoch; then the start comes in, and runs."""
    spec = spec_of(plan_of([step("a")]))

    async def body() -> None:
        link = LocalLink(runner.config)
        try:
            async with on_its_way(link, spec) as late:
                found = session(link)
                before = await found.status(spec.run_id)
                known = (await found.jobs(), runner.folders.reaped_ids(), runner.folders.seen(spec.service).epoch)
                said = await arrives(late)
            events = [event async for event in found.attach(spec.run_id)]
        finally:
            await link.drop()
        assert (before.state, before.facts) == ("absent", {})
        assert known == ([], [], 0)
        assert (said["started"], events[-1].stream) == ("started", "end")

    run(body())
    assert runner.effects == ["a"]


@pytest.mark.req("EXE-3", "INV-3")
@pytest.mark.fault(14)
def test_it_is_too_late_once_the_runner_has_taken_a_newer_start_of_the_service(runner: Runner) -> None:
    """What was admitted there since has a higher epoch, and that alone refuses it: no run of another runner does."""
    spec = spec_of(plan_of([step("a")]), epoch=1)
    newer = spec_of(plan_of([step("b")]), epoch=2, token="newer")

    async def body() -> None:
        link = LocalLink(runner.config)
        try:
            async with on_its_way(link, spec) as late:
                found = session(link)
                await found.start(newer, {})
                assert [event async for event in found.attach(newer.run_id)][-1].stream == "end"
                said = await arrives(late)
            state = (await found.status(spec.run_id)).state
        finally:
            await link.drop()
        assert (said["ok"], said["error"]["error"], state) == (False, "StaleGenerationError", "absent")

    run(body())
    assert runner.effects == ["b"]
