"""A decision computed again from its recorded inputs, beside computing it once: what reading and comparing add."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bench.measure import Row, Table, interleaved
from hyops.control.decision import decision_of
from hyops.control.replay import replay
from hyops.model.observed import DecisionInputs, Mode
from hyops.model.policy import ServicePolicy
from hyops.model.signal import Sample
from hyops_lab.wiring import service

GOAL_S = 0.050
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def run(table: Table, count: int) -> None:
    """One replay of a failover's inputs, and a minute of recorded signals through the same policy."""
    policy = ServicePolicy.of(service.policy())
    samples = recording(policy)
    recorded = inputs_of(policy, samples)
    known = DecisionInputs.read(recorded)
    again, bare = interleaved(
        count, lambda: decision_of(DecisionInputs.read(recorded)), lambda: decision_of(known)
    )  # fmt: skip
    table.add(
        Row(
            "a decision replayed from its recorded inputs",
            again,
            baseline=bare,
            baseline_name="evaluating them alone",
            goal="<= 50 ms",
            reached=again.p95 <= GOAL_S,
            note="read, checked and evaluated; three vantage points, five signals",
        )
    )
    minute, one = interleaved(max(2, count // 10), lambda: replay(policy, samples), lambda: decision_of(known))
    table.add(
        Row(
            f"a minute of signals ({len(samples):,} samples) simulated",
            minute,
            baseline=one,
            baseline_name="one evaluation",
            note="`hyops policy simulate`, with a loss of twenty seconds in it",
        )
    )


def recording(policy: ServicePolicy) -> list[Sample]:
    """A minute of all probed signals; the primary is lost after forty seconds, and WAL stops."""
    found = []
    for signal in policy.signals:
        for vantage in signal.vantages:
            for number in range(int(60 / signal.interval_s)):
                lost = number * signal.interval_s >= 40
                value = (0.0 if lost else 1.0) if signal.comparator == "gte" else (99.0 if lost else 0.0)
                at = BEGAN + timedelta(seconds=number * signal.interval_s)
                found.append(
                    Sample(vantage=vantage, signal=signal.name, sequence=number, taken_at=at, value=value, elapsed_s=0)
                )
    return sorted(found, key=lambda one: (one.taken_at, one.vantage, one.signal))


def inputs_of(policy: ServicePolicy, samples: list[Sample]) -> bytes:
    """What the decision service would have kept beside its failover."""
    from hyops.control.window import Window

    window = Window(policy)
    for sample in samples:
        window.add(sample, 1000 + (sample.taken_at - BEGAN).total_seconds())
    now_s = 1000 + (samples[-1].taken_at - BEGAN).total_seconds()
    mode = Mode(generation=1, primary=policy.preferred)
    known = DecisionInputs(
        at=samples[-1].taken_at, now_s=now_s, policy=policy, mode=mode, series=window.series()
    )  # fmt: skip
    assert decision_of(known) is not None
    return known.encoded()
