"""The commands that the page about security keys prints, word for word, with real keys and the CLI itself."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

import soft_key
from control_site import Run, run
from hyops.adapters.yaml_files import with_lines
from hyops.services.config import People
from runbook import block
from soft_key import PIN, TOUCHED, SoftKey
from unit.cli.test_loop_commands import Site, site

__all__ = ["run", "site"]
PAGES = Path(__file__).parents[3] / "docs" / "how-to"


@pytest.mark.req("APR-1")
def test_a_security_key_is_entered_and_signs_by_the_page(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line for `allowed_signers` is the one that OpenSSH reads; the grant is signed under both rules."""
    key = SoftKey(flags=TOUCHED | PIN)
    (site.root / "id_hyops_sk.pub").write_text(f"{key.public} ada\n")
    (site.root / "allowed").rename(site.root / "allowed_signers")
    (site.root / "allowed_signers").write_text("")
    (site.root / "allowed").symlink_to("allowed_signers")
    subprocess.run(["sh", "-c", block("security-keys.md", "enter")], cwd=site.root, check=True)
    site.approve_by(require_touch=True, require_pin=True)
    (request,) = (site.root / "dispatch-home/state/requests").glob("*.json")
    sign = block("security-keys.md", "sign").replace("~/.ssh/id_hyops_sk", str(site.root / "id_hyops_sk.pub"))
    command = shlex.split(sign.replace("DISPATCH_ID", request.stem))[1:]
    with soft_key.agent(site.root / "agent", key) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        done = run(*command, "--config", site.approval, "--yes")

    assert (done[0], [made.statement.approver for made in site.approvals()]) == (0, ["ada"])


@pytest.mark.req("LOOP-4", "DEC-6")
@pytest.mark.parametrize("stage", ["service", "executor"])
def test_the_examples_of_the_modules_name_people(stage: str) -> None:
    """And lay both files beside the configuration, where it looks for them."""
    path = PAGES.parents[1] / "catalog/modules/platform/network" / f"decision-{stage}/examples/minimal.inputs.yml"
    example, _ = with_lines(path.read_bytes(), source=str(path))
    people = People.of(example["config"]["people"])
    home = f"/opt/hybridops/decision-{stage}/config"

    assert {people.allowed_signers, people.approvers} == {
        f"{home}/{name}" for name in ("allowed_signers", "approvers.json")
    }
    assert {"allowed_signers", "approvers.json"} <= {*example["files"]}
