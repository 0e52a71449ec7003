"""The notifier as a process over real files: killed, started twice, with a dead sink beside a good one (UX-4)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyops.adapters.store_files import FileRecordStore
from hyops.cli.main import main
from hyops.cli.notify import notify
from hyops.compose import record_store
from hyops.errors import HyopsError
from hyops.model.notify import Told
from hyops.testing.evidence import STAGES, base64_of
from hyops.testing.runs import noop_plan, spec_of
from notify_servers import Receiver, private
from waiting import wait_for


class Site:
    """A control host's folders, and a `notify.yml` with the given sinks."""

    def __init__(self, folder: Path, **sinks: str) -> None:
        self.folder = folder
        homes = {name: str(folder / name) for name in ("decision", "dispatch", "approval", "execution")}
        self.requests = record_store(homes["dispatch"], "requests")
        keys = [{"public": base64_of(signer), "roles": [role]} for role, signer in STAGES.items()]
        (folder / "trusted.json").write_text(json.dumps({"keys": keys}))
        secret = str(private(folder / "secret", "canary-hmac-41d8"))
        body = {
            "api_version": "hybridops/v1",
            "kind": "Notify",
            "homes": homes,
            "trusted_keys": str(folder / "trusted.json"),
            "state": str(folder / "notify"),
            "sinks": {name: {"type": "webhook", "url": url, "secret_file": secret} for name, url in sinks.items()},
        }
        self.config = folder / "notify.yml"
        self.config.write_text(json.dumps(body))

    def ask(self, token: str) -> str:
        """A request that waits; its id."""
        request = spec_of(noop_plan(), at=datetime.now(UTC), token=token).request
        self.requests.create(request.dispatch_id, request.encoded())
        return request.dispatch_id

    def serve(self) -> subprocess.Popen[bytes]:
        """The service, as its unit would start it."""
        command = [sys.executable, "-m", "hyops", "service", "run", "notify", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stderr=log)

    def log(self) -> str:
        """Everything that it said."""
        return (self.folder / "log").read_text()


def about(receiver: Receiver) -> list[str]:
    """What a receiver was told of, one entry a time."""
    return [notice["about"] for _, _, body in receiver.seen for notice in json.loads(body)["notices"]]


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    """One that takes everything."""
    receiver = Receiver()
    with receiver.serve() as url:
        yield receiver, url


@pytest.mark.fault(13)
@pytest.mark.req("UX-4", "LOOP-1", "INV-10")
def test_killed_and_started_again_it_tells_what_is_untold_and_nothing_twice(
    tmp_path: Path, receiver: tuple[Receiver, str]
) -> None:
    """kill -9 after a message and its mark; a dead sink beside it holds up nothing; no secret stands in any file."""
    good, url = receiver
    site = Site(tmp_path, good=url, dead="http://127.0.0.1:1/hook")
    first = site.ask("one")
    service = site.serve()
    try:
        wait_for(lambda: any((tmp_path / "notify" / "good").glob("notice-*")), "the first mark")
        second = subprocess.run(
            [sys.executable, "-m", "hyops", "service", "run", "notify", "--config", str(site.config)],
            capture_output=True,
            check=False,
        )
    finally:
        service.kill()
        service.wait()
    later = site.ask("two")
    service = site.serve()
    try:
        wait_for(lambda: later in about(good), "the second message")
        wait_for(lambda: len([*(tmp_path / "notify" / "good").glob("notice-*")]) == 2, "the second mark")
    finally:
        service.terminate()
        ended = service.wait()

    assert about(good) == [first, later]
    assert (second.returncode, b"held for more than" in second.stderr) == (12, True)
    assert ended == 0
    assert '"sink": "dead"' in site.log()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "secret"]
    assert not any(b"canary-hmac" in path.read_bytes() for path in files)


def run(*words: str) -> tuple[int, str]:
    """Exit code and output of `hyops notify ...`."""
    done = CliRunner().invoke(notify, list(words))
    code = done.exception.exit_code if isinstance(done.exception, HyopsError) else done.exit_code
    return code, done.output + str(done.exception or "")


@pytest.mark.req("UX-1", "UX-4")
def test_a_sink_can_be_tried(tmp_path: Path, receiver: tuple[Receiver, str]) -> None:
    """One message; a sink that does not take it is 20, one that is not there 2 with the nearest name."""
    good, url = receiver
    site = Site(tmp_path, ops=url, dead="http://127.0.0.1:1/hook")
    config = ["--config", str(site.config)]
    taken, dead, unknown = (run("test", name, *config) for name in ("ops", "dead", "opps"))

    assert taken == (0, "ops: taken\n")
    assert [json.loads(body)["notices"][0]["event"] for _, _, body in good.seen] == ["test"]
    assert dead[0] == 20
    assert (unknown[0], "did you mean 'ops'" in unknown[1]) == (2, True)


@pytest.mark.req("UX-2", "UX-4")
def test_a_wrong_file_is_refused_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 11 with file, line and key; no state folder, nobody is told."""
    site = Site(tmp_path, ops="https://ops.example.org/hook")
    site.config.write_text(site.config.read_text().replace('"per_minute"', '"x"').replace('"sinks"', '"sink"'))
    code = main(["service", "run", "notify", "--config", str(site.config)])

    assert code == 11
    assert "sinks" in capsys.readouterr().err
    assert not (tmp_path / "notify").exists()


@pytest.mark.req("UX-4")
def test_what_was_told_can_be_looked_at(tmp_path: Path) -> None:
    """Every mark with sink, time and how; before there is any, that there is none."""
    site = Site(tmp_path, ops="https://ops.example.org/hook")
    nothing = run("told", "--config", str(site.config))
    mark = Told.of(
        {
            "told_id": "notice-waiting-1",
            "sink": "ops",
            "notice_id": "notice-waiting-1",
            "event": "waiting",
            "about": "dispatch-1",
            "at": "2026-03-14T03:00:00Z",
            "how": "gave-up",
            "tries": 200,
            "reason": "HTTP 500",
        }
    )
    FileRecordStore(tmp_path / "notify" / "ops").create(mark.told_id, mark.encoded())

    assert nothing == (0, "nothing was told\n")
    assert run("told", "--config", str(site.config))[1].split()[2:5] == ["ops", "gave-up", "waiting"]
    assert json.loads(run("told", "--json", "--config", str(site.config))[1]) == [mark.body()]
