"""One damaged run, or something foreign in a run's place, is named, and hides or stops nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.cli.runner_look import faults_of
from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.ports.transport import RunnerHello, RunStatus
from hyops.runner import cache, gc
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, lock_alive
from hyops.runner.serve import resume_all
from hyops.testing.runs import noop_plan, spec_of
from unit.runner import test_serve as served

RUN = str(served.SPEC["run_id"])
PLACE = "run-20260101T000000Z-00000000"
RESULT = {"outcome": "succeeded", "ended_at": "2026-01-01T00:00:00Z"}


@pytest.fixture
def config(tmp_path: Path) -> RunnerConfig:
    """A runner with one good run, `run-good`, that is over."""
    made = served._config(tmp_path)
    folders = Folders(made.root, made.secrets_dir)
    folders.make()
    folders.raise_seen("pg", epoch=1)
    folders.raise_seen("mail", epoch=1)
    put(folders, "run-good", canonical.encode({**served.SPEC, "run_id": "run-good", "service": "mail"}), RESULT)
    return made


def put(folders: Folders, run_id: str, spec: bytes, result: object = None) -> Path:
    """A run's folder; `result` as bytes stands as it is."""
    folder = folders.run(run_id)
    folder.mkdir(mode=0o700)
    (folder / "spec.json").write_bytes(spec)
    if result is not None:
        (folder / "result.json").write_bytes(result if isinstance(result, bytes) else json.dumps(result).encode())
    return folder


def folders_of(config: RunnerConfig) -> Folders:
    return Folders(config.root, config.secrets_dir)


def jobs(config: RunnerConfig) -> dict[str, dict[str, Any]]:
    """What `jobs` says, by run."""
    (answer,) = served._ask(config, wire.encode({"verb": "jobs"}))
    assert answer["ok"] is True, answer
    return {job["run_id"]: job for job in answer["jobs"]}


def doctor(told: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Fault -> hint, as `hyops runner doctor` shows them."""
    hello = RunnerHello("cloud-runner", "cloud", "0.1.0", 1, 1, 2**40, ())
    statuses = [
        RunStatus(j["run_id"], j["state"], j["epoch"], j.get("outcome"), j.get("facts", {})) for j in told.values()
    ]
    return dict(zip(*faults_of(hello, statuses), strict=True))


DAMAGED = [b"", b"[]", b"{", b"5", b"\xff", b"null", b"[" * 100_000, b'{"a": 1}']


@pytest.mark.req("RUN-5", "RUN-11", "UX-2")
@pytest.mark.fault(12)
@pytest.mark.parametrize("data", [*DAMAGED, b'{"outcome": "succeeded"}', b'{"outcome": 5, "ended_at": "x"}'])
def test_a_damaged_result_hides_no_other_run(config: RunnerConfig, data: bytes) -> None:
    """The run is told with the file that is damaged, and stays; the other one is told as ever."""
    folders = folders_of(config)
    folder = put(folders, RUN, canonical.encode(served.SPEC), data)
    told = jobs(config)
    assert told["run-good"]["outcome"] == "succeeded"
    assert told[RUN]["state"] == "finished"
    assert "outcome" not in told[RUN]
    assert f"{folder / 'result.json'}: damaged" in told[RUN]["facts"]["fault"]
    (fault,) = [fault for fault in doctor(told) if RUN in fault]
    assert "put it back as it was" in doctor(told)[fault]
    assert {v.run_id: v.goes for v in gc.sweep(folders, now=1e12, keep_s=0, remember_s=0)} == {
        "run-good": False,
        RUN: False,
    }


@pytest.mark.req("RUN-5", "RUN-11", "UX-2")
@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "data",
    [
        *DAMAGED,
        b'{"epoch":1,"service":"pg","plan":[],"execution":{}}',
        b'{"epoch":1,"service":5,"plan":{"blueprint_ref":"x"},"execution":{"plan_digest":"x"}}',
        b'{"epoch":"1","service":"pg","plan":{"blueprint_ref":"x"},"execution":{"plan_digest":"x"}}',
    ],
)
def test_a_damaged_spec_hides_no_other_run(config: RunnerConfig, data: bytes) -> None:
    """Every verb about that run answers by name, on a connection that goes on; the others are told."""
    folders = folders_of(config)
    folder = put(folders, RUN, data)
    told = jobs(config)
    assert told["run-good"]["outcome"] == "succeeded"
    assert f"{folder / 'spec.json'}: damaged" in told[RUN]["facts"]["fault"]
    asked = [
        wire.encode({"protocol": PROTOCOL_MAX, "verb": verb, "run_id": RUN, "epoch": 1})
        for verb in ("cancel", "resume", "status")
    ]
    cancel, resume, status = served._ask(config, *asked)
    for refused in (cancel, resume):
        assert refused["error"]["error"] == "RecordError"
        assert f"{folder / 'spec.json'}: damaged" in refused["error"]["message"]
    assert status["status"] == told[RUN]
    assert cache.in_use(folders, now=0.0) == set()

    answer, hello = served._ask(config, served._start(served.SPEC), wire.encode({"verb": "hello"}))
    assert answer["ok"] is False  # what lies there under this id is not what is offered
    assert hello["open_runs"] == [RUN]


def link(place: Path) -> None:
    """A link to a folder."""
    place.symlink_to("/tmp")


def file(place: Path) -> None:
    """A file."""
    place.write_text("x")


def open_folder(place: Path) -> None:
    """A folder that others may enter."""
    place.mkdir(mode=0o755)
    place.chmod(0o755)


def fifo(place: Path) -> None:
    """A pipe with a name."""
    os.mkfifo(place)


@pytest.mark.req("RUN-4", "INV-8", "UX-2")
@pytest.mark.fault(18)
@pytest.mark.parametrize("planted", [link, file, open_folder, fifo])
def test_something_foreign_in_a_runs_place_stops_that_run_only(
    config: RunnerConfig, planted: Callable[[Path], None]
) -> None:
    """It is named with what to do; hello, jobs, starts, gc and a boot go on; that very id is refused, untouched."""
    folders = folders_of(config)
    place = folders.runs / RUN
    planted(place)
    before = os.lstat(place)
    told = jobs(config)
    assert told["run-good"]["outcome"] == "succeeded"
    assert str(place) in told[RUN]["facts"]["fault"]
    (fault,) = [fault for fault in doctor(told) if RUN in fault]
    assert "mode 0700" in doctor(told)[fault]

    other = spec_of(noop_plan(), epoch=2, token="other").body()
    (hello,) = served._ask(config, wire.encode({"verb": "hello"}))
    assert hello["ok"] is True
    assert hello["open_runs"] == []
    (started,) = served._ask(config, served._start(other))
    assert "could not be started" in started["error"]["message"]  # admitted: only the program is missing here
    gc.sweep(folders, now=0.0, keep_s=0, remember_s=0)
    cache.in_use(folders, now=0.0)
    assert resume_all(config) == []

    frames = [wire.encode({"verb": v, "run_id": RUN, "epoch": 1}) for v in ("status", "attach", "cancel", "collect")]
    for answer in served._ask(config, served._start(served.SPEC), *frames):
        assert answer["error"]["error"] == "ConfigError"
        assert str(place) in answer["error"]["message"]
    assert os.lstat(place) == before


@pytest.mark.req("RUN-4")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_stops_that_run_only(config: RunnerConfig) -> None:
    """As a restore by another user leaves it."""
    place = folders_of(config).runs / PLACE
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    told = jobs(config)
    assert told.keys() == {"run-good", PLACE}
    assert "belongs to user 12345" in told[PLACE]["facts"]["fault"]


@pytest.mark.req("EXE-3")
@pytest.mark.fault(18)
@pytest.mark.parametrize("how", ["opened", "damaged"])
def test_a_running_job_that_cannot_be_read_keeps_its_place(config: RunnerConfig, how: str) -> None:
    """Its folder was opened to others, or its spec is damaged, while it runs: nothing starts beside what it may be."""
    folders = folders_of(config)
    folder = put(folders, PLACE, b"{" if how == "damaged" else canonical.encode(served.SPEC))
    fd = lock_alive(folder)
    assert fd is not None
    if how == "opened":
        folder.chmod(0o755)
    other = spec_of(noop_plan(), epoch=2, token="other").body()
    (refused,) = served._ask(config, served._start(other))
    assert refused["error"]["error"] == "PrerequisiteError"
    assert f"run {PLACE} is running here and may be of {other['service']}" in refused["error"]["message"]
    os.close(fd)
    (started,) = served._ask(config, served._start(other))
    assert "could not be started" in started["error"]["message"]


@pytest.mark.req("RUN-11")
def test_a_planted_lock_is_told_and_hides_no_other_run(config: RunnerConfig) -> None:
    """A link instead of a run's lock: the run counts as open, and is named."""
    folder = put(folders_of(config), RUN, canonical.encode(served.SPEC))
    (folder / "alive").symlink_to("/dev/null")
    told = jobs(config)
    assert told["run-good"]["outcome"] == "succeeded"
    assert told[RUN]["state"] == "interrupted"
    assert "alive" in told[RUN]["facts"]["fault"]
