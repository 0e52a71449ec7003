"""A recording of what `hyops probe stream` prints at several vantage points, with losses and silences put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hyops.model.policy import ServicePolicy
from hyops.model.signal import Sample

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Spell:
    """From `since_s` to `until_s` of the recording: what the named vantage points (all, when none is named) meet."""

    since_s: float
    until_s: float
    what: str
    vantages: Sequence[str] = field(default_factory=tuple)


def samples_of(policy: ServicePolicy, length_s: float, spells: Sequence[Spell] = ()) -> Iterator[Sample]:
    """`lost`: the primary is gone and WAL stops; `path`: it is gone for us and WAL goes on; `silent`: no samples."""
    for signal in policy.signals:
        for vantage in signal.vantages:
            for number in range(int(length_s / signal.interval_s)):
                at_s = number * signal.interval_s
                spell = next(
                    (s for s in spells if s.since_s <= at_s < s.until_s and vantage in (s.vantages or [vantage])), None
                )
                what = spell.what if spell else ""
                if what == "silent":
                    continue
                bad = what == "lost" or (what == "path" and signal.about == "primary")
                good_value = max(signal.threshold, signal.leave_threshold or signal.threshold)
                if signal.comparator == "lte":
                    good_value = 0.0
                value = (signal.threshold - 1 if signal.comparator == "gte" else 99.0) if bad else good_value
                if signal.name == "lag_bytes":
                    value = 0.0
                yield Sample(
                    vantage=vantage,
                    signal=signal.name,
                    sequence=number,
                    taken_at=BEGAN + timedelta(seconds=at_s),
                    value=value,
                    elapsed_s=0.01,
                )


def write(path: Path, samples: Iterator[Sample]) -> Path:
    """The recording as a file."""
    path.write_bytes(b"".join(sample.encoded_line() for sample in samples))
    return path
