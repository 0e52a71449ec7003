"""The commands that pages about approvals and holds print, word for word, with real keys and the CLI itself."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import soft_key
from control_site import Run, run
from hyops.adapters.yaml_files import with_lines
from hyops.model.policy import ServicePolicy
from hyops.services.config import People
from simulation.world import policy
from soft_key import PIN, TOUCHED, SoftKey
from unit.cli.test_loop_commands import Site, site

__all__ = ["run", "site"]
PAGES = Path(__file__).parents[3] / "docs" / "how-to"


def block(page: str, title: str) -> str:
    """The commands of a page under a title."""
    found = re.search(rf'( *)```\w+ title="{title}"\n(.*?)```', (PAGES / page).read_text(), re.DOTALL)
    assert found is not None, title
    return "".join(line.removeprefix(found[1]) for line in found[2].splitlines(keepends=True))


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


def said(title: str, site: Site, **more: str) -> list[list[str]]:
    """The commands of a block of the page about holds, as somebody at this site types them."""
    text = block("hold-a-service.md", title).replace("~/.ssh/id_ed25519", str(site.root / "ada"))
    for placeholder, value in {"SERVICE": "pg", **more}.items():
        text = text.replace(placeholder, value)
    config = {"status": site.execution, "hold": site.decision, "decision": site.decision}
    commands = [shlex.split(line)[1:] for line in text.splitlines()]
    yes = [["--yes"] if words[1:2] in (["add"], ["end"], ["acknowledge"]) else [] for words in commands]
    return [[*words, "--config", str(config[words[0]]), *more] for words, more in zip(commands, yes, strict=True)]


@pytest.mark.req("DEC-6", "UX-2")
def test_a_service_is_held_by_the_page(site: Site, run: Run) -> None:
    """The configuration as the page has it; held, seen, asked for in spite of it, ended; nothing is latched."""
    people = json.loads("{" + block("hold-a-service.md", "people") + "}")["people"]
    here = {"allowed_signers": "allowed", "approvers": "approvers.json"}
    entered = {key: str(site.root / here[key]) for key in people}
    for config in (site.decision, site.execution):
        config.write_text(json.dumps({**json.loads(config.read_text()), "people": entered}))
    (held,) = [run(*words) for words in said("hold", site)]
    hold_id = held[1].split()[-1]
    looked = [run(*words) for words in said("look", site)]
    (refused,) = [run(*words[:6], *words[8:]) for words in said("despite", site)]
    (asked,) = [run(*words) for words in said("despite", site)]
    (ended,) = [run(*words) for words in said("end", site, HOLD_ID=hold_id)]
    (seen,) = [run(*words) for words in said("acknowledge", site)]

    assert ([held[0], *(code for code, _, _ in looked)], refused[0], asked[0]) == ([0] * 4, 12, 0)
    assert [hold_id in looked[0][1], hold_id in looked[1][1], "HELD" in looked[2][1]] == [True] * 3
    assert (ended[0], seen[0], "not latched" in seen[2]) == (0, 2, True)
    assert "nothing holds pg" in run(*said("look", site)[0])[1]


@pytest.mark.req("DEC-6")
def test_the_window_of_the_page_is_a_policy_s() -> None:
    """As it stands there, in the policy of a service."""
    window, _ = with_lines(block("hold-a-service.md", "window").encode(), source="page")

    assert ServicePolicy.of({**policy().body(), **window}).maintenance is not None


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
