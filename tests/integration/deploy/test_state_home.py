"""What a deployed run leaves becomes state of the environment, by the command that deployed it as by the executor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy_site import DeploySite
from hyops.cli.main import main
from hyops.model.module_state import state_path
from hyops.services.returning import ATTACHMENT
from loopback import missing

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))

REF = "test/keeps@v1"
KEEPS = f"""
api_version: hybridops/v1
kind: BlueprintSpec
blueprint_ref: {REF}
title: One step whose note is kept
inputs: {{}}
steps:
  - id: nothing
    module_ref: native/noop
    phase: prepare
    inputs: {{note: seven}}
    state_instance: kept
    publishes: [note]
"""


@pytest.mark.req("RUN-6", "ROOT-3")
def test_what_a_deployed_run_leaves_becomes_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published output stands in the environment's state, and the evidence of the run has the report."""
    site = DeploySite(tmp_path)
    blueprint = tmp_path / "catalog" / "blueprints" / REF / "blueprint.yml"
    blueprint.parent.mkdir(parents=True)
    blueprint.write_text(KEEPS)
    rooted = {"runtime_root": str(site.root)}
    site.configure(catalogs=[str(tmp_path / "catalog")], route={"target_ref": REF}, dispatch=rooted, execution=rooted)
    with site.up():
        main([*site.words("preflight", ref=REF), "--json"])
        site.stand(json.loads(capsys.readouterr().out.splitlines()[0])["plan_digest"])

        code = main([*site.words("deploy", "--yes", ref=REF), "--json"])

    (run_id,) = site.folders.run_ids()
    kept = json.loads((site.root / state_path("native/noop#kept")[0]).read_text())
    assert (code, kept["status"], kept["outputs"], kept["run_id"]) == (0, "ok", {"note": "seven"}, run_id)
    assert [path.name for path in tmp_path.glob(f"execution/state/evidence/{run_id}/**/{ATTACHMENT}")] == [ATTACHMENT]
