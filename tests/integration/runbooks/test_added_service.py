"""A service is added by the page: its policy, its route, its commands; then it is watched, asked for and let lie."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.cli.main import main
from loop_site import LoopSite
from loopback import free_ports
from runbook import block, says, titles
from simulation.world import policy

PAGE = "add-a-service.md"
MODULE = {"decision-executor": "execution", "decision-consumer": "approval"}
MODULE |= {"decision-dispatcher": "dispatch", "decision-service": "decision"}
LANE = {"target_ref": "core/noop@v1", "target_env": "prod", "execution_plane": "runner-local"}


def here(known: dict[str, Any], standby: Path) -> dict[str, Any]:
    """The page's policy with this machine's own places: nobody listens as primary; of the standby a file tells."""
    known |= {"confirm_for_s": 0.5, "quorum": 1}  # on a busy machine a starved prober has no vote, the other one has
    (nobody,) = free_ports(1)
    for member in known["members"]:
        member |= {"address": "127.0.0.1", "port": nobody}
    port = next(signal for signal in known["signals"] if signal["name"] == "port")
    told: dict[str, Any] = {
        "name": "lag_bytes",
        "source": "file",
        "url": f"file://{standby}",
        "about": "target",
        "max_age_s": 600,
    }
    standby.write_text(json.dumps({"sampled_at": datetime.now(UTC).strftime("%FT%TZ"), "value": 0.0}))
    return {
        **known,
        "signals": [
            {**port, "vantages": ["control", "witness"], "max_age_s": 30},
            {**told, "comparator": "lte", "threshold": 16000000},
        ],
    }


class Desk:
    """Whoever administrates, with the inputs of the four stages; and a control host whose stages are in this process.

    `hyops apply` is here what it comes to on the host: the stage's own check of the new configuration, and its file.
    """

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys = root / "desk", capsys
        self.folder.mkdir()
        quiet = {"name": "none", "source": "file", "url": "file:///nonexistent", "interval_s": 3600}
        pg = {"policy": policy(env="prod", signals=[quiet], quorum=1).body(), "initial_generation": 1}
        routes = {"env": "prod", "dispatcher_routes": {"failover": [{**LANE, "runner_ref": "cloud-runner"}]}}
        self.inputs: dict[str, dict[str, Any]] = {
            "execution": {"mode": "dry-run", "protected": [pg]},
            "approval": {},
            "dispatch": {"services": ["pg"], "routes": routes},
            "decision": {"protected": [pg], "vantages": dict.fromkeys(("control", "witness"))},
        }
        self.site = LoopSite(root / "site", **json.loads(json.dumps(self.inputs)))
        patch.chdir(self.folder)
        patch.setattr(sys, "argv", [str(Path(sys.executable).with_name("hyops"))])  # what probes are started as
        for name, value in {**self.site.environment, "USER": "bob"}.items():
            patch.setenv(name, value)

    def types(self, text: str, **words: str) -> str:
        """Every line of a block; each must succeed. What was said."""
        said = ""
        for line in text.splitlines():
            for name, value in {"USER": "bob", **words}.items():
                line = line.replace(f'"${name}"', shlex.quote(value))
            argv = shlex.split(line)
            assert argv.pop(0) == "hyops"
            said += self._applied(argv) if argv[0] == "apply" else self._ran(argv)
        return said

    def _ran(self, argv: list[str]) -> str:
        self._capsys.readouterr()
        code = main([*argv, "--yes"] if argv[:2] == ["approval", "reject"] else argv)
        said = self._capsys.readouterr()
        assert code == 0, f"{argv}: {said.out}{said.err}"
        return said.out

    def _applied(self, argv: list[str]) -> str:
        assert argv[1:4] == ["--env", "prod", "--module"]
        stage = MODULE[argv[4].removeprefix("platform/network/")]
        before = self.site.config(stage).read_bytes()
        self.site.configure(**{stage: self.inputs[stage]})
        said = self._ran(["service", "check", stage, "--config", str(self.site.config(stage))])
        if argv[5:] == ["--dry-run"]:
            self.site.config(stage).write_bytes(before)
        return said


@pytest.mark.req("LOOP-4", "DEC-1", "DSP-1", "DSP-4", "VOC-4", "UX-2")
def test_a_service_is_added_by_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block as it stands there. A loss is seen and leads to no request; what is asked for is a dry run."""
    desk = Desk(tmp_path, capsys, monkeypatch)
    site = desk.site
    before = site.config("execution").read_bytes()
    known = block(PAGE, "services/orders.yml", "yaml")
    (desk.folder / "services").mkdir()
    (desk.folder / "services/orders.yml").write_text(known)
    desk.types(block(PAGE, "check the policy"))
    routes = yaml.safe_load(block(PAGE, "a route of its own", "yaml"))
    (desk.folder / "routes.yml").write_text(json.dumps({"env": "prod", "dispatcher_routes": routes}))
    desk.types("hyops policy check services/orders.yml --routes routes.yml --quiet")
    added = here(yaml.safe_load(known), tmp_path / "standby.json")
    for stage in ("decision", "execution"):
        desk.inputs[stage]["protected"].append({"policy": added, "initial_generation": 1})
    desk.inputs["dispatch"]["services"].append("orders")
    for kind, own in routes.items():
        desk.inputs["dispatch"]["routes"]["dispatcher_routes"].setdefault(kind, []).extend(own)
    dry, *rest = block(PAGE, "apply").splitlines()
    desk.types(dry)
    assert site.config("execution").read_bytes() == before
    desk.types("\n".join(rest))
    assert "orders (prod)  primary onprem-orders, generation 1  settled" in desk.types(block(PAGE, "is it there"))

    ignored = site.records("dispatch", "refusals")
    site.serve("decision dispatch", lambda: bool(ignored.ids()), "a decision that the dispatcher lets lie")
    said = desk.types(block(PAGE, "is it watched"))
    assert says("of orders: ... IGNORED by the dispatcher: level:monitor", said), said
    watched = {check["vantage"] for one in site.read("decision", "records") for check in one["checks"]}
    assert watched & {"control", "witness"}
    assert site.read("dispatch", "requests") == []

    desk.types(block(PAGE, "ask"))
    site.serve("dispatch", lambda: bool(site.read("dispatch", "requests")), "a request")
    (request,) = site.read("dispatch", "requests")
    assert (request["service"], request["runner_ref"]) == ("orders", "cloud-runner")
    desk.types(f"hyops approval grant {request['dispatch_id']} --yes")
    site.serve("approval execution", lambda: bool(site.read("execution", "attempts")), "an attempt")
    assert says("DRY RUN", desk.types("hyops explain"))
    assert [one["status"] for one in site.read("execution", "attempts")] == ["dry-run-ready"]

    desk.types(block(PAGE, "ask").replace("rehearsal of", "another rehearsal of"))
    site.serve("dispatch", lambda: len(site.read("dispatch", "requests")) == 2, "another request")
    (other,) = [one for one in site.read("dispatch", "requests") if one["dispatch_id"] != request["dispatch_id"]]
    desk.types(block(PAGE, "say no"), REQUEST=other["dispatch_id"])
    assert says("REJECTED", _refused(desk))
    assert titles(PAGE) == ["check the policy", "apply", "is it there", "is it watched", "ask", "say no"]


def _refused(desk: Desk) -> str:
    site = desk.site
    site.serve("approval", lambda: bool(site.read("approval", "refusals")), "its rejection")
    return desk.types("hyops explain")
