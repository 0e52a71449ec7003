"""Files as a source: their own sample time counts, a change is seen by its event, and whatever is odd is unknown."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.files_source import FilesSource
from hyops.model.policy import Signal
from hyops.model.signal import Sample
from hyops.ports.signals import Received, Watched, Watchlist
from waiting import PATIENCE_S


def watchlist(path: Path, **words: Any) -> Watchlist:
    """One signal about one file; its pace is an hour, so only events make it look again."""
    body = {"name": "f", "source": "file", "url": f"file://{path}", "max_age_s": 60.0, "interval_s": 3600.0, **words}
    return Watchlist(vantage="file", watched=[Watched(signal=Signal.of(body), host="h", address="x", port=1)])


def sample(value: Any = 1.0, age_s: float = 0.0, **words: Any) -> bytes:
    """What a writer writes."""
    return json.dumps(
        {"sampled_at": (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(), "value": value, **words}
    ).encode()


def first(path: Path, **words: Any) -> Sample:
    """What is seen of a file as it is."""

    async def run() -> Sample:
        async with (
            asyncio.timeout(PATIENCE_S),
            aclosing(FilesSource("file", SystemClock()).observe(watchlist(path, **words))) as s,
        ):
            event = await anext(s)
        assert isinstance(event, Received)
        return event.sample

    return asyncio.run(run())


@pytest.mark.req("DEC-2", "DEC-3")
@pytest.mark.parametrize(
    ("data", "words", "value"),
    [
        (lambda: sample(), {}, 1.0),
        (lambda: sample(None, values={"lag": 7}), {"query": "lag"}, 7.0),
        (lambda: sample(None, values={"lag": 7}), {"query": "other"}, None),
        (lambda: sample(None, values={"lag": 7}), {"query": "other", "absence": "bad"}, 0.0),
        (lambda: sample(None), {}, None),
        (lambda: sample(age_s=61.0), {}, None),
        (lambda: sample(age_s=-30.0), {}, None),
        (lambda: sample()[:-3], {}, None),
        (lambda: b"", {}, None),
        (lambda: sample().replace(b"1.0", b"NaN"), {}, None),
        (lambda: sample().replace(b"1.0", b"1e999"), {}, None),
        (lambda: sample().replace(b"+00:00", b""), {}, None),
        (lambda: sample(True), {}, None),
        (lambda: sample(surprise=1), {}, None),
        (lambda: sample() + b" " * 100_000, {}, None),
        (None, {}, None),
        (None, {"absence": "bad"}, 0.0),
    ],
    ids="ok named absent absent-bad none stale future torn empty nan inf zone bool key huge gone gone-bad".split(),  # noqa: SIM905
)
def test_a_file_is_one_fresh_number_or_unknown(
    tmp_path: Path, data: Callable[[], bytes] | None, words: dict[str, Any], value: float | None
) -> None:
    """Absence is bad only where it is declared; nothing else that is odd is ever taken for a state."""
    if data is not None:
        (tmp_path / "f.json").write_bytes(data())

    seen = first(tmp_path / "f.json", **words)

    assert seen.value == value
    assert seen.error or seen.detail


@pytest.mark.req("INV-5")
@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: os.mkfifo(p), lambda p: p.symlink_to("/etc/hostname")])
def test_what_is_no_regular_file_is_unknown(tmp_path: Path, make: Any) -> None:
    """A folder, a pipe that would hang a reader, a link to elsewhere."""
    make(tmp_path / "f.json")

    assert first(tmp_path / "f.json").value is None


@pytest.mark.req("DEC-2", "LOOP-1")
def test_a_change_is_seen_by_its_event(tmp_path: Path) -> None:
    """The pace is an hour; a file that is renamed into place is seen at once, and a list that is changed too."""
    path, other = tmp_path / "f.json", tmp_path / "g.json"
    path.write_bytes(sample(1.0))
    other.write_bytes(sample(3.0))

    async def run() -> None:
        source = FilesSource("file", SystemClock())
        async with asyncio.timeout(PATIENCE_S), aclosing(source.observe(watchlist(path))) as stream:

            async def until(value: float) -> None:
                async for event in stream:
                    if isinstance(event, Received) and event.sample.value == value:
                        return

            await until(1.0)
            (tmp_path / "new").write_bytes(sample(2.0))
            (tmp_path / "new").rename(path)
            await until(2.0)
            source.rewatch(watchlist(other))
            await until(3.0)

    asyncio.run(run())
