"""An executor as a process of its own, over a real etcd and with a runner's real server, that stops at one point.

`python executor_there.py ENDPOINTS ENV RUNNER_CONFIG POLICY EVIDENCE POINT SIGNAL`: at POINT it sends itself SIGNAL,
once (`-`: never). On stdout it says, a JSON line each, when it serves (`serves`), has the right to dial (`dials`), and
is about to stop (`stops`), with the machine's monotonic time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etcd_kit import Records
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.control.execution import outcome_id_of
from hyops.model.policy import ServicePolicy
from hyops.services.evidence_once import MadeOnce
from hyops.services.execution import ExecutionStage
from hyops.services.execution_parts import ExecutionStores
from hyops.services.following import run
from hyops.testing.evidence import STAGES, VERIFIER
from local_runner import LocalLink, session

KINDS = {
    "decisions": ("decision", "records"),
    "requests": ("dispatch", "requests"),
    "plans": ("dispatch", "plans"),
    "approvals": ("approval", "approvals"),
    "executions": ("approval", "executions"),
    "attempts": ("execution", "attempts"),
    "outcomes": ("execution", "outcomes"),
    "refusals": ("execution", "refusals"),
}
POINTS = (
    "before-epoch",
    "before-note",
    "after-note",
    "after-start",
    "before-collect",
    "before-close",
    "before-evidence",
)


def stores_of(records: Records) -> ExecutionStores:
    """All that an executor reads and writes."""
    return ExecutionStores(**{name: records.store(*place) for name, place in KINDS.items()})


def say(**what: object) -> None:
    """A line for whoever started this."""
    print(json.dumps({**what, "at": time.monotonic()}), flush=True)


class Stopping:
    """Where it stops."""

    def __init__(self, point: str, name: str) -> None:
        self.point, self._signal = point, None if name == "-" else signal.Signals[name]

    def at(self, point: str) -> None:
        """Here, once."""
        if point == self.point and self._signal is not None:
            number, self._signal = self._signal, None
            say(event="stops")
            os.kill(os.getpid(), number)


class Starts(EtcdStarts):
    """Those of production, with points in between."""

    stopping: Stopping

    def next_epoch(self) -> int:
        """See the port."""
        self.stopping.at("before-epoch")
        return super().next_epoch()

    def note(self, attempt_id: str) -> None:
        """See the port."""
        self.stopping.at("before-note")
        super().note(attempt_id)
        self.stopping.at("after-note")

    def create(self, attempt_id: str, *words: Any, **more: Any) -> Any:
        """See the port."""
        self.stopping.at("before-close")
        return super().create(attempt_id, *words, **more)

    @contextmanager
    def dialling(self, attempt_id: str) -> Iterator[bool]:
        """See the port."""
        mine = False
        try:
            with super().dialling(attempt_id) as mine:
                if mine and attempt_id.startswith("attempt"):
                    say(event="dials")
                yield mine
        finally:
            if mine and attempt_id.startswith("attempt"):
                say(event="leaves")


class Transport:
    """`RunnerTransport` to the one runner, without a link in between."""

    def __init__(self, config: Path, stopping: Stopping) -> None:
        self._config, self._stopping = config, stopping

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[Any]:
        """A server of its own."""
        link = LocalLink(self._config)
        made: Any = session(link)
        start, collect = made.start, made.collect

        async def started(*words: Any) -> Any:
            answer = await start(*words)
            self._stopping.at("after-start")
            return answer

        async def collected(*words: Any) -> Any:
            self._stopping.at("before-collect")
            return await collect(*words)

        made.start, made.collect = started, collected
        try:
            yield made
        finally:
            await link.drop()


class Hook:
    """Evidence: a line for each time it is made."""

    def __init__(self, file: Path) -> None:
        self._file, self._done = file, set[str]()

    def done(self, outcome: Any) -> bool:
        """Whether this process made it."""
        return outcome.outcome_id in self._done

    async def closed(self, attempt: Any, outcome: Any, returned: Any) -> None:
        """Make it."""
        with self._file.open("a") as out:
            out.write(f"{outcome_id_of(attempt)} {'whole' if returned is not None else 'bare'}\n")
        self._done.add(outcome.outcome_id)


class Once(MadeOnce):
    """That of production, with a point before it."""

    stopping: Stopping

    async def closed(self, *words: Any) -> None:
        """See the port."""
        self.stopping.at("before-evidence")
        await super().closed(*words)


def main(endpoints: str, env: str, config: str, policy: str, evidence: str, point: str, name: str) -> None:
    """Serve until told to stop."""
    stopping, limit_s = Stopping(point, name), 20.0
    records = Records(endpoints.split(","), env)
    records.session.call_limit_s = limit_s
    starts = Starts(records.session)
    starts.stopping = stopping
    stores, made = stores_of(records), records.store("execution", "evidence")
    hook = Once(Hook(Path(evidence)), made, f"host-{os.getpid()}")
    hook.stopping = stopping
    known = ServicePolicy.of(json.loads(Path(policy).read_text()))
    stage = ExecutionStage(
        stores,
        policies={known.service: known},
        initial_generations={known.service: 7},
        transport=Transport(Path(config), stopping),
        starts=starts,
        signer=STAGES["execution"],
        verifier=VERIFIER,
        clock=SystemClock(),
        mode="dispatch",
        hook=hook,
    )
    say(event="serves")
    asyncio.run(run(stage, [stores.executions, stores.attempts, stores.outcomes], lambda _: 8))


if __name__ == "__main__":
    main(*sys.argv[1:])
