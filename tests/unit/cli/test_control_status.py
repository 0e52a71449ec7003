"""`hyops control status` on files and on a real etcd: what waits and why, who serves and dials, and a lost quorum."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etcd_kit import Records, put
from hyops._version import __version__
from hyops.adapters import etcd_presence
from hyops.adapters.etcd_presence import present
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.adapters.starts_files import FileStarts
from hyops.cli.main import main
from hyops.compose import record_store
from hyops.compose_health import health_of
from hyops.errors import PrerequisiteError
from hyops.model.dispatch import DispatchRequest
from hyops.model.etcd import EtcdStore
from hyops.services.config import Home, Homes
from hyops.services.inbox import Refusals, slot_for
from hyops.testing.evidence import STAGES as SIGNERS
from loopback import Etcd, free_ports, missing
from unit.cli.test_loop_commands import Site
from waiting import wait_for

needs_etcd = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


def control(site: Site, store: dict[str, Any] | None) -> list[str]:
    """The words that name an administrator's file."""
    body = {"api_version": "hybridops/v1", "kind": "Control", "homes": json.loads(site.approval.read_text())["homes"]}
    return ["--config", str(site.write("control", {**body, **({"store": store} if store else {})}))]


def queues(found: dict[str, Any]) -> dict[str, int]:
    """Stage -> how much waits."""
    return {queue["stage"]: queue["length"] for queue in found["queues"]}


@pytest.fixture(scope="module")
def on_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], str]]:
    """A loop that was moved to etcd."""
    folder = tmp_path_factory.mktemp("site")
    with Etcd(folder / "etcd") as etcd:
        words = control(Site(folder), {"etcd": {"endpoints": etcd.endpoints, "env": "lab"}})
        assert main(["control", "migrate", *words, "--from", "files", "--to", "etcd"]) == 0
        yield words, etcd.endpoints[0]


@pytest.mark.fault(13)
@pytest.mark.req("LOOP-1", "UX-2")
def test_a_folder_that_takes_no_record_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: it stands with the other warnings, by stage and folder."""
    site = Site(tmp_path)
    there = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((*there[:4], 0, *there[5:])))
    assert main(["control", "status", *control(site, None), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["warnings"]

    assert told
    assert all(one.endswith("/state: no room") for one in told)


@pytest.mark.req("LOOP-3", "UX-2")
def test_on_files_it_shows_what_waits_and_who_dials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The request awaits approval; the lock that an executor holds is seen."""
    site = Site(tmp_path)
    words = control(site, None)
    starts = FileStarts(Path(json.loads(site.approval.read_text())["homes"]["execution"]) / "state" / "starts")
    starts.next_epoch()
    capsys.readouterr()
    with starts.dialling("attempt-1"):
        assert main(["control", "status", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["place"], found["epoch"], list(found["dials"]), found["members"]) == ("files", 1, ["attempt-1"], [])
    assert queues(found) == {"dispatch": 0, "approval": 1, "execution": 0, "runners": 0}
    assert main(["control", "status", *words]) == 0
    said = capsys.readouterr().out
    assert "waiting for approval: 1; oldest" in said
    assert "awaiting approval" in said
    assert "dialling" not in said
    (site.root / "decision-home/state/records/check.json").write_text(
        '{"decision_id": "check", "decision_type": "failover", "rationale": "by hand, without a time"}'
    )
    assert main(["control", "status", *words]) == 0
    assert "waiting for dispatch: 1; oldest check, nobody knows for how long: no request yet" in capsys.readouterr().out


@pytest.mark.req("LOOP-3", "UX-2", "INV-7")
def test_a_damaged_epoch_hides_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On files it stands among what is not known, with the mend; queues and rights are shown as ever."""
    site = Site(tmp_path)
    words = control(site, None)
    starts = FileStarts(Path(json.loads(site.approval.read_text())["homes"]["execution"]) / "state" / "starts")
    starts.next_epoch()
    (tmp_path / "execution-home/state/starts/epoch").write_bytes(b"")
    capsys.readouterr()
    with starts.dialling("attempt-1"):
        assert main(["control", "status", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert (found["epoch"], list(found["dials"]), queues(found)["approval"]) == (None, ["attempt-1"], 1)
    (unknown,) = found["unknown"]
    assert "epoch: not a number" in unknown
    assert "`epoch_seen` of `hyops runner jobs`" in unknown
    assert main(["control", "status", *words]) == 0
    assert "epoch not known" in capsys.readouterr().out


@needs_etcd
@pytest.mark.req("LOOP-3", "UX-2", "INV-7")
def test_a_damaged_epoch_in_etcd_hides_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, with the quorum's own mend."""
    with Etcd(tmp_path / "etcd") as etcd:
        words = control(Site(tmp_path), {"etcd": {"endpoints": etcd.endpoints, "env": "lab"}})
        assert main(["control", "migrate", *words, "--from", "files", "--to", "etcd"]) == 0
        put(etcd.endpoints[0], "/hyops/lab/starts/epoch", b"")
        capsys.readouterr()
        assert main(["control", "status", *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)

    assert (found["epoch"], found["foreign"], queues(found)["approval"]) == (None, False, 1)
    assert ["not an epoch" in line and "hyops control restore" in line for line in found["unknown"]] == [True]


@pytest.mark.req("LOOP-3", "UX-1", "UX-2")
def test_it_takes_an_executors_file_and_looks_for_one_where_it_is_told_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment names it, or it is where an installation puts it; one that is not there is named, with 11."""
    site = Site(tmp_path)
    monkeypatch.setenv("HYOPS_CONTROL_CONFIG", str(site.execution))
    capsys.readouterr()
    assert main(["control", "status", "--json"]) == 0
    assert queues(json.loads(capsys.readouterr().out))["approval"] == 1
    monkeypatch.setenv("HYOPS_CONTROL_CONFIG", str(tmp_path / "none.json"))
    assert main(["control", "status"]) == 11
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "none.json").write_text('{"kind": "DecisionExecutor"}')
    assert main(["control", "status"]) == 11
    assert "none.json" in capsys.readouterr().err


@needs_etcd
@pytest.mark.req("LOOP-3", "UX-2")
def test_on_etcd_it_shows_members_stages_and_rights(
    on_etcd: tuple[list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage with host and version, each right with its holder, the quorum with its latency."""
    words, endpoint = on_etcd
    with Records([endpoint]) as records, present(records.session, "execution"):
        starts = EtcdStarts(records.session, 20)

        def shown() -> dict[str, Any]:
            capsys.readouterr()
            assert main(["control", "status", *words, "--json"]) == 0
            return dict(json.loads(capsys.readouterr().out))

        wait_for(lambda: bool(shown()["serving"]), "the stage's key")
        with starts.dialling("attempt-1"):
            found = shown()
            assert main(["control", "status", *words]) == 0
            said = capsys.readouterr().out
    (stage,), (member,) = found["serving"], found["members"]
    assert (stage["stage"], stage["version"]) == ("execution", __version__)
    assert (member["answers"], found["lost"], found["latency_ms"] > 0) == (True, None, True)
    assert found["dials"]["attempt-1"]["host"] == stage["host"]
    assert queues(found)["approval"] == 1
    assert f"hyops {__version__} since" in said
    assert "dialling attempt-1: " in said
    assert "clock " in said
    assert "not known" not in said


@needs_etcd
@pytest.mark.req("LOOP-3", "LOOP-4", "UX-2")
def test_on_etcd_the_stages_count_what_it_counts(
    on_etcd: tuple[list[str], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A request that a flood of approvals holds up waits, by the same word to both."""
    words, endpoint = on_etcd
    kept = EtcdStore.of({"endpoints": [endpoint], "env": "lab"})
    homes = Homes().model_copy(update={stage: Home.kept_in(str(tmp_path), stage, kept) for stage in SIGNERS})
    asked = record_store(homes.dispatch, "requests")
    request = DispatchRequest.read(asked.read(asked.ids()[0]))
    refusals = Refusals(record_store(homes.approval, "refusals"), SIGNERS["approval"], "approval")
    slot = slot_for("flooded", request.digest())
    refusals.record(
        slot,
        kind="request",
        subject=request.dispatch_id,
        digest=request.digest(),
        reason="101 approvals say yes to it",
        now=datetime.now(UTC),
    )

    capsys.readouterr()
    assert main(["control", "status", *words]) == 0
    metrics = health_of("approval", "signed", SimpleNamespace(homes=homes)).metrics().splitlines()

    assert "awaiting approval; its stage found: 101 approvals say yes to it" in capsys.readouterr().out
    assert 'hyops_stage_queue_length{stage="approval"} 1' in metrics


@needs_etcd
@pytest.mark.req("LOOP-3", "UX-2")
def test_whom_etcd_does_not_let_look_at_the_stages_is_told_that(
    on_etcd: tuple[list[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an executor's own user: no lost quorum, and no word that nobody serves."""

    def denied(session: object) -> None:
        raise PrerequisiteError("permission denied")

    monkeypatch.setattr(etcd_presence, "who_serves_what", denied)
    capsys.readouterr()
    assert main(["control", "status", *on_etcd[0]]) == 0
    said = capsys.readouterr().out
    assert "not known: which stages serve: permission denied" in said
    assert "no stage serves" not in said


@needs_etcd
@pytest.mark.req("LOOP-3", "UX-2")
def test_a_restored_store_is_named_with_what_to_do(
    on_etcd: tuple[list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The one line that says why nobody dials."""
    words, endpoint = on_etcd
    put(endpoint, "/hyops/lab/starts/epoch", b'{"cluster": "1", "epoch": 7}')
    capsys.readouterr()
    assert main(["control", "status", *words]) == 0
    assert "epoch 7  RESTORED from a snapshot: nobody dials; next: `hyops control restore`" in capsys.readouterr().out


@pytest.mark.req("LOOP-3", "UX-1", "UX-2")
@pytest.mark.fault(13)
def test_without_a_quorum_it_ends_12_and_says_what_still_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each member by name, and the way on; for programs too."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    words = control(Site(tmp_path), {"etcd": {"endpoints": [endpoint], "env": "lab"}})
    capsys.readouterr()
    assert main(["control", "status", *words]) == 12
    said = capsys.readouterr()
    assert f"{endpoint}  DOES NOT ANSWER" in said.out
    assert "quorum lost: no stage decides or creates anything" in said.err
    assert "hyops takeover" in said.err
    assert main(["control", "status", *words, "--json"]) == 12
    assert json.loads(capsys.readouterr().out.splitlines()[0])["lost"]


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_refusal_is_no_lost_quorum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password stops nobody but who types it: it is told as what it is, and no outage is."""

    def refused(_: object) -> None:
        raise PrerequisiteError("etcd: refused: authentication failed", hint="see store.etcd.password_file")

    monkeypatch.setattr(EtcdStarts, "epoch", refused)
    (port,) = free_ports(1)
    words = control(Site(tmp_path), {"etcd": {"endpoints": [f"http://127.0.0.1:{port}"], "env": "lab"}})
    capsys.readouterr()
    assert main(["control", "status", *words]) == 12
    said = capsys.readouterr()
    assert "authentication failed" in said.err
    assert "see store.etcd.password_file" in said.err
    assert "quorum lost" not in said.out + said.err


@pytest.mark.req("LOOP-3", "UX-1")
@pytest.mark.parametrize("command", ["migrate", "etcd-roles", "restore"])
def test_what_needs_etcd_says_so_where_the_file_names_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Exit 11 with the key."""
    site = Site(tmp_path)
    more = {
        "migrate": ["--from", "files", "--to", "etcd"],
        "etcd-roles": ["--passwords", str(tmp_path / "passwords")],
        "restore": ["--execution-config", str(site.execution)],
    }
    capsys.readouterr()
    assert main(["control", command, *control(site, None), *more[command]]) == 11
    assert "store: the file names none" in capsys.readouterr().err
