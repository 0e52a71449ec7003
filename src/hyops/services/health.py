"""`/healthz` and `/metrics` of one stage, made of what stands in its folders and of its last pass (LOOP-4).

A queue is counted from the records themselves, each read once: what came in and has no answer yet. So a stage that
passes and does nothing is seen, too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hyops.errors import HyopsError, RecordError
from hyops.ports.records import RecordStore
from hyops.services.pulse import Pulse

PASS_AGE_MAX_S = 30.0  # six rescans, and the time of the watchdog
Answer = tuple[int, str, str]


@dataclass
class Seen:
    """The records of one store, as little of each as is needed."""

    store: RecordStore
    pick: Callable[[dict[str, Any]], Any]
    found: dict[str, Any] = field(default_factory=dict)
    mark: int = 0
    again: set[str] = field(default_factory=set)
    """What is new and could not be read: it is asked for again, however often."""

    def refresh(self) -> dict[str, Any]:
        """Name -> what was picked; PrerequisiteError when the store cannot be read."""
        self.mark, names = self.store.changed(self.mark)
        self.again |= {*names}
        for name in sorted(self.again):
            self.found.pop(name, None)
            try:
                data = self.store.read(name)
            except RecordError:
                continue  # nobody can read it now
            except KeyError:
                data = b""
            self.again.discard(name)
            with contextlib.suppress(
                KeyError, ValueError, AttributeError, TypeError
            ):  # gone, or no record: the stage says so
                self.found[name] = self.pick(json.loads(data))
        return self.found


@dataclass(frozen=True)
class Queue:
    """What came in (name -> when, and until when it counts), and the names that were answered."""

    source: Seen
    answers: Sequence[Seen]

    def waiting(self, now: datetime) -> list[datetime | None]:
        """When each thing that has no answer came."""
        answered = {name for seen in self.answers for name in seen.refresh().values()}
        found = []
        for name, (came, until) in self.source.refresh().items():
            if name not in answered and (until is None or until > now):
                found.append(came)
        return found


@dataclass
class Health:
    """One stage. `writable` says why its own folder takes nothing; None when it does."""

    stage: str
    mode: str
    pulse: Pulse
    now: Callable[[], datetime]
    queue: Queue | None
    refusals: RecordStore | None
    generations: Seen | None
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
        if (why := self.writable()) is not None:
            found.append(why)
        try:
            if self.queue is not None:
                self.queue.waiting(self.now())
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
        ]
        try:
            if self.queue is not None:
                came, now = self.queue.waiting(self.now()), self.now()
                ages = [(now - at).total_seconds() for at in came if at is not None]
                values.append(("queue_length", "gauge", float(len(came))))
                values.append(("oldest_waiting_seconds", "gauge", round(max(ages, default=0.0), 3)))
            if self.refusals is not None:
                values.append(("refusals_total", "counter", float(len(self.refusals.ids()))))
        except HyopsError:
            pass  # `healthy` says it
        labels = _labels({"stage": self.stage})
        lines = [
            f"# TYPE hyops_stage_info gauge\nhyops_stage_info{_labels({'stage': self.stage, 'mode': self.mode})} 1"
        ]
        lines += [
            f"# TYPE hyops_stage_{name} {kind}\nhyops_stage_{name}{labels} {value:g}" for name, kind, value in values
        ]
        for service, generation in sorted(self._generations().items()):
            lines.append(f"hyops_service_generation{_labels({'service': service})} {generation}")
        return "\n".join(lines) + "\n"

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


def _labels(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{json.dumps(value)[1:-1]}"' for key, value in values.items()) + "}"


def came(record: dict[str, Any]) -> tuple[datetime | None, datetime | None]:
    """When a record was made, and until when it counts."""
    at, until = record.get("timestamp_utc"), record.get("expires_at")
    return (_moment(at) if at else None, _moment(until) if until else None)


def _moment(text: str) -> datetime:
    """ValueError for one without a time zone, which somebody wrote by hand: it is compared with no other."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment


def requested(record: dict[str, Any]) -> tuple[datetime | None, datetime | None]:
    """The same of a request, which waits only while its status says so."""
    if record["status"] not in ("awaiting-approval", "queued"):
        raise KeyError("status")
    return came(record)


def reached(record: dict[str, Any]) -> tuple[str, int]:
    """Service and generation of an outcome."""
    return str(record["service"]), int(record.get("generation_after") or record["generation_before"])
