"""Staging over a real sshd: whatever becomes of the link, the files or the disk, all is there or nothing is."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from hyops.adapters.bundle_files import FileBundles
from hyops.engine.bundling import named_by
from hyops.errors import ConfigError, PrerequisiteError, RunnerUnreachableError, UnsafePlanError
from hyops.model import canonical
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.ports.bundle import BundleFile
from hyops.testing.runs import bundle_of, noop_plan, spec_of, step
from staging_kit import held, hexed, left
from waiting import PATIENCE_S

BIG = {"first": os.urandom(3_000_000), "overlays/site-b/second": os.urandom(3_000_000)}


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit, so that a lost event fails a test instead of hanging it."""
    return asyncio.run(asyncio.wait_for(body, PATIENCE_S))


def spec_with(files: dict[str, bytes], token: str = "", epoch: int = 1) -> RunSpec:
    """An approved run of a plan that names them."""
    bundle = {name: canonical.digest_bytes(data) for name, data in files.items()}
    return spec_of(noop_plan().model_copy(update={"bundle": bundle}), token=token, epoch=epoch)


class Told(io.BytesIO):
    """A file that says when its first bytes are read."""

    def __init__(self, data: bytes, told: Callable[[], None]) -> None:
        super().__init__(data)
        self._told = told

    def read(self, count: int | None = -1, /) -> bytes:
        """See the base."""
        self._told()
        return super().read(count)


def telling(files: dict[str, bytes], name: str, told: Callable[[], None]) -> dict[str, BundleFile]:
    """A bundle of which one file tells when it is shipped."""
    made = bundle_of(files)

    def opened() -> BinaryIO:
        return Told(files[name], told)

    return {**made, name: BundleFile(made[name].digest, made[name].size_bytes, opened)}


def sessions(runner: Runner) -> list[int]:
    """sshd's own process of every connection."""
    assert runner.sshd is not None
    return [int(p) for p in Path(f"/proc/{runner.sshd.pid}/task/{runner.sshd.pid}/children").read_text().split()]


async def whole(runner: Runner, spec: RunSpec, files: dict[str, bytes]) -> int:
    """Stage, run, collect; how many bytes were shipped."""
    async with runner.transport().connect("cloud-runner") as session:
        report = await session.stage(spec.run_id, bundle_of(files))
        await session.start(spec, {})
        async for _ in session.attach(spec.run_id):
            pass
        assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED
    return report.shipped_bytes


@pytest.mark.req("RUN-1", "INV-4")
def test_a_second_dispatch_ships_only_what_changed(runner: Runner) -> None:
    """Another run with one small file more: only that is shipped; one damaged entry on the runner comes anew."""
    size = sum(map(len, BIG.values()))

    async def body() -> None:
        assert await whole(runner, spec_with(BIG), BIG) == size
        more = {**BIG, "small": b"x" * 100}
        assert await whole(runner, spec_with(more, "2", 2), more) == 100
        path = runner.folders.cas / hexed(BIG["first"])
        path.write_bytes(b"y" + BIG["first"][1:])
        assert await whole(runner, spec_with(more, "3", 3), more) == len(BIG["first"])

    run(body())
    assert left(runner.folders) == []


@pytest.mark.req("RUN-1", "RUN-5")
@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_link_that_dies_while_staging_leaves_nothing(runner: Runner, how: str) -> None:
    """sshd is killed, or frozen so that the link is half open: a lost link, no run, and the next dispatch is whole."""
    hit: list[int] = []

    def strike() -> None:
        if not hit:
            hit.extend(sessions(runner))
            for pid in hit:
                os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)

    spec = spec_with(BIG)

    async def body() -> None:
        files = telling(BIG, "overlays/site-b/second", strike)
        with pytest.raises(RunnerUnreachableError, match="link is lost"):
            async with runner.transport(keepalive_s=0.2).connect("cloud-runner") as session:
                await session.stage(spec.run_id, files)
        for pid in hit if how == "frozen" else []:
            os.kill(pid, signal.SIGKILL)
        async with runner.transport().connect("cloud-runner") as session:
            assert (await session.status(spec.run_id)).state == "absent"
            with pytest.raises(PrerequisiteError, match=r"bundle file .* is not staged"):
                await session.start(spec, {})
        assert held(runner.folders) == set()
        assert await whole(runner, spec, BIG) == sum(map(len, BIG.values()))

    run(body())
    assert hit
    assert left(runner.folders) == []


@pytest.mark.req("INV-4", "RUN-1")
@pytest.mark.fault(11)
@pytest.mark.parametrize("change", ["byte", "longer", "shorter", "gone"])
def test_a_file_that_changes_between_offer_and_shipping_is_refused(runner: Runner, tmp_path: Path, change: str) -> None:
    """Named, nothing staged, and the channel goes on; the file put back, the same dispatch succeeds."""
    root = tmp_path / "envroot"
    path = root / "config" / "overlays" / "site-b" / "hosts.yml"
    path.parent.mkdir(parents=True)
    data = os.urandom(1_500_000)
    path.write_bytes(data)
    named = named_by([step("a", inputs={"hosts": "file:config/overlays/"})])
    spec = spec_with({"config/overlays/site-b/hosts.yml": data})

    async def body() -> None:
        files = FileBundles(root).files(named)
        path.write_bytes({"byte": b"x" + data[1:], "longer": data + b"x", "shorter": data[:-1], "gone": b""}[change])
        if change == "gone":
            path.unlink()
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises((UnsafePlanError, ConfigError), match=r"site-b/hosts\.yml"):
                await session.stage(spec.run_id, files)
            assert (held(runner.folders), left(runner.folders)) == (set(), [])
            path.write_bytes(data)
            assert (await session.stage(spec.run_id, FileBundles(root).files(named))).shipped_files == 1
            assert await session.start(spec, {}) == "started"
            async for _ in session.attach(spec.run_id):
                pass

    run(body())


@pytest.mark.req("RUN-11")
@pytest.mark.fault(17)
def test_a_refusal_in_the_middle_is_heard_and_the_channel_stays(runner: Runner) -> None:
    """The disk there takes part of the first file: its words arrive before the last is read; the next call works."""
    assert runner.sshd is not None
    resource.prlimit(runner.sshd.pid, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    files = {"a": os.urandom(8_000_000), "b": os.urandom(8_000_000)}
    read: list[int] = []
    spec = spec_with(files)

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            with pytest.raises(PrerequisiteError, match="File too large; nothing was staged"):
                await session.stage(spec.run_id, telling(files, "b", lambda: read.append(1)))
            assert (await session.status(spec.run_id)).state == "absent"
            assert (held(runner.folders), left(runner.folders)) == (set(), [])

    run(body())
    assert read == []


@pytest.mark.req("RUN-1", "RUN-11")
@pytest.mark.fault(12)
def test_two_dispatches_of_one_bundle_at_once_both_stage(runner: Runner) -> None:
    """Two services' runs, two connections, the same files: each is whole, and each runs."""
    specs = [spec_with(BIG), spec_of(spec_with(BIG).plan.model_copy(update={"service": "mail"}))]

    async def body() -> None:
        shipped = await asyncio.gather(*(whole(runner, spec, BIG) for spec in specs))
        assert max(shipped) == sum(map(len, BIG.values()))

    run(body())
    assert (held(runner.folders), left(runner.folders)) == ({hexed(data) for data in BIG.values()}, [])
