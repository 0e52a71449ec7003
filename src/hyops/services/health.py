"""`/healthz` and `/metrics` of one stage, made of what stands in its folders and of its last pass (LOOP-4).

A queue is counted from the records themselves, each read once (see `queues`). So a stage that passes and does nothing
is seen, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from hyops.errors import HyopsError, RecordError
from hyops.model import canonical
from hyops.ports.records import RecordStore
from hyops.services.pulse import Pulse
from hyops.services.queues import Queue
from hyops.services.seen import Seen

PASS_AGE_MAX_S = 30.0  # six rescans, and the time of the watchdog
Answer = tuple[int, str, str]


@dataclass
class Health:
    """One stage. `writable` says why its own folder takes nothing; None when it does."""

    stage: str
    mode: str
    pulse: Pulse
    now: Callable[[], datetime]
    queue: Queue | None
    runs: Queue | None
    refusals: RecordStore | None
    generations: Seen[tuple[str, int]] | None
    writable: Callable[[], str | None]
    pass_age_max_s: float = PASS_AGE_MAX_S

    def answer(self, path: str) -> Answer:
        """Status, type and body."""
        if path == "/healthz":
            faults = self.faults()
            body = json.dumps({"stage": self.stage, "healthy": not faults, "faults": faults}) + "\n"
            return (503 if faults else 200), "application/json", body
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4", self.metrics()
        return 404, "text/plain", "there are /healthz and /metrics\n"

    def faults(self) -> list[str]:
        """Why this stage is not well; empty when it is."""
        found = []
        if self.pulse.passed_at is None:
            found.append("no pass over the records has worked yet")
        elif (age := self.pulse.age_s()) > self.pass_age_max_s:
            found.append(f"no pass over the records for {age:.0f} s")
        if self.pulse.failing is not None:
            found.append(f"the last pass failed: {self.pulse.failing}")
        if self.pulse.doubt is not None:
            found.append(self.pulse.doubt)
        if (why := self.writable()) is not None:
            found.append(why)
        try:
            for queue in (self.queue, self.runs):
                if queue is not None:
                    queue.waiting(self._surely())
        except HyopsError as exc:
            found.append(f"its records cannot be read: {exc.message}")
        return found

    def metrics(self) -> str:
        """Prometheus' text format. What cannot be counted now is left out, and `hyops_stage_healthy` is 0."""
        values: list[tuple[str, str, float]] = [
            ("healthy", "gauge", float(not self.faults())),
            ("passes_total", "counter", float(self.pulse.passes)),
            ("faults_total", "counter", float(self.pulse.failures)),
            ("last_pass_age_seconds", "gauge", round(self.pulse.age_s(), 3)),
            ("clock_doubted", "gauge", float(self.pulse.doubted_s > 0)),
        ]
        try:
            values += self._lengths(self.queue, "queue_length", "oldest_waiting_seconds")
            values += self._lengths(self.runs, "open_runs", "oldest_open_run_seconds")
            if self.refusals is not None:
                values.append(("refusals_total", "counter", float(len(self.refusals.ids()))))
        except HyopsError:
            pass  # `healthy` says it
        labels = _labels({"stage": self.stage})
        lines = [
            f"# TYPE hyops_stage_info gauge\nhyops_stage_info{_labels({'stage': self.stage, 'mode': self.mode})} 1"
        ]
        lines += [
            f"# TYPE hyops_stage_{name} {kind}\nhyops_stage_{name}{labels} {_number(value)}"
            for name, kind, value in values
        ]
        for service, generation in sorted(self._generations().items()):
            lines.append(f"hyops_service_generation{_labels({'service': service})} {generation}")
        return "\n".join(lines) + "\n"

    def _surely(self) -> datetime:
        """What may be over, or not, waits."""
        return self.now() - timedelta(seconds=self.pulse.doubted_s)

    def _lengths(self, queue: Queue | None, length: str, oldest: str) -> list[tuple[str, str, float]]:
        """How much waits, and since when the oldest of what says so; nothing where there is no such queue."""
        if queue is None:
            return []
        waiting, now = queue.waiting(self._surely()), self.now()
        ages = [age_s for one in waiting if (age_s := one.age_s(now)) is not None]
        return [(length, "gauge", float(len(waiting))), (oldest, "gauge", round(max(ages, default=0.0), 3))]

    def _generations(self) -> dict[str, int]:
        """The highest of each service that an outcome says was reached."""
        found: dict[str, int] = {}
        try:
            reached = self.generations.refresh().values() if self.generations is not None else []
        except HyopsError:
            return {}
        for service, generation in reached:
            found[service] = max(found.get(service, 0), generation)
        return found


def _number(value: float) -> str:
    """All its digits: a counter that is rounded stands still, then leaps."""
    return str(int(value)) if value.is_integer() else repr(value)


def _labels(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{json.dumps(value)[1:-1]}"' for key, value in values.items()) + "}"


def reached(name: str, data: bytes) -> tuple[str, int]:
    """Service and generation of an outcome; RecordError for a number that no outcome has."""
    record = canonical.parse(data, source=name)
    service, before, after = record["service"], record["generation_before"], record.get("generation_after")
    for one in (before, after):
        if one is not None and (type(one) is not int or one < 0):
            raise RecordError(f"{name}: {one!r} is no generation")
    if not isinstance(service, str):
        raise RecordError(f"{name}: {service!r} is no service")
    return service, after or before
