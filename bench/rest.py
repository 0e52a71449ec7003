"""What the four stages cost while nothing happens, among 10,000 records that are done with: CPU, memory, growth.

On files and on an etcd of three members. CPU is the kernel's count over a window; growth is that of every file below
the stages' folders, logs included, and what the kernel says that they had written, each extrapolated to a day. Nothing
of that may come from the records: the incumbent reads every record every few seconds, and writes 1.8 GB a day.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.loop import FIRST_LIMIT_S, OLD_CHAINS, attempts, standing, trial
from bench.measure import Row, Series, Table, series
from bench.process import cpu_s, rss_mb, stored_bytes, written_bytes

SETTLE_S, WINDOW_S = 10.0, 30.0
DAY_S = 86_400.0
GOAL_SHARE, GOAL_MB_A_DAY = 1.0, 10.0


def run(table: Table, count: int) -> None:
    """A row for each stage and place, and one for what all of them wrote."""
    for place, words in (("files", "files"), ("etcd", "etcd of 3 members")):
        among = f"{words}, {4 * OLD_CHAINS:,} old records"
        shares, sizes, grown, written = measure(count, place)
        for stage, share in shares.items():
            table.add(
                Row(
                    f"stage `{stage}` at rest, {among}: share of one core",
                    share,
                    unit="%",
                    goal="<= 1 %",
                    reached=share.p95 <= GOAL_SHARE,
                    incumbent="312 ms each poll",
                    note=f"{sizes[stage].p50:.0f} MB resident",
                )
            )
        table.add(
            Row(
                f"all four at rest, {among}: growth of their files in a day",
                grown,
                unit="MB",
                goal="<= 10 MB, logs included",
                reached=grown.p95 <= GOAL_MB_A_DAY,
                incumbent="1,800 MB",
                note=f"{WINDOW_S:g} s extrapolated; written to disk in a day, etcd's own aside: {written.p95:.2f} MB",
            )
        )


def measure(count: int, place: str) -> tuple[dict[str, Series], dict[str, Series], Series, Series]:
    """Share of one core in percent and resident MB of each stage; growth and writes of all in MB a day."""
    shares: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    grown, written = [], []
    with standing(place, OLD_CHAINS) as (stages, _), stages.running() as processes:
        with attempts(stages) as seen:
            trial(stages, "first", seen, FIRST_LIMIT_S)  # what lies there has been read
        time.sleep(SETTLE_S)
        folders = [stages.folder / stage for stage in processes]
        logs = [stages.folder / f"{stage}.log" for stage in processes]
        for _ in range(count):
            before = {stage: cpu_s(process.pid) for stage, process in processes.items()}
            stood = _stored(folders, logs)
            wrote = sum(written_bytes(process.pid) for process in processes.values())
            time.sleep(WINDOW_S)
            for stage, process in processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{stage} ended: {(stages.folder / f'{stage}.log').read_text()[-2000:]}")
                shares.setdefault(stage, []).append(100 * (cpu_s(process.pid) - before[stage]) / WINDOW_S)
                sizes.setdefault(stage, []).append(rss_mb(process.pid))
            grown.append(_a_day(_stored(folders, logs) - stood))
            written.append(_a_day(sum(written_bytes(process.pid) for process in processes.values()) - wrote))
    return (
        {stage: series(values) for stage, values in shares.items()},
        {stage: series(values) for stage, values in sizes.items()},
        series(grown),
        series(written),
    )


def _stored(folders: list[Path], logs: list[Path]) -> int:
    return sum(stored_bytes(folder) for folder in folders) + sum(log.stat().st_size for log in logs)


def _a_day(size: int) -> float:
    """MB a day at that rate."""
    return size / WINDOW_S * DAY_S / 1e6
