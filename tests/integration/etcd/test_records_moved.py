"""`hyops control migrate` between files and a real etcd, and the commands and services that come after (LOOP-3)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import etcd_kit
from etcd_kit import Records
from hyops.adapters.etcd_presence import present
from hyops.adapters.store_files import FileRecordStore
from hyops.cli.main import main
from hyops.testing.contract_records import ONE
from loopback import Etcd, missing

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
STAGES = ("decision", "dispatch", "approval", "execution")


class Host:
    """A control host with some records in files, and the administrator's configuration."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.homes = {stage: str(folder / stage) for stage in STAGES}
        self.config = folder / "control.json"
        self.store = {"etcd": {"endpoints": [endpoint], "env": "lab"}}
        body = {"api_version": "hybridops/v1", "kind": "Control", "homes": self.homes, "store": self.store}
        self.config.write_text(json.dumps(body))

    def files(self, stage: str = "dispatch", kind: str = "requests") -> FileRecordStore:
        """As a stage has them."""
        return FileRecordStore(Path(self.homes[stage]) / "state" / kind)

    def words(self, source: str, target: str) -> list[str]:
        """The command."""
        return ["control", "migrate", "--config", str(self.config), "--from", source, "--to", target, "--json"]


@pytest.fixture
def host(tmp_path: Path) -> Any:
    """With an etcd of its own."""
    with Etcd(tmp_path / "etcd") as etcd:
        yield Host(tmp_path, etcd.endpoints[0])


@pytest.mark.req("LOOP-3")
def test_records_go_to_etcd_and_back(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts are printed, bytes and slots are the same, each side is closed in its turn, and again is nothing."""
    for number in range(20):
        host.files().create(f"request-{number:02}", b'{"n":%d}\n' % number, slot=f"slot-{number}")
    host.files("execution", "attempts").create("attempt-1", ONE)
    assert main(host.words("files", "etcd")) == 0
    there = json.loads(capsys.readouterr().out)
    assert (there["records"], there["slots"], there["written"]) == (21, 20, 21)
    with Records([host.endpoint]) as records:
        assert len(records.store().ids()) == 20
        assert records.store().slot("slot-7") == "request-07"
        assert records.store("execution", "attempts").create("attempt-2", ONE, slot="two").made
    assert main(host.words("files", "etcd")) == 0
    assert json.loads(capsys.readouterr().out)["already"]
    assert main(host.words("etcd", "files")) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 1
    assert host.files("execution", "attempts").slot("two") == "attempt-2"
    assert host.files().create("request-99", ONE).made
    with Records([host.endpoint]) as records:
        assert main(["control", "migrate", "--config", str(host.config), "--from", "etcd", "--to", "etcd"]) == 2
        capsys.readouterr()
        with pytest.raises(Exception, match="in files"):
            records.store().create("request-99", ONE)


@pytest.mark.req("LOOP-3", "DSP-3")
def test_a_check_that_was_cleaned_up_stands_in_no_ones_way_back(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A synthetic record and its request, removed from etcd with its own tool: named, kept aside, and the move goes on.

    The same the other way, with files that were removed; and what is aside is there for whoever looks.
    """
    host.files("decision", "records").create("decision-synthetic-check", ONE)
    host.files().create("request-1", ONE, slot="slot-1")
    host.files().create("request-2", ONE, slot="slot-2")
    assert main(host.words("files", "etcd")) == 0
    kinds = ("decision/records", "dispatch/requests")
    for key in (f"{kinds[0]}/decision-synthetic-check", f"{kinds[1]}/request-1"):
        etcd_kit.delete(host.endpoint, f"/hyops/lab/records/{key}")
    capsys.readouterr()
    assert main(host.words("etcd", "files")) == 0
    aside = json.loads(capsys.readouterr().out)["aside"]
    assert {kind: list(found) for kind, found in aside.items()} == {
        kinds[0]: ["decision-synthetic-check"],
        kinds[1]: ["slot slot-1", "request-1"],
    }
    places = [place for found in aside.values() for name, place in found.items() if not name.startswith("slot ")]
    assert [Path(place).read_bytes() for place in places] == [ONE, ONE]
    assert host.files().ids() == ["request-2"]
    assert host.files().create("request-3", ONE, slot="slot-1").made

    (Path(host.homes["dispatch"]) / "state" / "requests" / "request-2.json").unlink()
    assert main(host.words("files", "etcd")[:-1]) == 0
    said = capsys.readouterr().out
    slot, line = [line for line in said.splitlines() if line.startswith("SET ASIDE")]
    assert "dispatch/requests: slot slot-2: now /hyops/lab/aside/dispatch/requests/.slots/slot-2@" in slot
    key = line.rpartition("now ")[2]
    assert key.startswith("/hyops/lab/aside/dispatch/requests/request-2@")
    assert etcd_kit.ask(host.endpoint, "/v3/kv/range", key=etcd_kit.b64(key))["kvs"][0]["value"]
    with Records([host.endpoint]) as records:
        assert records.store().ids() == ["request-3"]
        assert records.store().slot("slot-1") == "request-3"
        assert records.store().create("request-4", ONE, slot="slot-2").made


@pytest.mark.req("LOOP-3", "APR-1")
def test_records_that_were_put_there_by_hand_move_too(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the folder of approvals is a record, also where no stage and no command has written there yet."""
    folder = Path(host.homes["approval"]) / "state" / "approvals"
    folder.mkdir(parents=True)
    (folder / "approval-1.json").write_bytes(ONE)
    host.files().create("request-1", ONE)
    assert main(host.words("files", "etcd")) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 2
    with Records([host.endpoint]) as records:
        assert records.store("approval", "approvals").read("approval-1") == ONE


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_stage_that_runs_on_etcd_is_seen(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """From its key with a lease: nothing is moved, nothing is closed."""
    with Records([host.endpoint]) as records:
        records.store().create("request-1", ONE)
        key = "/hyops/lab/serving/dispatch/"
        with present(records.session, "dispatch"):
            while not etcd_kit.ask(host.endpoint, "/v3/kv/range", **_range(key)).get("kvs"):
                pass
            assert main(host.words("etcd", "files")) == 12
            said = json.loads(capsys.readouterr().out)
            assert "dispatch/" in said["message"]
            assert said["effect"] == "none"
            assert records.store().create("request-2", ONE).made
        assert main(host.words("etcd", "files")) == 0


def _range(prefix: str) -> dict[str, str]:
    return {"key": etcd_kit.b64(prefix), "range_end": etcd_kit.b64(prefix[:-1] + "0")}


@pytest.mark.req("LOOP-3", "INV-7")
@pytest.mark.fault(13)
def test_a_move_that_is_killed_goes_on(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 after some of the records, in either direction: the old side is in use, and the command finishes."""
    for number in range(12):
        host.files().create(f"request-{number:02}", b'{"n":%d}\n' % number, slot=f"slot-{number}")
    for source, target in (("files", "etcd"), ("etcd", "files")):
        program = (
            "import os, sys\n"
            "from hyops.adapters import moving_etcd, moving_files\n"
            "done = 0\n"
            "for place in (moving_etcd.EtcdPlace, moving_files.FilePlace):\n"
            "    def add(self, *words, real=place.add):\n"
            "        global done\n"
            "        made, done = real(self, *words), done + 1\n"
            "        os._exit(9) if done == 5 else None\n"
            "        return made\n"
            "    place.add = add\n"
            "from hyops.cli.main import main\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        if target == "files":
            for number in range(12, 24):
                with Records([host.endpoint]) as records:
                    records.store().create(f"request-{number:02}", ONE, slot=f"slot-{number}")
        killed = subprocess.run([sys.executable, "-c", program, *host.words(source, target)], check=False)
        assert killed.returncode == 9
        assert main(host.words(source, target)) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["written"] == 12 - 5
    assert len(host.files().ids()) == 24
    assert host.files().slot("slot-17") == "request-17"


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_service_that_is_configured_for_the_old_side_refuses_to_start(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files after a move to etcd, etcd after a move back: exit 12 with the mend, before anything is read."""
    common = {"api_version": "hybridops/v1", "homes": host.homes, "signing_key": "/nowhere", "trusted_keys": "/nowhere"}
    files, etcd = host.folder / "files.json", host.folder / "etcd.json"
    files.write_text(json.dumps(common))
    etcd.write_text(json.dumps({**common, "store": host.store}))
    host.files().create("request-1", ONE)
    for source, target, wrong in (("files", "etcd", files), ("etcd", "files", etcd)):
        assert main(host.words(source, target)) == 0
        capsys.readouterr()
        for stage in STAGES:
            assert main(["service", "run", stage, "--config", str(wrong)]) == 12
            said = capsys.readouterr().err
            assert f"the records of this loop are in {target}" in said
            assert "hyops control migrate" in said
