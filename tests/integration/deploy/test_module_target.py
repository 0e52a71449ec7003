"""A single module as the target of a route, through four real stages, a real sshd and a real runner (DSP-1, DSP-2)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_site import END_LIMIT_S, STAGES, DeploySite
from hyops.cli.main import main
from loopback import missing, wait_for

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))
MODULE = "native/second-copy"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a backup with its manifest."""
    folder = tmp_path_factory.mktemp("copy")
    (folder / "base.tar").write_bytes(b"rows")
    (folder / "MANIFEST.sha256").write_text(f"{hashlib.sha256(b'rows').hexdigest()}  base.tar\n")
    return folder


def to_module(ref: str, **inputs: Any) -> dict[str, Any]:
    """The changes of a route that leads to a module."""
    return {"route": {"target_kind": "module", "target_ref": ref, "inputs": inputs}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, copied: Path) -> Iterator[DeploySite]:
    """One control host whose failover leads to a module, and one runner."""
    made = DeploySite(tmp_path_factory.mktemp("module"))
    made.configure(**to_module(MODULE, copy_name="offsite", folder=str(copied), max_age_s=86400))
    with made.up() as up:
        yield up


@pytest.fixture
def named(site: DeploySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the configurations by themselves."""
    for stage in STAGES:
        monkeypatch.setenv(f"HYOPS_{stage.upper()}_CONFIG", str(site.config(stage)))


def only(site: DeploySite, stage: str, kind: str) -> dict[str, Any]:
    """The one record of a kind that there is."""
    store = site.store(stage, kind)
    (name,) = store.ids()
    value = json.loads(store.read(name))
    assert isinstance(value, dict)
    return value


def said(capsys: Captured, *words: str) -> str:
    """What a command that ends well says."""
    capsys.readouterr()
    code = main(list(words))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.req("DSP-1", "DSP-2", "APR-1", "EXE-1", "EXE-2", "INV-4", "EVD-2")
@pytest.mark.usefixtures("named")
def test_a_module_is_decided_approved_run_and_proved(site: DeploySite, copied: Path, capsys: Captured) -> None:
    """One step, whose digest people signed; what the runner read stands in evidence that verifies offline."""
    said(capsys, "decision", "request", "--service", "pg", "--type", "failover")
    requests = site.store("dispatch", "requests")
    wait_for(lambda: bool(requests.ids()), "the request")
    request = only(site, "dispatch", "requests")
    plan = only(site, "dispatch", "plans")

    assert (request["status"], request["target_kind"], request["target_ref"]) == ("awaiting-approval", "module", MODULE)
    assert site.store("dispatch", "plans").ids() == [request["plan_digest"].removeprefix("sha256:")]
    assert plan["blueprint_ref"] == f"module/{MODULE}@v1"
    inputs = {"copy_name": "offsite", "folder": str(copied), "manifest": "MANIFEST.sha256", "max_age_s": 86400}
    assert [(step["module_ref"], step["inputs"]) for step in plan["steps"]] == [(MODULE, inputs)]

    shown = said(capsys, "approval", "show", request["dispatch_id"])
    assert f"module {MODULE}" in shown
    assert f"1. second-copy          {MODULE} [prepare]" in shown
    assert "0 of 1 or more given" in said(capsys, "explain", request["source_decision_id"])
    key = str(site.ring.folder / "approver")
    said(capsys, "approval", "grant", request["dispatch_id"], "--key", key, "--yes")
    executions = site.store("approval", "executions")
    wait_for(lambda: bool(executions.ids()), "the execution")
    executor = site.start("execution")
    try:
        outcomes = site.store("execution", "outcomes")
        wait_for(lambda: bool(outcomes.ids()), "the outcome")
        run_id = only(site, "execution", "outcomes")["run_id"]
        bundle = site.folder / "execution" / "state" / "evidence" / run_id
        wait_for((bundle / "evidence.jsonl").exists, "the evidence")
    finally:
        executor.terminate()
        executor.wait(END_LIMIT_S)

    assert only(site, "execution", "outcomes")["outcome"] == "succeeded"
    execution = only(site, "approval", "executions")
    assert (execution["target_kind"], execution["target_ref"]) == ("module", MODULE)
    result = json.loads((site.folders.run(run_id) / "result.json").read_text())
    (step,) = result["steps"]
    assert (step["step_id"], step["outcome"], step["changed"]) == ("second-copy", "succeeded", False)
    assert (step["outputs"]["second_copy"]["files"], result["plan_digest"]) == (1, request["plan_digest"])
    ring = site.ring.folder
    trust = ["--keys", str(ring / "trusted_keys.json"), "--allowed-signers", str(ring / "allowed_signers")]
    assert "verified" in said(capsys, "evidence", "verify", str(bundle), *trust)
    assert f"pg: {MODULE} ran by itself" in said(capsys, "evidence", "show", str(bundle), *trust, "--json")
    assert "SUCCEEDED" in said(capsys, "explain", run_id)


@pytest.mark.req("RUN-2", "DSP-1", "GATE-1")
@pytest.mark.parametrize("ref", [MODULE, f"module/{MODULE}@v1"])
def test_a_module_is_deployed_by_the_command_too(site: DeploySite, capsys: Captured, ref: str) -> None:
    """By its own name, or by that of its plan; another name is a mistake and no wish."""
    preflight = [*site.words("preflight", ref=ref), "--json"]
    code = main(preflight)
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (code, told["plan"]["blueprint_ref"]) == (0, f"module/{MODULE}@v1")
    site.stand(told["plan_digest"])
    before = len(site.folders.run_ids())

    assert main([*site.words("deploy", "--yes", ref=ref), "--json"]) == 0

    assert len(site.folders.run_ids()) == before + 1
    capsys.readouterr()
    assert main([*site.words("preflight", ref="native/noop"), "--json"]) == 16
    assert f"is routed to {MODULE}" in capsys.readouterr().out


@pytest.mark.req("RUN-2", "INV-2", "BP-3", "RUN-7")
@pytest.mark.parametrize("ref", ["native/postgresql-promote", "native/dns-cutover", "native/fence"])
def test_a_part_of_a_switch_is_refused_before_anything_is_recorded(
    site: DeploySite, capsys: Captured, ref: str
) -> None:
    """The route says so alone: no decision, no request, nothing on the runner, and the blueprint to take instead."""
    before = (site.store("decision", "records").ids(), site.folders.run_ids())
    files = {stage: site.config(stage).read_bytes() for stage in STAGES}
    try:
        site.configure(**to_module(ref))
        code = main([*site.words("deploy", "--yes", ref=ref), "--json"])
    finally:
        for stage, data in files.items():
            site.config(stage).write_bytes(data)

    assert code == 16
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "never runs alone" in told["message"]
    assert "dr/postgresql-warm-promote@v1" in told["message"]
    assert (site.store("decision", "records").ids(), site.folders.run_ids()) == before
