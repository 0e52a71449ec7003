"""One damaged run, or something foreign in a run's place, is named, and hides or stops nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.cli.runner_look import faults_of
from hyops.errors import RunnerUnreachableError
from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.ports.transport import RunnerHello, RunStatus
from hyops.runner import cache, gc, serve, telling
from hyops.runner.boot import resume_all
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, lock_alive
from hyops.testing.runs import noop_plan, spec_of
from unit.runner import test_serve as served

RUN = str(served.SPEC["run_id"])
PLACE = "run-20260101T000000Z-00000000"
ADMITTED = "could not be started"  # only the program is missing here
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
    """It is named with what to do; hello, jobs, gc and a boot go on; that very id is refused, untouched. Another run
    starts, except beside a folder: a run may lie in it."""
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
    if planted is open_folder:
        assert f"run {RUN} may be open here and may be of pg: {place} is open" in started["error"]["message"]
        assert "mode 0700" in started["error"]["hint"]
        assert not folders.run(other["run_id"]).exists()
    else:
        assert ADMITTED in started["error"]["message"]
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
    (again,) = served._ask(config, served._start(other))
    if how == "opened":  # nobody can tell that it is over
        assert f"run {PLACE} may be open here and may be of {other['service']}" in again["error"]["message"]
    else:  # what was read is no spec: no job begins with it
        assert ADMITTED in again["error"]["message"]


Break = Callable[[Path, pytest.MonkeyPatch], None]


def planted_lock(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A link instead of its lock."""
    (folder / "alive").symlink_to("/dev/null")


def unread_state(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The disk, or the table of open files, fails for a moment when its state is asked for."""
    state = Folders.state

    def failing(self: Folders, run_id: str) -> Any:
        if run_id == folder.name:
            raise OSError(errno.ENFILE, "Too many open files in system")
        return state(self, run_id)

    patch.setattr(Folders, "state", failing)


def unread_spec(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The disk fails for a moment when its spec is read."""
    read = telling.read_file

    def failing(path: Path, *limits: int) -> bytes:
        if path == folder / "spec.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path, *limits)

    patch.setattr(telling, "read_file", failing)


def gone_spec(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Its spec is not there, and may be put back."""
    (folder / "spec.json").unlink()


def opened(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Others may enter its folder."""
    folder.chmod(0o750)


@pytest.mark.req("EXE-3")
@pytest.mark.fault(18)
@pytest.mark.parametrize("broken", [planted_lock, unread_state, unread_spec, gone_spec, opened])
def test_nothing_starts_beside_a_run_that_cannot_be_told(
    config: RunnerConfig, broken: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job of it is seen, and nobody can say of which service it is: every start is refused and the run named; the
    other runs are told as ever. Gone from here it stops nothing."""
    folders = folders_of(config)
    folder = put(folders, PLACE, canonical.encode({**served.SPEC, "run_id": PLACE, "service": "mail"}))
    (folder / "journal.jsonl").write_bytes(b"")
    broken(folder, monkeypatch)
    other = spec_of(noop_plan(), epoch=2, token="other").body()

    refused, hello = served._ask(config, served._start(other), wire.encode({"verb": "hello"}))
    assert refused["error"]["error"] == "PrerequisiteError"
    assert f"run {PLACE} may be open here and may be of pg" in refused["error"]["message"]
    assert not folders.run(other["run_id"]).exists()
    assert hello["ok"] is True
    assert jobs(config)["run-good"]["outcome"] == "succeeded"
    shutil.rmtree(folder)
    (started,) = served._ask(config, served._start(other))
    assert ADMITTED in started["error"]["message"]


def two_open(config: RunnerConfig) -> tuple[Folders, dict[str, Any]]:
    """Two interrupted runs of one service, as a folder leaves it that was opened, passed over and closed again."""
    folders, other = folders_of(config), spec_of(noop_plan(), epoch=2, token="other").body()
    folders.raise_seen("pg", epoch=2)
    for spec in (served.SPEC, other):
        folder = put(folders, spec["run_id"], canonical.encode({**spec, "epoch": 2}))
        (folder / "journal.jsonl").write_bytes(b"")
    return folders, {**other, "epoch": 2}


@pytest.mark.req("EXE-3")
@pytest.mark.fault(18)
def test_of_two_open_runs_of_a_service_neither_goes_on(
    config: RunnerConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by a resume, not by the same start again, not at boot; where one is gone the other one does."""
    folders, other = two_open(config)
    resume = wire.encode({"protocol": PROTOCOL_MAX, "verb": "resume", "run_id": other["run_id"], "epoch": 2})
    for answer in served._ask(config, resume, served._start(other)):
        assert answer["error"]["error"] == "PrerequisiteError"
        assert f"run {RUN} of pg is open here (interrupted)" in answer["error"]["message"]
    launched: list[str] = []
    monkeypatch.setattr("hyops.runner.launch.launch", lambda config, folders, run_id: launched.append(run_id))
    assert resume_all(config) == []
    said = capsys.readouterr().err
    assert said.count("hyops: not resumed: run ") == 2
    assert launched == []

    shutil.rmtree(folders.run(RUN))
    assert resume_all(config) == launched == [other["run_id"]]


@pytest.mark.req("EXE-3")
@pytest.mark.fault(18)
def test_a_boot_resumes_nothing_of_which_it_cannot_tell_the_service(
    config: RunnerConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be of a service whose run is open; a run beside it, whose folder is closed off, holds up every other."""
    folders = folders_of(config)
    launched: list[str] = []
    monkeypatch.setattr("hyops.runner.launch.launch", lambda config, folders, run_id: launched.append(run_id))
    folder = put(folders, RUN, b"{")
    (folder / "journal.jsonl").write_bytes(b"")
    assert resume_all(config) == []
    assert "its service is not known" in capsys.readouterr().err

    (folder / "spec.json").write_bytes(canonical.encode(served.SPEC))
    open_folder(folders.runs / PLACE)
    assert resume_all(config) == []
    assert f"run {PLACE} may be open here" in capsys.readouterr().err
    (folders.runs / PLACE).chmod(0o700)
    assert resume_all(config) == launched == [RUN]


@pytest.mark.req("RUN-11")
def test_a_planted_lock_is_told_and_hides_no_other_run(config: RunnerConfig) -> None:
    """A link instead of a run's lock: the run counts as open, and is named."""
    folder = put(folders_of(config), RUN, canonical.encode(served.SPEC))
    (folder / "alive").symlink_to("/dev/null")
    told = jobs(config)
    assert told["run-good"]["outcome"] == "succeeded"
    assert told[RUN]["state"] == "interrupted"
    assert "alive" in told[RUN]["facts"]["fault"]


@pytest.mark.req("RUN-5")
@pytest.mark.fault(18)
def test_a_run_that_cannot_be_resumed_at_boot_stops_no_other(
    config: RunnerConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A journal that is a link, and a launcher that refuses: each named, and the boot unit ends with their fault."""
    folders = folders_of(config)
    ids = [f"run-20260101T00000{n}Z-00000000" for n in range(3)]
    services = ("mail", "wiki", "pg")
    for run_id, service in zip(ids, services, strict=True):
        folders.raise_seen(service, epoch=1)
        put(folders, run_id, canonical.encode({**served.SPEC, "run_id": run_id, "service": service}))
    (folders.run(ids[0]) / "journal.jsonl").symlink_to("elsewhere")
    launched: list[str] = []

    def launch(config: RunnerConfig, folders: Folders, run_id: str) -> None:
        if run_id == ids[1]:
            raise RunnerUnreachableError("systemctl gave no answer: the job may have been started")
        launched.append(run_id)

    monkeypatch.setattr("hyops.runner.launch.launch", launch)

    assert serve.main(["--config", str(config.source), "--resume-all"]) == RunnerUnreachableError.exit_code
    assert launched == ids[2:]
    said = capsys.readouterr()
    assert said.out == f"resumed {ids[2]}\n"
    assert f"{ids[0]}" in said.err
    assert "systemctl gave no answer" in said.err


@pytest.mark.req("RUN-5", "RUN-11")
def test_what_was_seen_of_a_service_is_asked_once_for_all_its_runs(
    config: RunnerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file is lost, telling so reads every run: asked for each run, that is each run read for each run."""
    folders = folders_of(config)
    for number in range(20):
        run_id = f"run-20260101T0000{number:02d}Z-00000000"
        put(folders, run_id, canonical.encode({**served.SPEC, "run_id": run_id}), RESULT)
    (folders.generations / "pg").unlink()
    asked: list[str] = []
    seen = Folders.seen
    monkeypatch.setattr(Folders, "seen", lambda self, service: (asked.append(service), seen(self, service))[1])

    told = jobs(config)

    assert sum("is gone" in job.get("facts", {}).get("fault", "") for job in told.values()) == 20
    assert sorted(asked) == ["mail", "pg"]
