"""A service is held during maintenance by the page's own commands, with a real key, and let go again (DEC-6)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from hyops.cli.main import main
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.testing.clock import FakeClock
from loop_site import LoopSite
from runbook import block, says, text, titles
from simulation.world import World, policy

pytestmark = pytest.mark.req("DEC-6", "UX-1", "UX-2")
PAGE = "hold-a-service.md"
Types = Callable[..., str]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopSite:
    """A control host whose files name Ada, as the page's preconditions say."""
    made = LoopSite(tmp_path / "site")
    for name, value in {**made.environment, "SERVICE": "pg"}.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def types(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> Types:
    """Type a block with Ada's key; her `y` at the terminal is `--yes` here. All that was said."""

    def typed(title: str, code: int = 0, **words: str) -> str:
        told = ""
        for line in block(PAGE, title).splitlines():
            for name, value in {"SERVICE": "pg", **words}.items():
                line = line.replace(f'"${name}"', value)
            argv = shlex.split(line.replace("~/.ssh/id_ed25519", str(site.root / "ada")))[1:]
            capsys.readouterr()
            ended = main([*argv, "--yes"] if "--key" in argv else argv)
            said = capsys.readouterr()
            assert ended == code, f"{argv} ended {ended}: {said.out}{said.err}"
            told += said.out + said.err
        return told

    return typed


def test_a_service_is_held_and_let_go_by_the_page(site: LoopSite, types: Types) -> None:
    """It stands in the status with its owner; who cannot wait says why; after its end nothing is left of it."""
    types("hold")
    (record,) = site.read("decision", "holds")
    seen = types("see")
    assert says(f"{record['hold_id']} until ... UTC dba on call: kernel upgrade of onprem-db", seen)
    assert says("HELD until ... UTC by dba on call: kernel upgrade of onprem-db", seen)

    refused = ["decision", "request", "--service", "pg", "--type", "failover"]
    assert main(refused) == 12
    assert site.read("decision", "records") == []
    types("cannot wait")
    (made,) = site.read("decision", "records")
    assert says("despite the hold of dba on call ... the upgrade broke the disk", made["rationale"])

    types("end", HOLD_ID=record["hold_id"])
    after = types("see")
    assert "nothing holds pg" in after
    assert "HELD" not in after


def test_a_hold_needs_the_files_that_the_page_names(site: LoopSite, types: Types) -> None:
    """Exit 11 without `people`, 13 for a key without a role; nothing is written, as its last table says."""
    site.configure(decision={"people": None})
    assert "people: absent" in types("hold", 11)
    site.configure(decision={"people": site_people(site)})
    (site.root / "approvers.json").write_text('{"roles": {}}')
    types("hold", 13)
    assert site.read("decision", "holds") == []


def site_people(site: LoopSite) -> dict[str, str]:
    """The page's own lines for the configuration, with this host's folder."""
    shown = next(line for line in text(PAGE).splitlines() if line.strip().startswith('"people"'))
    found: dict[str, str] = json.loads("{" + shown.replace("/etc/hyops", str(site.root)) + "}")["people"]
    return found


def test_an_automatic_failover_is_acknowledged_by_the_page(site: LoopSite, types: Types) -> None:
    """`LATCHED` until Ada has looked; a second time there is nothing to acknowledge."""
    world = World()
    world.clock = FakeClock(datetime.now(UTC))
    world.boot(0)
    world.watch(5)
    world.stand()
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    told = [("decisions", "decision", "records", Decision), ("attempts", "execution", "attempts", Attempt),
            ("outcomes", "execution", "outcomes", AttemptOutcome)]  # fmt: skip
    for kind, stage, folder, model in told:
        for record in world.records(kind, model):
            signed = sign_record(record.model_copy(update={"signature": None}), site.keys[stage])
            site.records(stage, folder).create(signed.record_id, signed.encoded())
    assert "LATCHED" in types("see")

    types("acknowledge")

    assert "LATCHED" not in types("see")
    assert "not latched" in types("acknowledge", 2)


def test_what_else_stands_on_the_page_is_a_policy() -> None:
    """Every block of commands is typed above, and the weekly window is one that a policy takes."""
    assert titles(PAGE) == ["hold", "see", "end", "cannot wait", "acknowledge"]
    shown = text(PAGE).split("```yaml\n")[1].split("```")[0]
    (window,) = policy(**yaml.safe_load(shown)).maintenance or []

    assert (window.name, window.time_zone) == ("patch-sunday", "Europe/Berlin")
