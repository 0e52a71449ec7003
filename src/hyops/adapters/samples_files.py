"""Recorded samples from files: lines of `hyops probe stream`, and the inputs that decisions were made of (DEC-5)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from hyops.errors import ConfigError, RecordError
from hyops.model.observed import DecisionInputs, Series, Span
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus

LINE_BYTES_MAX = 64 * 1024
SAMPLES_MAX = 2_000_000
FILES_MAX = 100_000


def from_lines(path: Path) -> Iterator[Sample]:
    """The samples of a JSONL file; an empty line is none, and a last line without its end was being written.

    Raises:
        ConfigError: it cannot be read. RecordError: `file:line: what is wrong`.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), start=1):
                if len(line) > LINE_BYTES_MAX:
                    raise RecordError(f"{path}:{number}: a line of more than {LINE_BYTES_MAX} bytes")
                if not line.endswith(b"\n"):
                    return
                if number > SAMPLES_MAX:
                    raise RecordError(f"{path}: more than {SAMPLES_MAX} samples", hint="cut the recording in parts")
                if line.strip():
                    yield Sample.read(line, source=f"{path}:{number}")
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}", hint="name a recording with --inputs") from exc


def from_records(folder: Path) -> Iterator[Sample]:
    """What the inputs of recorded decisions (`inputs/*.json` of a folder, or the folder itself) saw.

    A stretch becomes samples at even distances that all have its last value, which is all that it kept. One that
    several decisions saw is taken once, as long as it was seen last.

    Raises:
        ConfigError: no such folder, nothing in it, or it cannot be read. RecordError: names the file and key.
    """
    where = folder / "inputs" if (folder / "inputs").is_dir() else folder
    try:
        files = sorted(path for path in where.iterdir() if path.suffix == ".json")
        if not files:
            raise ConfigError(f"{where}: no recorded inputs (*.json)", hint="name the decision service's state folder")
        if len(files) > FILES_MAX:
            raise ConfigError(f"{where}: more than {FILES_MAX} files", hint="replay a part of them")
        longest: dict[tuple[str, str, float], tuple[float, Series, Span, DecisionInputs]] = {}
        for path in files:
            inputs = DecisionInputs.read(path.read_bytes(), source=str(path))
            for series in inputs.series:
                for span in series.spans:
                    origin_s = inputs.at.timestamp() - inputs.now_s
                    key = (series.signal, series.vantage, round(origin_s + span.since_s, 1))
                    if key not in longest or longest[key][0] < origin_s + span.last_s:
                        longest[key] = (origin_s + span.last_s, series, span, inputs)
    except OSError as exc:
        raise ConfigError(f"{where}: {exc.strerror}", hint="name the decision service's state folder") from exc
    sequence = 0
    for _, series, span, inputs in sorted(longest.values(), key=lambda one: (one[0], one[1].signal, one[1].vantage)):
        for number in range(span.count):
            share = number / (span.count - 1) if span.count > 1 else 1.0
            at_s = span.since_s + share * (span.last_s - span.since_s)
            known = span.status is not CheckStatus.UNKNOWN
            yield Sample(
                vantage=series.vantage,
                signal=series.signal,
                sequence=sequence + number,
                taken_at=inputs.at + timedelta(seconds=at_s - inputs.now_s),
                value=span.value if known else None,
                error=None if known else span.reason or "unknown",
            )
        sequence += span.count + 1  # the next stretch does not continue this one
