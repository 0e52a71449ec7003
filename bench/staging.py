"""Staging by content over a real sshd: a bundle of 100 MB that the runner has, beside a no-op dispatch of the same run.

Whole dispatches, as in `dispatch`: connect, stage, start, attach, collect, verify. The dispatching side computes the
bundle from files each time, as the executor does; the first dispatch, which ships everything, is measured once in a
process of its own for its memory.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import tempfile
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from bench.dispatch import Runner, listening
from bench.measure import Row, Table, series, timed
from bench.stages import RUNNER, Stages
from hyops.adapters.bundle_files import FileBundles
from hyops.adapters.signer_ed25519 import TrustedVerifier
from hyops.engine.bundling import Named, refuse_changed
from hyops.model import canonical
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.ports.transport import StageReport

FILES, FILE_BYTES = 200, 500_000
SHIPPED_SHARE_MAX, RATIO_MAX, MEMORY_MAX_MB = 0.01, 2.0, 150.0
OVERLAY = Named("config/overlay", "own", "config/overlay", True, "bench")


def run(table: Table, count: int) -> None:
    """One cold dispatch, then warm ones and no-ops in turn."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        stages, root = Stages(Path(folder)), Path(folder) / "envroot"
        site = Site(root)
        plans = {"noop": stages.plan, "bundle": stages.plan.model_copy(update={"bundle": site.digests()})}
        approvals = {}
        for name, plan in plans.items():
            stages.plan = plan
            approvals[name] = stages.stand()
        epochs = iter(range(1, 1000))

        def spec(name: str) -> RunSpec:
            stages.plan, epoch = plans[name], next(epochs)
            return stages.spec(approvals[name], f"{name} {epoch}", epoch=epoch)

        with listening(stages) as runner:
            asyncio.run(dispatch(runner, spec("noop"), None))  # bytecode and page cache, as on a standing runner
            cold, memory_mb, first = _apart(runner, stages, spec("bundle"), site)
            asyncio.run(dispatch(runner, spec("bundle"), site))
            warm, noop, reports = list[float](), list[float](), list[StageReport]()

            def shipped(one: RunSpec) -> None:
                reports.append(asyncio.run(dispatch(runner, one, site)))

            def bare(one: RunSpec) -> None:
                asyncio.run(dispatch(runner, one, None))

            before = runner.connections()
            for _ in range(count):
                warm.append(timed(partial(shipped, spec("bundle"))))
                noop.append(timed(partial(bare, spec("noop"))))
            connections = (runner.connections() - before) / (2 * count)
    second, base = series(warm), series(noop)
    share = max(report.shipped_bytes for report in reports) / (FILES * FILE_BYTES)
    table.add(
        Row(
            "second dispatch of a 100 MB bundle, whole",
            second,
            baseline=base,
            baseline_name="no-op dispatch",
            goal="<= 2x, < 1 % shipped, one connection",
            reached=second.p50 <= RATIO_MAX * base.p50 and share < SHIPPED_SHARE_MAX and connections == 1,
            note=f"{share:.2%} of its bytes shipped; {connections:g} connection a dispatch; {FILES} files",
        )
    )
    table.add(
        Row(
            "first dispatch of it: the dispatcher's memory at its highest",
            series([memory_mb]),
            unit="MB",
            goal=f"<= {MEMORY_MAX_MB:g} MB",
            reached=memory_mb <= MEMORY_MAX_MB and first == FILES * FILE_BYTES,
            note=f"{first / 1e6:g} MB shipped in {cold:.1f} s, a process of its own",
        )
    )


@dataclass
class Site:
    """A runtime root with the bundle's files; one reader for all dispatches, as in the executor."""

    root: Path

    def __post_init__(self) -> None:
        for number in range(FILES):
            path = self.root / OVERLAY.path / f"site-{number % 7}" / f"{number}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(FILE_BYTES))
            os.utime(path, (1, 1))
        self.reader = FileBundles(self.root)

    def digests(self) -> dict[str, str]:
        """As they stand in the plan."""
        return {name: file.digest for name, file in self.reader.files([OVERLAY]).items()}


async def dispatch(runner: Runner, spec: RunSpec, site: Site | None) -> StageReport:
    """Everything from nothing to a verified result."""
    report = StageReport(0, 0, 0)
    async with runner.transport.connect(RUNNER) as session:
        await session.hello()
        if site is not None:
            files = site.reader.files([OVERLAY])
            refuse_changed(spec.plan.bundle, {name: file.digest for name, file in files.items()})
            report = await session.stage(spec.run_id, files)
        await session.start(spec, {})
        async for _ in session.attach(spec.run_id):
            pass
        returned = await session.collect(spec.run_id)
    assert returned.result.outcome is Outcome.SUCCEEDED
    return report


def _apart(runner: Runner, stages: Stages, spec: RunSpec, site: Site) -> tuple[float, float, int]:
    """One dispatch in a fresh process: seconds, highest resident memory in MB, bytes shipped."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    trusted = stages.ring.folder / "trusted_keys.json"
    words = (runner.folder, runner.port, trusted, canonical.encode(spec.body()), site.root)
    child = context.Process(target=_child, args=(theirs, *words))
    child.start()
    seconds, memory_mb, shipped = ours.recv()
    child.join()
    return seconds, memory_mb, shipped


def _child(pipe: Connection, folder: Path, port: int, trusted: Path, spec: bytes, root: Path) -> None:
    site = Site.__new__(Site)
    site.root, site.reader = root, FileBundles(root)
    reports: list[StageReport] = []
    runner = Runner(folder, port, TrustedVerifier.load(trusted))
    seconds = timed(lambda: reports.append(asyncio.run(dispatch(runner, RunSpec.read(spec), site))))
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    pipe.send((seconds, memory_mb, reports[0].shipped_bytes))
