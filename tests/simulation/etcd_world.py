"""The simulated loop on a real etcd: each stage is a process of its own there, with its session, mirrors and lease.

A stage that is killed says nothing more: not even what it holds is given back. Its lease then runs out, at once, so
that no test waits for it; who looked, decided and dialled with what was left behind is the stage that is begun anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etcd_kit import Overheard, ask
from hyops.adapters.etcd_gateway import b64
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.adapters.etcd_records_keys import Kept, Keys, after, names, starts_prefix
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.ports.records import Created
from simulation.world import Crash, Meter, MeteredStore, World

STAGES = ("decision", "dispatch", "approval", "execution")
PLACES = {
    "decisions": ("decision", "records"),
    "inputs": ("decision", "inputs"),
    "holds": ("decision", "holds"),
    "plans": ("dispatch", "plans"),
    "requests": ("dispatch", "requests"),
    "refused-decision": ("decision", "refusals"),
    "refused-dispatch": ("dispatch", "refusals"),
    "approvals": ("approval", "approvals"),
    "executions": ("approval", "executions"),
    "refused-approval": ("approval", "refusals"),
    "attempts": ("execution", "attempts"),
    "outcomes": ("execution", "outcomes"),
    "refused-execution": ("execution", "refusals"),
}


class Disk:
    """One kind of record as people see it, who write some of it and look at all of it; nothing is remembered here."""

    def __init__(self, people: Overheard, place: tuple[str, str]) -> None:
        self._session, self._store = people.session, people.store(*place)
        self._prefix = Keys(people.env, *place).prefix

    @property
    def records(self) -> dict[str, bytes]:
        """Name -> bytes, as of now."""
        asked = {"key": b64(self._prefix), "range_end": b64(after(self._prefix))}

        async def look() -> list[tuple[str, Kept]]:
            return names(await self._session.gateway.call("/v3/kv/txn", {"success": [{"request_range": asked}]}), 0)

        there = {key.removeprefix(self._prefix): kept.value for key, kept in self._session.do(look)}
        return {name: value for name, value in there.items() if not name.startswith(".")}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class MeteredEtcdStarts(EtcdStarts):
    """Those of production, and the meter is told."""

    meter: Meter

    def next_epoch(self) -> int:
        """As before, then tell the meter."""
        epoch = super().next_epoch()
        self.meter.effect("epoch")
        return epoch

    def note(self, attempt_id: str) -> None:
        """As before, then tell the meter."""
        super().note(attempt_id)
        self.meter.effect("start-noted")


class MeteredEtcdStore(EtcdRecordStore):
    """That of production, and the meter is told."""

    meter: Meter
    called: str

    def create(self, record_id: str, *words: Any, **more: Any) -> Created:
        """As before, then tell the meter."""
        created = super().create(record_id, *words, **more)
        if created.made:
            self.meter.effect(self.called)
        return created


class EtcdWorld(World):
    """A loop of its own on a cluster. `close` it at the end."""

    def __init__(self, endpoints: Sequence[str], env: str, seed: int = 1, *, instances: int = 1, **more: Any) -> None:
        self._endpoints, self._env = list(endpoints), env
        self._sessions: dict[tuple[int, str], Overheard] = {}
        self._opened: list[Overheard] = []
        self._booting: Overheard | None = None
        self._outside = self._session()
        super().__init__(seed, instances=instances, **more)

    def _session(self) -> Overheard:
        made = Overheard(self._endpoints, self._env)
        self._opened.append(made)
        return made

    def people(self, stage: str, kind: str) -> EtcdRecordStore:
        """Records as somebody outside the stages sees them."""
        return self._outside.store(stage, kind)

    def close(self) -> None:
        """End every process."""
        for one in self._opened:
            one.session.close()
        self._opened.clear()

    def boot(self, index: int, *names: str) -> None:
        """Each stage with a session of its own."""
        people: Any = {kind: Disk(self._outside, place) for kind, place in PLACES.items()}
        self.disk = people
        for name in names or STAGES:
            self._booting = self._sessions[index, name] = self._session()
            super().boot(index, name)

    def opened(self, kind: str) -> MeteredStore:
        """In the session of the stage that boots."""
        assert self._booting is not None
        made: Any = MeteredEtcdStore(self._booting.session, *PLACES[kind])
        made.meter, made.called = self.meter, kind
        return made  # type: ignore[no-any-return]

    def held_starts(self) -> MeteredEtcdStarts:
        """With its own lease."""
        assert self._booting is not None
        starts = MeteredEtcdStarts(self._booting.session, 20)
        starts.meter = self.meter
        return starts

    def turn(self, index: int, name: str, *, slow: bool = True) -> None:
        """A stage that is killed in it says nothing more, and what it held runs out."""
        process, effect = self._sessions[index, name], type(self.meter).effect

        def dying(what: str) -> None:
            try:
                effect(self.meter, what)
            except Crash:
                process.dead = True
                raise

        self.meter.effect = dying  # type: ignore[method-assign]
        process.session.do(process.session.confirm)  # what others wrote is known, however late its events are
        before = self.crashes
        super().turn(index, name, slow=slow)
        if self.crashes > before:
            self._run_out()

    def _run_out(self) -> None:
        prefix = starts_prefix(self._env) + "dial/"
        found = ask(self._endpoints[0], "/v3/kv/range", key=b64(prefix), range_end=b64(after(prefix)))
        for lease in {one["lease"] for one in found.get("kvs", [])}:
            ask(self._endpoints[0], "/v3/lease/revoke", ID=lease)
