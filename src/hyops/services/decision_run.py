"""The daemon of the decision stage: the signals of many services through shared sources, a stage object for each.

A service is judged when something came about it, and now and then because time passes. What one of them raises is
logged, and it rests for a while; the others go on. One whose records cannot be read, a hold among them for all that is
known, is not judged before they can. Lost records are lost to all of them, and where each one rests, the
pass has failed as a whole: then the loop says so. Where there are several, a service that has moved changes what the
sources look at under way: nobody else's confirm window breaks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence

from hyops.errors import HyopsError, PrerequisiteError, StoreLostError, foreign
from hyops.ports.records import RecordStore
from hyops.ports.signals import Lost, Received, SignalSource, Watchlist
from hyops.services.decision import DecisionStage
from hyops.services.loop import ERROR_PAUSE_S, Waker, log, run_stage
from hyops.services.watchlists import joined, member_of

STATUS_S = 1.0  # how often conditions are judged although no sample came (time itself can confirm nothing, but expire)
STATUS_MAX_S = 10.0
PIECE = 50  # services judged before others get their turn


class Deciding:
    """All services of this process."""

    def __init__(
        self,
        stages: Sequence[DecisionStage],
        sources: Sequence[SignalSource],
        *,
        witnesses: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`witnesses`: what a vantage point must reach to be well, by its name."""
        self.stages = {stage.policy.service: stage for stage in stages}
        self._alone = stages[0] if len(stages) == 1 else None
        self._sources, self._witnesses = sources, witnesses or {}
        self._pace_s = {name: _pace_s(stage) for name, stage in self.stages.items()}
        self._judged_s = dict.fromkeys(self.stages, float("-inf"))
        self._resting_s: dict[str, tuple[float, float]] = {}
        self._faults: dict[str, HyopsError] = {}
        self._hosts: dict[str, dict[str, str]] = {}
        self._due: dict[str, None] = {}
        self._unread: set[str] = set()
        """Services whose records, holds among them, could not be read when they were looked at last."""
        self.waker, self.recorded, self._moved = Waker(), asyncio.Event(), asyncio.Event()

    def look(self) -> None:
        """Read the records once, then where each service is; what has moved is looked at elsewhere from now on."""
        moved, read = False, False
        for name, stage in self.stages.items():
            self._unread.add(name)
            try:
                with foreign():
                    changed = stage.look(refresh=not read)
            except StoreLostError:
                raise
            except HyopsError as exc:
                self._failed(name, exc)
                continue
            read = True
            self._unread.discard(name)
            if changed:
                log("mode", service=name, primary=stage.mode.primary, generation=stage.mode.generation)
            if changed or name not in self._hosts:
                moved = moved or changed
                self._hosts[name] = {
                    signal.name: member_of(stage.policy, stage.mode, signal).host for signal in stage.policy.signals
                }
        if moved and self._alone is not None:
            self._moved.set()
        elif moved:
            for source in self._sources:
                source.rewatch(self.watchlist(source.vantage))

    def watchlist(self, vantage: str) -> Watchlist:
        """What a source has to look at now, for all services."""
        return joined(vantage, [(stage.policy, stage.mode) for stage in self.stages.values()], self._witnesses)

    def take(self, event: Received | Lost) -> None:
        """One thing a source said, or that it went away; what is about another member than the present is dropped."""
        if isinstance(event, Lost):
            for name, stage in self.stages.items():
                stage.take(event)
                self._due[name] = None
        else:
            sample = event.sample
            stage_of = self._alone if sample.service is None else self.stages.get(sample.service)
            if stage_of is None:
                return
            name = stage_of.policy.service
            if sample.host is not None and sample.host != self._hosts.get(name, {}).get(sample.signal):
                return
            stage_of.take(event)
            self._due[name] = None
        self.waker.wake()

    async def step(self, slow: bool) -> None:
        """Judge what is due; all when records came, and at the slow pass those that had no sample for their pace."""
        now = time.monotonic()
        if slow or self.recorded.is_set():
            recorded = self.recorded.is_set()
            self.look()
            if recorded:
                self.recorded.clear()
            for name, judged_s in self._judged_s.items():
                if recorded or now - judged_s >= self._pace_s[name]:
                    self._due[name] = None
        for number, name in enumerate([*self._due]):
            if number % PIECE == PIECE - 1:
                await asyncio.sleep(0)
            self._due.pop(name, None)
            await self._judge(name, slow)
        if self._faults.keys() == self.stages.keys():
            name, exc = next(iter(self._faults.items()))
            raise PrerequisiteError(f"no service can be judged; {name}: {exc.message}", hint=exc.hint)

    async def _judge(self, name: str, slow: bool) -> None:
        now = time.monotonic()
        if name in self._unread or (name in self._resting_s and now < self._resting_s[name][0]):
            return
        self._judged_s[name] = now
        try:
            with foreign():
                await self.stages[name].step(slow)
        except StoreLostError:
            self._due[name] = None
            raise
        except HyopsError as exc:
            self._failed(name, exc)
        else:
            self._resting_s.pop(name, None)
            self._faults.pop(name, None)

    def _failed(self, name: str, exc: HyopsError) -> None:
        """Say it, and let this service rest, twice as long each time; its records on disk are its state."""
        first_s, most_s = ERROR_PAUSE_S
        pause_s = min(2 * self._resting_s[name][1], most_s) if name in self._resting_s else first_s
        self._resting_s[name] = time.monotonic() + pause_s, pause_s
        self._faults[name] = exc
        self._judged_s[name] = float("-inf")  # again as soon as it has rested
        log("service failed", service=name, error=type(exc).__name__, message=exc)

    async def listen(self) -> None:
        """Hear every source for ever; one that fails is asked again, and the others do not notice."""
        while True:
            self._moved.clear()
            tasks = [asyncio.create_task(self._hear(source)) for source in self._sources]
            try:
                await self._moved.wait()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self, source: SignalSource) -> None:
        while True:
            try:
                with foreign():
                    async for event in source.observe(self.watchlist(source.vantage)):
                        self.take(event)
                        if self._moved.is_set():
                            break
            except HyopsError as exc:
                log("source failed", source=source.vantage, error=type(exc).__name__, message=exc)
                self.take(Lost(source.vantage, exc.message))
                await asyncio.sleep(ERROR_PAUSE_S[1])
            await asyncio.sleep(0)


def _pace_s(stage: DecisionStage) -> float:
    """How long a service may go unjudged: as long as its own signals take, within bounds."""
    quickest_s = min(signal.interval_s for signal in stage.policy.signals)
    return min(max(STATUS_S, quickest_s), STATUS_MAX_S)


async def run(
    stages: Sequence[DecisionStage],
    sources: Sequence[SignalSource],
    records: Sequence[RecordStore],
    *,
    witnesses: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Serve until told to stop: every sample and every record wakes a judgement."""
    deciding = Deciding(stages, sources, witnesses=witnesses)
    with contextlib.suppress(StoreLostError):  # the first pass looks again, and says it
        deciding.look()
    await run_stage(
        deciding.step,
        records,
        name="decision",
        waker=deciding.waker,
        others=[deciding.listen],
        rescan_s=STATUS_S,
        on_record=deciding.recorded.set,
    )
