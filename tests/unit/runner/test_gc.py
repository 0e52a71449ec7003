"""Runs are removed by rule, and what ran is never forgotten in time: killed anywhere, asked again, full or torn."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.errors import ConfigError, NotApprovedError, PrerequisiteError, UnsafePlanError
from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.model.run import RunSpec
from hyops.runner import gc
from hyops.runner.admission import Rules, admit
from hyops.runner.boot import resume_all
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, lock_alive, write_file
from hyops.runner.serve import Server
from hyops.testing.evidence import APPROVER, VERIFIER, SeedApprovals
from hyops.testing.runs import noop_plan, spec_of

DAY = 86400.0
NOW = time.time()
KEEP, REMEMBER = 30 * DAY, 365 * DAY
OLD = NOW - 31 * DAY


def run_made(at: float = OLD - DAY, token: str = "", generation: int = 7) -> RunSpec:
    """An execution that was approved at that time."""
    return spec_of(noop_plan(), at=datetime.fromtimestamp(at, UTC), token=token, generation=generation, epoch=3)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A runner's empty root."""
    made = Folders(tmp_path / "root", tmp_path / "secrets")
    made.make()
    return made


def lie_down(
    folders: Folders, spec: RunSpec, *, outcome: str | None = "succeeded", collected_at: float | None = OLD
) -> str:
    """Put a run on the disk as its job would have left it; without an outcome it is interrupted."""
    folder = folders.run(spec.run_id)
    folders.raise_seen(spec.service, generation=spec.generation + 1, epoch=spec.epoch)
    (folder / "bundle").mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    write_file(folder / "bundle" / "play.yml", b"- hosts: all")
    write_file(folder / "spec.json", canonical.encode(spec.body()))
    write_file(folder / "journal.jsonl", b"{}\n")
    write_file(folder / "log", b"line\n")
    if outcome is not None:
        result = {"outcome": outcome, "ended_at": "2026-03-14T03:00:07Z", "generation_after": spec.generation + 1}
        write_file(folder / "result.json", json.dumps(result).encode())
        if collected_at is not None:
            digest = canonical.digest_bytes((folder / "result.json").read_bytes())
            gc.note_collected(folders, spec.run_id, digest, now=collected_at)
    return spec.run_id


def sweep(folders: Folders, **change: Any) -> dict[str, gc.Verdict]:
    """Collect the garbage now."""
    words: dict[str, Any] = {"now": NOW, "keep_s": KEEP, "remember_s": REMEMBER, **change}
    return {verdict.run_id: verdict for verdict in gc.sweep(folders, **words)}


def config_of(folders: Folders, **change: Any) -> RunnerConfig:
    """A configuration for that root; its launcher finds no program, so that an admitted start is seen as such."""
    value = {
        "runner_ref": "cloud-runner",
        "site": "cloud",
        "root": str(folders.root),
        "signing_key": "/k",
        "trusted_keys": "/k",
        "allowed_signers": "/k",
        "secrets_dir": str(folders.secrets_dir),
        "launcher": "fork",
        "job_command": ["/nonexistent/hyops"],
        "disk_free_min_bytes": 1024,
        **change,
    }
    path = folders.root.parent / "runner.json"
    path.write_text(json.dumps(value))
    return RunnerConfig.load(path)


def ask(config: RunnerConfig, header: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
    """One request to the runner's door, and the header of its answer."""
    sink = io.BytesIO()
    Server(config, io.BytesIO(wire.encode(header, payload)), sink).run()
    return dict(json.loads(sink.getvalue().partition(b"\n")[0]))


def start(config: RunnerConfig, spec: RunSpec) -> dict[str, Any]:
    """Ask for a start."""
    data = canonical.encode(spec.body())
    return ask(config, {"protocol": PROTOCOL_MAX, "verb": "start", "spec_bytes": len(data)}, data)


def refused_as_run(answer: dict[str, Any]) -> bool:
    """Whether a start was refused because the execution has run."""
    return not answer["ok"] and "an execution runs once" in answer["error"]["message"]


@pytest.mark.req("RUN-5")
def test_what_is_home_and_old_goes_and_is_named(folders: Folders) -> None:
    """A finished run whose result was collected 31 days ago goes; its folder and nothing else."""
    old, new = lie_down(folders, run_made()), lie_down(folders, run_made(token="n"), collected_at=NOW - DAY)
    found = sweep(folders)

    assert (found[old].goes, found[old].why) == (True, "succeeded, collected 31.0 days ago")
    assert (found[new].goes, found[new].why) == (False, "succeeded, collected 1.0 days ago, kept for 30 days")
    assert folders.run_ids() == [new]
    assert os.listdir(folders.trash) == []
    assert (folders.run(new) / "bundle" / "play.yml").exists()


def torn(name: str) -> Callable[[Folders, str], None]:
    """One file of the run is cut short."""
    return lambda folders, run_id: write_file(folders.run(run_id) / name, b'{"at": 1')


def timeless(folders: Folders, run_id: str) -> None:
    """The mark's time is none."""
    path = folders.run(run_id) / "collected.json"
    write_file(path, json.dumps({**json.loads(path.read_bytes()), "at": float("nan")}).encode())


def changed(folders: Folders, run_id: str) -> None:
    """The result is another one than what was collected."""
    write_file(folders.run(run_id) / "result.json", b'{"outcome": "failed", "ended_at": "x"}')


def absurd(name: str, key: str, number: str) -> Callable[[Folders, str], None]:
    """One of its numbers is none."""

    def spoil(folders: Folders, run_id: str) -> None:
        path = folders.run(run_id) / name
        body = json.dumps({**json.loads(path.read_bytes()), key: "NUMBER"})
        write_file(path, body.replace('"NUMBER"', number).encode())

    return spoil


STAYS: dict[str, tuple[dict[str, Any], Callable[[Folders, str], None] | None, str]] = {
    "uncollected": ({"collected_at": None}, None, "not collected"),
    "interrupted": ({"outcome": None}, None, "it is interrupted"),
    "unknown": ({"outcome": "unknown"}, None, "somebody must look at it"),
    "of a later version": ({"outcome": "postponed"}, None, "somebody must look at it"),
    "young": ({"collected_at": NOW - 29 * DAY}, None, "kept for 30 days"),
    "collected in the future": ({"collected_at": NOW + DAY}, None, "kept for 30 days"),
    "torn result": ({}, torn("result.json"), "cannot be read"),
    "torn spec": ({}, torn("spec.json"), "cannot be read"),
    "torn mark": ({}, torn("collected.json"), "cannot be read"),
    "mark without a time": ({}, timeless, "has no time"),
    "mark of no time at all": ({}, absurd("collected.json", "at", "1" + "0" * 400), "cannot be read"),
    "generation without end": ({}, absurd("spec.json", "generation", "1e999"), "cannot be read"),
    "epoch without end": ({}, absurd("spec.json", "epoch", "-1e999"), "cannot be read"),
    "another result": ({}, changed, "about another result"),
}


@pytest.mark.req("RUN-5", "VOC-5", "INV-7")
@pytest.mark.parametrize("name", STAYS)
def test_what_is_not_surely_over_stays(folders: Folders, name: str) -> None:
    """Uncollected, active, unknown, young or unreadable: it stays, the reason is told, and not a byte is changed."""
    words, spoil, why = STAYS[name]
    run_id = lie_down(folders, run_made(), **words)
    if spoil is not None:
        spoil(folders, run_id)
    before = {path: path.read_bytes() for path in folders.run(run_id).rglob("*") if path.is_file()}
    verdict = sweep(folders)[run_id]

    assert not verdict.goes
    assert why in verdict.why
    assert {path: path.read_bytes() for path in folders.run(run_id).rglob("*") if path.is_file()} == before
    assert folders.reaped_ids() == []


@pytest.mark.req("RUN-5")
def test_a_run_whose_process_lives_stays(folders: Folders) -> None:
    """A job that has written its result and still cleans up is not pulled away from under its feet."""
    run_id = lie_down(folders, run_made())
    fd = lock_alive(folders.run(run_id))
    assert fd is not None
    assert "process still lives" in sweep(folders)[run_id].why
    os.close(fd)
    assert sweep(folders)[run_id].goes


STATES = st.sampled_from(["absent", "staged", "running", "interrupted", "finished"])
SIGHT = st.builds(
    gc.Sight,
    run_id=st.just("run-1"),
    state=STATES,
    lives=st.booleans(),
    outcome=st.sampled_from(["succeeded", "failed", "refused", "cancelled", "unknown", "", "later"]),
    collected_at=st.none() | st.floats(0, 4e9),
    fault=st.sampled_from(["", "torn"]),
)


@pytest.mark.req("RUN-5", "VOC-5")
@given(sight=SIGHT, now=st.floats(0, 4e9), keep_s=st.floats(0, 4e9))
def test_only_finished_collected_known_and_old_goes(sight: gc.Sight, now: float, keep_s: float) -> None:
    """Whatever is seen: a run goes only with all five of them."""
    wanted = (
        sight.state == "finished"
        and not sight.lives
        and not sight.fault
        and sight.outcome in ("succeeded", "failed", "refused", "cancelled")
        and sight.collected_at is not None
        and now - sight.collected_at >= keep_s
    )
    assert gc.judge(sight, now=now, keep_s=keep_s).goes == wanted


GUARDS = {
    "state": gc.Sight("r", "running", False, "succeeded", OLD),
    "lives": gc.Sight("r", "finished", True, "succeeded", OLD),
    "fault": gc.Sight("r", "finished", False, "succeeded", OLD, "torn"),
    "outcome": gc.Sight("r", "finished", False, "unknown", OLD),
    "collected_at": gc.Sight("r", "finished", False, "succeeded", None),
}


@pytest.mark.req("RUN-5")
@pytest.mark.parametrize("field", GUARDS)
def test_each_reason_alone_keeps_a_run(field: str) -> None:
    """With this one thing mended the run would go, so no other guard covers for it."""
    good = gc.Sight("r", "finished", False, "succeeded", OLD)
    assert not gc.judge(GUARDS[field], now=NOW, keep_s=KEEP).goes
    assert gc.judge(replace(GUARDS[field], **{field: getattr(good, field)}), now=NOW, keep_s=KEEP).goes


@pytest.mark.req("RUN-5", "UX-1")
def test_a_dry_run_changes_nothing(folders: Folders) -> None:
    """It gives the same verdicts and leaves every byte."""
    run_id = lie_down(folders, run_made())
    assert sweep(folders, dry_run=True)[run_id].goes
    assert folders.run_ids() == [run_id]
    assert folders.reaped_ids() == []
    assert sweep(folders)[run_id].goes


@pytest.mark.req("INV-4", "RUN-5")
@pytest.mark.fault(10)
def test_a_removed_execution_is_not_taken_again(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not expired, its epoch is new, its folder is gone: the tombstone alone refuses it, and says so."""
    spec = run_made(at=NOW - 10)
    lie_down(folders, spec, collected_at=NOW - 5)
    config = config_of(folders)
    assert sweep(folders, keep_s=1.0)[spec.run_id].goes
    folders.raise_seen("pg", epoch=9)
    again = spec.model_copy(update={"epoch": 10})
    (folders.generations / "pg").write_text('{"generation": 7, "epoch": 9}')  # so that no other guard speaks

    answer = start(config, again)
    assert refused_as_run(answer)
    assert "ended succeeded" in answer["error"]["message"]
    assert folders.run_ids() == []
    assert "removed" in ask(config, {"verb": "status", "run_id": spec.run_id})["status"]["facts"]

    monkeypatch.setattr(gc, "refuse_reaped", lambda *_: None)
    assert "could not be started" in start(config, again)["error"]["message"]  # without it, it would have been launched


@pytest.mark.req("INV-4")
@pytest.mark.parametrize("stone", [b"", b"{", b"[]", b'{"outcome": 1}', b"\xff"])
def test_a_torn_tombstone_still_refuses(folders: Folders, stone: bytes) -> None:
    """That it lies there is enough."""
    spec = run_made(at=NOW - 10)
    write_file(folders.tombstone(spec.run_id), stone)
    with pytest.raises(UnsafePlanError, match="an execution runs once"):
        gc.refuse_reaped(folders, spec.run_id)
    sweep(folders, now=NOW + 10 * REMEMBER)
    assert folders.reaped_ids() == [spec.run_id]


@pytest.mark.req("INV-4")
@pytest.mark.parametrize("at", ["1e999", "-1e999", "NaN", "1" + "0" * 400, '"1e999"', "true", "[]"])
def test_a_tombstone_of_no_time_stays_and_holds_up_no_other(folders: Folders, at: str) -> None:
    """Nobody knows when it was buried, so it witnesses nothing of the others: those go by their own times."""
    stones = {"run-0": at, "run-1": str(NOW - 3 * REMEMBER), "run-2": str(NOW - 2 * REMEMBER)}
    for name, when in stones.items():
        body = f'{{"service": "pg", "expires_at": "2001-01-01T00:00:00Z", "reaped_at": {when}}}'
        write_file(folders.tombstone(name), body.encode())
    gc.forget(folders, now=NOW, remember_s=REMEMBER)

    assert folders.reaped_ids() == ["run-0", "run-2"]


@pytest.mark.req("INV-3", "GEN-1")
def test_what_was_seen_of_a_service_survives(folders: Folders) -> None:
    """Generation and epoch stand as they did before its last run was removed."""
    lie_down(folders, run_made())
    before = folders.seen("pg")
    sweep(folders)
    assert folders.run_ids() == []
    assert folders.seen("pg") == before
    (folders.generations / "pg").unlink()
    with pytest.raises(Exception, match=r"generations/pg: is gone, but run-\S+ ran here"):
        folders.seen("pg")


@pytest.mark.req("INV-4", "LOOP-2")
def test_a_tombstone_goes_only_when_the_approval_has_long_expired(folders: Folders) -> None:
    """After it went, the expired approval refuses the same execution; the last one of a service stays as a witness."""
    first, second = run_made(), run_made(token="2")
    for spec in (first, second):
        lie_down(folders, spec)
        sweep(folders, now=NOW if spec is first else NOW + DAY)
    sweep(folders, now=NOW + REMEMBER - DAY)
    assert folders.reaped_ids() == sorted([first.run_id, second.run_id])

    sweep(folders, now=NOW + 3 * REMEMBER)
    assert folders.reaped_ids() == [second.run_id]
    later = datetime.fromtimestamp(NOW, UTC)
    rules = Rules("cloud-runner", "cloud", VERIFIER, SeedApprovals(APPROVER))
    with pytest.raises(NotApprovedError, match="expired"):
        admit(first, rules, now=later, generation_seen=0)


@pytest.mark.req("INV-4")
@given(
    expires_s=st.floats(-1e9, 1e9),
    reaped_s=st.floats(-1e9, 1e9),
    others=st.lists(st.floats(-1e9, 1e9), max_size=2),
)
def test_an_execution_that_could_still_run_is_never_forgotten(
    tmp_path_factory: pytest.TempPathFactory, expires_s: float, reaped_s: float, others: list[float]
) -> None:
    """Whatever the clocks said: an unexpired execution keeps its tombstone."""
    root = tmp_path_factory.mktemp("gc")
    found = Folders(root / "root", root)
    found.make()
    at = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=expires_s)
    stone = {"service": "pg", "expires_at": at.isoformat(), "reaped_at": NOW + reaped_s}
    write_file(found.tombstone("run-x"), json.dumps(stone).encode(), durable=False)
    for number, more in enumerate(others):
        other = {**stone, "reaped_at": NOW + more}
        write_file(found.tombstone(f"run-{number}"), json.dumps(other).encode(), durable=False)
    gc.forget(found, now=NOW, remember_s=REMEMBER)

    kept = found.reaped_ids()
    assert kept, "the last witness of a service went"
    if expires_s > 1 or reaped_s > -REMEMBER:
        assert "run-x" in kept


def boundaries() -> list[str]:
    """Every boundary of the removal of two runs, in order."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        found = Folders(Path(place) / "root", Path(place))
        found.make()
        lie_down(found, run_made())
        lie_down(found, run_made(token="2"))
        names: list[str] = []
        sweep(found, at=names.append)
    return [f"{number}-{name}" for number, name in enumerate(names)]


KILLED = """
import os, signal, sys
from pathlib import Path
from hyops.runner import gc
from hyops.runner.folders import Folders
root, secrets, stop, now, keep, remember = sys.argv[1:]
passed = -1
def at(name):
    global passed
    passed += 1
    if passed == int(stop):
        os.kill(os.getpid(), signal.SIGKILL)
gc.sweep(Folders(Path(root), Path(secrets)), now=float(now), keep_s=float(keep), remember_s=float(remember), at=at)
"""


@pytest.mark.req("RUN-5", "INV-4", "INV-7")
@pytest.mark.fault(12)
@pytest.mark.parametrize("boundary", boundaries())
def test_killed_anywhere_a_run_is_finished_or_removed(folders: Folders, boundary: str) -> None:
    """kill -9 at every boundary: no run reads as anything else, none starts again, and the next time ends the work."""
    gone = [run_made(), run_made(token="2")]
    kept = lie_down(folders, run_made(token="3"), collected_at=None)
    whole = {lie_down(folders, spec): None for spec in gone}
    files = {run_id: sorted(p.name for p in folders.run(run_id).rglob("*")) for run_id in whole}
    words = [
        str(folders.root),
        str(folders.secrets_dir),
        boundary.partition("-")[0],
        str(NOW),
        str(KEEP),
        str(REMEMBER),
    ]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
    assert done.returncode == -signal.SIGKILL

    config = config_of(folders)
    for spec in gone:
        state = folders.state(spec.run_id)
        assert state in ("finished", "absent")
        answer = start(config, spec.model_copy(update={"epoch": 4}))
        if state == "finished":
            assert sorted(p.name for p in folders.run(spec.run_id).rglob("*")) == files[spec.run_id]
            assert answer["started"] == "existing"
        else:
            assert refused_as_run(answer)
    assert folders.state(kept) == "finished"

    sweep(folders)
    assert folders.run_ids() == [kept]
    assert folders.reaped_ids() == sorted(whole)
    assert os.listdir(folders.trash) == []


def test_old_trash_goes_before_anything_is_written(folders: Folders) -> None:
    """On a full disk the tombstones need the room that a crash left in the trash."""
    left, run_id = lie_down(folders, run_made(token="left")), lie_down(folders, run_made())
    os.rename(folders.run(left), folders.trash / left)
    seen: list[tuple[list[str], list[str]]] = []
    sweep(folders, at=lambda name: seen.append((os.listdir(folders.trash), folders.reaped_ids())))
    assert seen[0] == ([], [])
    assert folders.reaped_ids() == [run_id]


def test_a_boot_ends_what_a_crash_left_in_the_trash(folders: Folders) -> None:
    """The boot unit deletes it; a run's folder is not resumed from there."""
    run_id = lie_down(folders, run_made(), outcome=None)
    os.rename(folders.run(run_id), folders.trash / run_id)
    assert resume_all(config_of(folders)) == []
    assert os.listdir(folders.trash) == []


@pytest.mark.req("RUN-5", "RUN-11")
def test_a_start_makes_room_when_the_runner_is_nearly_full(folders: Folders) -> None:
    """At nine tenths of `runs_max` a start first removes what may go; what may not go refuses it, with the way out."""
    config = config_of(folders, runs_max=10)
    for number in range(9):
        lie_down(folders, run_made(token=str(number)), collected_at=OLD if number % 2 else None)
    fresh = run_made(at=NOW, token="fresh", generation=8).model_copy(update={"epoch": 5})
    assert "could not be started" in start(config, fresh)["error"]["message"]  # admitted: only the program is missing
    assert len(folders.run_ids()) == 5
    assert len(folders.reaped_ids()) == 4

    for number in range(10, 15):
        lie_down(folders, run_made(token=str(number)), collected_at=None)
    refused = start(config, fresh)["error"]
    assert "10 runs lie here, of at most 10" in refused["message"]
    assert refused["hint"] == "`hyops runner gc --dry-run` says why each one stays"
    assert len(folders.run_ids()) == 10


def test_a_start_on_an_empty_runner_removes_nothing(folders: Folders) -> None:
    """Far from full, garbage is left to `gc`."""
    run_id = lie_down(folders, run_made())
    start(config_of(folders), run_made(at=NOW, token="fresh", generation=8).model_copy(update={"epoch": 5}))
    assert run_id in folders.run_ids()


@pytest.mark.req("RUN-6")
@pytest.mark.parametrize("digest", ["", "sha256:" + "0" * 64, None])
def test_a_confirmation_of_another_result_counts_nothing(folders: Folders, digest: object) -> None:
    """Only who names the result that lies here has collected it."""
    run_id = lie_down(folders, run_made(), collected_at=None)
    answer = ask(config_of(folders), {"verb": "collected", "run_id": run_id, "result_digest": digest})
    assert answer["error"]["error"] == "UnsafePlanError"
    assert "not collected" in sweep(folders)[run_id].why


@pytest.mark.req("RUN-6")
def test_an_unfinished_run_cannot_be_collected(folders: Folders) -> None:
    """There is no result, so nobody has it."""
    run_id = lie_down(folders, run_made(), outcome=None)
    with pytest.raises(PrerequisiteError, match="interrupted"):
        gc.note_collected(folders, run_id, "sha256:" + "0" * 64, now=OLD)


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("dry_run", [None, 0, "no", [True]])
def test_a_request_that_does_not_say_whether_it_is_dry_is_refused(folders: Folders, dry_run: object) -> None:
    """A missing or mistyped `dry_run` is not a wet one."""
    run_id = lie_down(folders, run_made())
    assert (
        ask(config_of(folders), {"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": dry_run})["error"]["error"]
        == "UsageError"
    )
    assert folders.run_ids() == [run_id]


@pytest.mark.req("RUN-5")
def test_the_door_answers_for_every_run(folders: Folders) -> None:
    """`gc` over the wire: the configured times hold, and each run has its reason."""
    old, open_ = lie_down(folders, run_made()), lie_down(folders, run_made(token="2"), outcome=None)
    config = config_of(folders)
    told = ask(config, {"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": True})
    assert {one["run_id"]: one["goes"] for one in told["runs"]} == {old: True, open_: False}
    longer = config_of(folders, keep_finished_s=40 * DAY)
    assert [one["goes"] for one in ask(longer, {"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": False})["runs"]] == [
        False,
        False,
    ]
    assert ask(config_of(folders), {"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": False})["dry_run"] is False
    assert folders.run_ids() == [open_]


@pytest.mark.req("INV-5", "UX-1")
@pytest.mark.parametrize("value", [1e300, float("inf"), float("nan"), 10**400, -1, 316224001, True, "3"])
def test_seconds_that_no_clock_can_count_are_refused(folders: Folders, value: Any) -> None:
    """With the file and the key, when it is read, and not when the first run is to be kept for so long."""
    for key in ("start_wait_s", "cache_keep_s", "keep_finished_s", "remember_reaped_s"):
        with pytest.raises(ConfigError, match=rf"runner\.json: {key}: "):
            config_of(folders, **{key: value})
