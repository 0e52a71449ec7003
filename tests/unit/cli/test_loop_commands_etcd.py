"""The commands of an operator on records in a real etcd: the same configuration with `store`, the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd_kit import Records
from hyops.adapters.store_files import FileRecordStore
from hyops.cli.main import main
from loopback import Etcd, missing
from unit.cli.test_loop_commands import Site

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    """A control host whose loop was moved to etcd: every configuration has a `store`."""
    folder = tmp_path_factory.mktemp("site")
    with Etcd(folder / "etcd") as etcd:
        made = Site(folder)
        store = {"etcd": {"endpoints": etcd.endpoints, "env": "lab"}}
        homes = json.loads(made.approval.read_text())["homes"]
        body = {"api_version": "hybridops/v1", "kind": "Control", "homes": homes, "store": store}
        control = made.write("control", body)
        assert main(["control", "migrate", "--config", str(control), "--from", "files", "--to", "etcd"]) == 0
        for config in (made.approval, made.decision, made.execution):
            config.write_text(json.dumps({**json.loads(config.read_text()), "store": store}))
        yield made, etcd.endpoints[0]


@pytest.mark.req("LOOP-3", "APR-1")
def test_status_approval_and_decision_work_on_etcd(site: tuple[Site, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What waits is seen, an approval and a decision are created there, and no file is written."""
    made, endpoint = site
    capsys.readouterr()
    assert main(["status", "--config", str(made.execution), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    (request,) = found["waiting"]
    words = ["--config", str(made.approval), request]
    assert main(["approval", "show", *words]) == 0
    assert request in capsys.readouterr().out
    asked = ["approval", "grant", *words, "--key", str(made.root / "ada"), "--note", "seen", "--yes"]
    assert main(asked) == 0, capsys.readouterr().err
    with Records([endpoint]) as records:
        assert len(records.store("approval", "approvals").ids()) == 1
    assert FileRecordStore(made.root / "approval-home/state/approvals").ids() == []


@pytest.mark.req("LOOP-3", "UX-1", "UX-2")
@pytest.mark.parametrize(
    ("store", "says"),
    [
        ({"etcd": {"env": "lab"}}, "store.etcd.endpoints"),
        ({"etcd": {"endpoints": ["http://10.0.0.1:2379"], "env": "lab"}}, "plain HTTP"),
        ({"etcd": {"endpoints": ["https://10.0.0.1:2379"], "env": "lab"}}, "ca_file"),
        ({"etcd": {"endpoints": ["http://127.0.0.1:1"], "env": "lab", "user": "root"}}, "password_file"),
        ({"etcd": {"endpoints": ["http://127.0.0.1:1"], "env": "a/b"}}, "store.etcd.env"),
        ({"files": {}}, "store.files"),
        (
            {"etcd": {"endpoints": ["https://127.0.0.1:1"], "env": "lab", "ca_file": "/nowhere/ca.pem"}},
            "ca_file: /nowhere/ca.pem",
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_named_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: object, says: str
) -> None:
    """Exit 11, file and key, before anything is asked of etcd."""
    made = Site(tmp_path)
    made.execution.write_text(json.dumps({**json.loads(made.execution.read_text()), "store": store}))
    capsys.readouterr()
    assert main(["status", "--config", str(made.execution)]) == 11
    assert says in capsys.readouterr().err


@pytest.mark.req("LOOP-3", "UX-1")
def test_without_etcd_a_command_says_so_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 12: no answer is no answer; nothing is taken from files instead."""
    made = Site(tmp_path)
    store = {"etcd": {"endpoints": ["http://127.0.0.1:1"], "env": "lab"}}
    made.execution.write_text(json.dumps({**json.loads(made.execution.read_text()), "store": store}))
    capsys.readouterr()
    assert main(["status", "--config", str(made.execution)]) == 12
    said = capsys.readouterr().err
    assert "no quorum" in said
    assert "etcdctl endpoint health" in said
