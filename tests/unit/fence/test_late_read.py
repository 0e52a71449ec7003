"""An answer of the quorum that was read before a promotion and arrives after it closes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from hyops.fence.lease import Close, Seen, next_action
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.probe import WriteVerdict
from hyops.testing.lease import MemoryLeaseStore
from switch_pair import Pair, run, switch

pytestmark = pytest.mark.req("FEN-2", "INV-1")


@dataclass
class Late:
    """The store of a pair, whose next answer to one host is read at once and arrives when it is let go."""

    store: MemoryLeaseStore
    hold: bool = True
    read: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    async def state(self, service: str) -> LeaseState:
        """Linearizable when it was read."""
        self.asked += 1
        found = await self.store.state(service)
        if self.hold:
            self.hold = False
            self.read.set()
            await self.go.wait()
        return found


def late_for(pair: Pair, host: str) -> Late:
    """This host's agent asks through it; its verbs do too."""
    agent = pair.hosts[host].agent
    late = Late(pair.store)
    agent.parts = replace(agent.parts, store=late)
    return late


@pytest.mark.parametrize("planned", [True, False])
def test_a_late_answer_does_not_close_a_fresh_primary(planned: bool) -> None:
    """Read in a turn of the standby, the switch goes through, then it arrives: the new primary stays open, and the
    quorum is asked again."""
    pair = Pair()

    async def scenario() -> None:
        late = late_for(pair, "cloud-db")
        turn = asyncio.create_task(pair.hosts["cloud-db"].agent.turn())
        await late.read.wait()
        pair.frozen.add("cloud-db")  # its one turn is under way
        await switch(pair, pair.spec(planned=planned), until="promote")
        assert pair.writers() == ["cloud-db"]
        told, asked = len(pair.logs), late.asked
        late.go.set()
        await turn
        assert [line for line in pair.logs[told:] if line.startswith("edge closed")] == []
        assert late.asked >= asked

    run(scenario())

    agent = pair.hosts["cloud-db"].agent
    assert (pair.writers(), agent.grant is not None, agent.doubt) == (["cloud-db"], True, None)
    assert pair.write("cloud-db", "after") is WriteVerdict.ACCEPTED


def test_a_word_of_this_turn_is_dropped_when_a_verb_learns_more() -> None:
    """Said for generation 1, then generation 2 is this host's own: it is no reason to close."""
    pair = Pair()
    agent = pair.hosts["onprem-db"].agent
    agent.lease = run(pair.store.state("pg"))
    assert agent.edge_open

    agent.remember(agent.state.placed(2, "onprem-db"))

    assert agent.lease is None
    assert not isinstance(next_action(agent.seen(), pair.times), Close)


def test_a_store_that_is_older_by_itself_still_closes() -> None:
    """Nothing was learnt while it was asked: that is a restored store, and the edge closes."""
    pair = Pair()
    run(switch(pair, pair.spec(planned=True)))
    snapshot = pair.store.snapshot()
    snapshot["pg"].generation, snapshot["pg"].primary, snapshot["pg"].holder = 1, "onprem-db", None
    pair.store.restore(snapshot, pair.store.cluster)
    pair.tick(3.0)

    assert pair.writers() == []
    state = AgentState(service="pg", host="b", generation=2, primary="b")
    seen = Seen(1.0, state, "primary", True, None, LeaseState(service="pg", generation=1, primary="a"), asked=True)
    assert isinstance(next_action(seen, pair.times), Close)
