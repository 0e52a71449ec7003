"""The runner's door: hostile frames, names and folders change nothing and are answered with what was wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyops.errors import ConfigError, PrerequisiteError, RecordError, RunnerUnreachableError
from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.runner import offer
from hyops.runner.bundle import unpack
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, Seen, is_alive, lock_alive
from hyops.runner.serve import Server
from hyops.testing.runs import noop_plan, spec_of


def _config(tmp_path: Path, **change: Any) -> RunnerConfig:
    value = {
        "runner_ref": "cloud-runner",
        "site": "cloud",
        "root": str(tmp_path / "root"),
        "signing_key": "/k",
        "trusted_keys": "/k",
        "allowed_signers": "/k",
        "secrets_dir": str(tmp_path / "secrets"),
        "launcher": "fork",
        "job_command": ["/nonexistent/hyops"],
        "disk_free_min_bytes": 1024,
        **change,
    }
    (tmp_path / "runner.json").write_text(json.dumps(value))
    return RunnerConfig.load(tmp_path / "runner.json")


def _ask(config: RunnerConfig, *frames: bytes) -> list[dict[str, Any]]:
    """Send raw frames to a server; its answers' headers."""
    sink = io.BytesIO()
    Server(config, io.BytesIO(b"".join(frames)), sink).run()
    answers, source = [], io.BytesIO(sink.getvalue())
    while line := source.readline():
        header, length = wire.header_of(line)
        source.read(length)
        answers.append(header)
    return answers


def _start(body: dict[str, Any], secrets: bytes = b"") -> bytes:
    data = canonical.encode(body)
    return wire.encode({"protocol": PROTOCOL_MAX, "verb": "start", "spec_bytes": len(data)}, data + secrets)


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


SPEC = spec_of(noop_plan()).body()
EMPTY = ["cas", "generations", "orders", "reaped", "runs", "staging", "takeovers", "trash"]


@pytest.mark.req("RUN-4", "INV-8")
@pytest.mark.parametrize(
    "run_id",
    ["../evil", "a/b", "/etc/cron.d/x", "..", "", "a\nb", "x" * 81, "run-1.service", "-flag", "a b", "ü", "a\x00b"],
)
def test_a_run_id_that_is_a_path_is_refused_by_every_verb(tmp_path: Path, run_id: str) -> None:
    """Ids become file and unit names: nothing else than a plain name passes, and nothing is made."""
    config = _config(tmp_path)
    frames = [
        wire.encode({"protocol": PROTOCOL_MAX, "verb": verb, "run_id": run_id, "epoch": 1})
        for verb in ("status", "attach", "cancel", "collect", "collected")
    ]
    for answer in _ask(config, *frames, _start({**SPEC, "run_id": run_id})):
        assert answer["error"]["error"] == "RecordError"
    assert [name for name in _files(config.root) if name != "lock"] == EMPTY


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epoch": "1"}, "RecordError"),
        ({"epoch": True}, "RecordError"),
        ({"epoch": -1}, "RecordError"),
        ({"generation": 2**60}, "RecordError"),
        ({"service": "../pg"}, "RecordError"),
        ({"plan": []}, "RecordError"),
        ({"plan": {**SPEC["plan"], "runner_ref": "other"}}, "UnsafePlanError"),
        ({"plan": {**SPEC["plan"], "bundle": {"x": "../../etc/shadow"}}}, "RecordError"),
        ({"plan": {**SPEC["plan"], "bundle": {"x": "sha256:" + "0" * 64}}}, "PrerequisiteError"),
    ],
)
def test_a_mistyped_spec_is_refused_before_anything_is_made(tmp_path: Path, change: dict[str, Any], error: str) -> None:
    """The cheap checks refuse it by name, and no run folder exists afterwards."""
    config = _config(tmp_path)
    body = {**SPEC, **change}
    data = json.dumps(body).encode()
    (answer,) = _ask(config, wire.encode({"protocol": PROTOCOL_MAX, "verb": "start", "spec_bytes": len(data)}, data))
    assert answer["error"]["error"] == error
    assert [name for name in _files(config.root) if name != "lock"] == EMPTY


@pytest.mark.req("INV-4", "EXE-3", "RUN-1")
@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "run_id",
    ["run-2", SPEC["run_id"][:-1] + ("0" if SPEC["run_id"][-1] != "0" else "1"), SPEC["run_id"].upper()],
    ids=["another", "one-character", "capitals"],
)
def test_a_second_run_id_for_one_execution_stages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    """The run id follows from the execution; under another one nothing is made, not even the epoch is taken."""
    config = _config(tmp_path)
    (answer,) = _ask(config, _start({**SPEC, "run_id": run_id}))
    assert answer["error"]["error"] in ("UnsafePlanError", "RecordError")
    assert [name for name in _files(config.root) if name != "lock"] == EMPTY

    monkeypatch.setattr(offer, "only_run", lambda offered: None)
    if run_id[0].islower():  # without the guard the run is staged, and only the launcher that is missing here stops it
        (answer,) = _ask(config, _start({**SPEC, "run_id": run_id}))
        assert "could not be started" in answer["error"]["message"]
        assert f"runs/{run_id}" in _files(config.root)


@pytest.mark.req("RUN-6", "RUN-11")
def test_a_large_result_comes_home_whole(tmp_path: Path) -> None:
    """Five MiB of result come byte for byte; with a journal that one answer cannot hold as well it says so."""
    config = _config(tmp_path)
    folder = Folders(config.root, config.secrets_dir).runs / "run-1"
    _ask(config)
    folder.mkdir(mode=0o700)
    (folder / "result.json").write_bytes(b"r" * (5 << 20))
    (folder / "journal.jsonl").write_bytes(b"j" * 100)
    collect = wire.encode({"verb": "collect", "run_id": "run-1"})
    (answer,) = _ask(config, collect)
    assert (answer["ok"], answer["result_bytes"], answer["journal_bytes"]) == (True, 5 << 20, 100)

    os.truncate(folder / "journal.jsonl", 60 << 20)
    (refused,) = _ask(config, collect)
    assert refused["error"]["error"] == "PrerequisiteError"
    assert "over 67108864, more than one answer holds" in refused["error"]["message"]


@pytest.mark.req("INV-4")
@pytest.mark.parametrize("at", [None, 7, "yesterday", "9999-99-99T00:00:00Z", ""])
def test_an_execution_without_a_time_is_refused_by_name(tmp_path: Path, at: object) -> None:
    """No time, no run id: the refusal names the field."""
    body = {**SPEC, "execution": {**SPEC["execution"], "timestamp_utc": at}}
    data = json.dumps(body).encode()
    (answer,) = _ask(
        _config(tmp_path), wire.encode({"protocol": PROTOCOL_MAX, "verb": "start", "spec_bytes": len(data)}, data)
    )
    assert answer["error"]["error"] == "RecordError"
    assert "timestamp_utc" in answer["error"]["message"]


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"verb":"put","bytes":999999999999}\n', "announces"),
        (b'{"verb":"put","bytes":-1}\n', "announces"),
        (b'{"verb":"put","bytes":true}\n', "announces"),
        (b"[1]\n", "not an object"),
        (b"GET / HTTP/1.1\r\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b'"' + b"x" * (wire.HEADER_MAX + 10) + b'"\n', "torn or over"),
        (b'{"verb":"hello"}', "torn or over"),
    ],
)
def test_a_frame_over_the_limit_or_of_nonsense_ends_the_connection(tmp_path: Path, line: bytes, message: str) -> None:
    """Nothing is read beyond the limit; the peer is told once."""
    with pytest.raises(RunnerUnreachableError, match=message):
        _ask(_config(tmp_path), line)


def test_a_payload_cut_short_is_no_request(tmp_path: Path) -> None:
    """The link died within a frame: nothing was asked, so nothing is answered or kept."""
    frame = wire.encode({"protocol": PROTOCOL_MAX, "verb": "offer", "run_id": "run-1"}, b'{"files":{}}')
    config = _config(tmp_path)
    assert _ask(config, frame[:-1]) == []
    assert _files(config.root) == EMPTY


@pytest.mark.parametrize("verb", ["", "_hello", "run", "__init__", "shell", None, 7])
def test_an_unknown_verb_is_refused_and_the_connection_lives(tmp_path: Path, verb: object) -> None:
    """After a wrong verb the next request is answered."""
    wrong, right = _ask(_config(tmp_path), wire.encode({"verb": verb}), wire.encode({"verb": "hello"}))
    assert (wrong["error"]["error"], right["ok"]) == ("UsageError", True)


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17)
def test_a_planted_link_in_runs_is_refused(tmp_path: Path) -> None:
    """A symbolic link where a run's folder should be leads nowhere."""
    config = _config(tmp_path)
    _ask(config)
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (config.root / "runs" / SPEC["run_id"]).symlink_to(victim)
    (answer,) = _ask(config, _start(SPEC))
    assert "planted" in answer["error"]["message"]
    assert _files(victim) == []


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17)
def test_a_root_open_to_others_is_refused(tmp_path: Path) -> None:
    """A runner whose folder others may enter does not serve."""
    config = _config(tmp_path)
    config.root.mkdir(mode=0o777)
    config.root.chmod(0o777)
    with pytest.raises(ConfigError, match="open to others"):
        _ask(config)


@pytest.mark.fault(17)
def test_a_runner_without_room_stages_nothing(tmp_path: Path) -> None:
    """Less room than the configured minimum: refused as a prerequisite, nothing half staged."""
    config = _config(tmp_path, disk_free_min_bytes=2**60)
    (answer,) = _ask(config, _start(SPEC))
    assert answer["error"]["error"] == "DiskFullError"
    assert [name for name in _files(config.root) if name != "lock"] == EMPTY


@pytest.mark.req("INV-7", "RUN-5")
def test_a_job_that_cannot_be_started_is_taken_back(tmp_path: Path) -> None:
    """The launcher fails: the dispatcher closes the attempt as refused, so a later boot must not find the run."""
    config = _config(tmp_path)
    answer, status = _ask(config, _start(SPEC), wire.encode({"verb": "status", "run_id": SPEC["run_id"]}))
    assert "could not be started" in answer["error"]["message"]
    assert status["status"]["state"] == "absent"


@pytest.mark.req("RUN-8", "INV-10")
def test_secrets_that_are_not_json_are_not_quoted(tmp_path: Path) -> None:
    """The error about broken secrets does not repeat them."""
    (answer,) = _ask(_config(tmp_path), _start(SPEC, b'{"P": "canary-99"'))
    assert "canary-99" not in json.dumps(answer)


@pytest.mark.req("RUN-8")
def test_secrets_are_not_put_on_a_disk(tmp_path: Path) -> None:
    """A secrets folder on a disk is refused, and nothing is written there."""
    folders = Folders(tmp_path / "root", Path("/var/tmp") / f"hyops-{os.getpid()}")
    try:
        with pytest.raises(PrerequisiteError, match="memory only"):
            folders.put_secrets("run-1", {"A": "b"})
        assert list(folders.secrets_dir.iterdir()) == []
    finally:
        folders.secrets_dir.rmdir()


@pytest.mark.req("RUN-5")
def test_asking_for_the_lock_never_turns_a_job_away(tmp_path: Path) -> None:
    """Whoever looks whether a job lives does not take the lock for a moment; a holder is seen, a second one refused."""
    assert not is_alive(tmp_path)
    fd = lock_alive(tmp_path)
    assert fd is not None
    assert is_alive(tmp_path)
    assert lock_alive(tmp_path) is None
    os.close(fd)
    assert not is_alive(tmp_path)


@pytest.mark.req("RUN-4")
@pytest.mark.fault(18)
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "a/../b", "", ".hidden", "a\nb", "a/./b", "-rf"])
def test_a_bundle_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    """Names of bundle files are plain relative ones."""
    folders = Folders(tmp_path / "root", tmp_path)
    folders.make()
    folders.run("run-1").mkdir(mode=0o700)
    digest = canonical.digest_bytes(b"x")
    folders.blob(digest).write_bytes(b"x")
    with pytest.raises(Exception, match="plain relative name"):
        unpack(folders, "run-1", {name: digest})
    assert not (folders.run("run-1") / "bundle").exists()


def test_a_damaged_blob_is_not_unpacked(tmp_path: Path) -> None:
    """Bytes that changed on the runner's disk are found when the bundle is laid out."""
    folders = Folders(tmp_path / "root", tmp_path)
    folders.make()
    folders.run("run-1").mkdir(mode=0o700)
    digest = canonical.digest_bytes(b"x")
    folders.blob(digest).write_bytes(b"x")
    folders.blob(digest).write_bytes(b"y")
    with pytest.raises(PrerequisiteError, match="damaged"):
        unpack(folders, "run-1", {"a": digest})


@pytest.mark.req("GEN-1")
def test_what_was_seen_never_goes_down(tmp_path: Path) -> None:
    """Generation and epoch only rise, each on its own; a damaged file is an error, not a zero."""
    folders = Folders(tmp_path / "root", tmp_path)
    folders.make()
    folders.raise_seen("pg", generation=8, epoch=3)
    folders.raise_seen("pg", generation=7, epoch=4)
    assert (folders.seen("pg").generation, folders.seen("pg").epoch) == (8, 4)
    (folders.generations / "pg").write_text("")
    with pytest.raises(RecordError, match="damaged"):
        folders.seen("pg")


@pytest.mark.req("GEN-1", "INV-3")
@pytest.mark.fault(12)
@pytest.mark.parametrize("left", ["", "{", "[]", "{}", '{"generation": "8", "epoch": 3}', '{"epoch": 3}', None])
def test_a_lost_or_torn_epoch_file_is_never_begun_anew(tmp_path: Path, left: str | None) -> None:
    """With a run of the service here, a start is refused; the file and what to write into it are named."""
    config = _config(tmp_path)
    _ask(config)
    folders = Folders(config.root, config.secrets_dir)
    earlier = spec_of(noop_plan(), epoch=6, token="earlier")
    folders.run(earlier.run_id).mkdir(mode=0o700)
    (folders.run(earlier.run_id) / "spec.json").write_bytes(canonical.encode(earlier.body()))
    (folders.run(earlier.run_id) / "result.json").write_bytes(
        b'{"outcome": "succeeded", "ended_at": "x", "generation_after": 8}'
    )
    if left is not None:
        (folders.generations / "pg").write_text(left)
    before = _files(config.root)

    refused, jobs = _ask(config, _start(SPEC), wire.encode({"verb": "jobs"}))
    error = refused["error"]
    assert error["error"] == "RecordError"
    assert f"{folders.generations / 'pg'}: " in error["message"]
    assert "at least 8 and 6" in error["hint"]
    assert [name for name in _files(config.root) if name != "lock"] == [name for name in before if name != "lock"]
    assert "is not known" in jobs["jobs"][0]["facts"]["fault"]

    (folders.generations / "pg").write_text('{"generation": 7, "epoch": 1}')  # the mend: now it is looked at again
    (mended,) = _ask(config, _start(SPEC))
    assert "could not be started" in mended["error"]["message"]


@pytest.mark.req("GEN-1")
def test_a_service_that_was_never_here_begins_at_nothing(tmp_path: Path) -> None:
    """Runs of another service are no witnesses; a run that cannot be read may be of this one, and is."""
    config = _config(tmp_path)
    _ask(config)
    folders = Folders(config.root, config.secrets_dir)
    other = folders.run("run-other")
    other.mkdir(mode=0o700)
    (other / "spec.json").write_bytes(canonical.encode({**SPEC, "service": "mail"}))
    assert folders.seen("pg") == Seen()
    (other / "spec.json").write_bytes(b"{")
    with pytest.raises(RecordError, match="is gone, but run-other ran here"):
        folders.seen("pg")


@pytest.mark.req("GEN-1", "INV-3")
@pytest.mark.fault(18)
def test_a_folder_that_is_closed_off_witnesses_every_service(tmp_path: Path) -> None:
    """Its run is not read, and may have raised the generation: where that is lost it is not begun anew. A link or a
    file is no witness."""
    config = _config(tmp_path)
    _ask(config)
    folders = Folders(config.root, config.secrets_dir)
    (folders.runs / "run-file").write_text("x")
    (folders.runs / "run-link").symlink_to(tmp_path)
    assert folders.seen("pg") == Seen()
    (folders.runs / "run-opened").mkdir()
    (folders.runs / "run-opened").chmod(0o755)
    with pytest.raises(RecordError, match=r"cannot all be read: .*run-opened is open"):
        folders.seen("pg")
    (refused,) = _ask(config, _start(SPEC))
    assert refused["error"]["error"] == "RecordError"
    assert not folders.run(str(SPEC["run_id"])).exists()
    (folders.generations / "pg").write_text('{"generation": 1, "epoch": 1}')
    assert folders.seen("pg") == Seen(1, 1)


@pytest.mark.req("UX-2")
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"lancher": "fork"}, "unknown key 'lancher'"),
        ({"root": "relative"}, "root: an absolute path"),
        ({"launcher": "docker"}, "one of systemd, fork"),
        ({"start_wait_s": "5"}, "start_wait_s: float is needed"),
        ({"runs_max": True}, "runs_max: int is needed"),
        ({"runs_at_once": 0}, "runs_at_once: at least 1"),
        ({"job_command": []}, "job_command"),
        ({"approval": {"mode": "marker", "required": 2}}, "approval.required: 2 with mode marker.*mode: signed"),
        ({"approval": {"mode": "marker", "require_touch": True}}, "approval.require_touch.*mode: signed"),
        ({"approval": {"mode": "marker", "require_pin": True}}, "require_pin: a marker is signed by no key"),
        ({"approval": {"mode": "marker", "require_known_requester": True}}, "a marker proves no name.*mode: signed"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    """Every fault of the file is in the message with its key."""
    with pytest.raises(ConfigError, match=fault):
        _config(tmp_path, **change)


@pytest.mark.req("RUN-11")
def test_the_door_loads_only_the_standard_library() -> None:
    """`hyops runner-serve` is started for every connection: no pydantic, asyncio, click or cryptography."""
    program = "import sys; sys.argv=['hyops']; import hyops.runner.serve, hyops.runner.follow; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pydantic", "asyncio", "click", "cryptography", "yaml", "asyncssh"} & set(done.stdout.split())
