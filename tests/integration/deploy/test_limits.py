"""What `hyops runner blueprint deploy` waits for has an end, and what it left open is closed by the executor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import moved_clock
from deploy_site import HYOPS, DeploySite
from hyops.cli.main import main
from hyops.services import deploy
from loopback import missing

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))

DIES = [sys.executable, "-c", "raise SystemExit(1)"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DeploySite]:
    """One whose job dies whenever it is started."""
    site = DeploySite(tmp_path)
    site.configure(runner={"job_command": DIES, "start_wait_s": 0.2})
    with site.up():
        yield site


@pytest.mark.req("RUN-5", "UX-1")
def test_a_job_that_dies_at_each_start_is_not_tried_for_ever(
    site: DeploySite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with 23, says where to look, and calls nothing ended; the executor goes on with the same run."""
    monkeypatch.setattr(deploy, "TRIES_MAX", 2)
    main([*site.words("preflight"), "--json"])
    site.stand(json.loads(capsys.readouterr().out.splitlines()[0])["plan_digest"])

    code = main([*site.words("deploy", "--yes"), "--json"])

    (run_id,) = site.folders.run_ids()
    error = json.loads(capsys.readouterr().out.splitlines()[-1])
    recorded = json.loads((site.root / "logs" / "runner" / run_id / "dispatch.result.json").read_text())
    assert (code, error["effect"], f"hyops run show {run_id}" in error["hint"]) == (23, "unknown", True)
    assert (recorded["status"], recorded["error"]) == ("unknown", "DeadlineError")
    assert site.store("execution", "outcomes").ids() == []

    site.configure()
    site.close_by_hand()

    (outcome,) = site.store("execution", "outcomes").ids()
    body = json.loads(site.store("execution", "outcomes").read(outcome))
    assert (body["run_id"], body["outcome"]) == (run_id, "succeeded")


@pytest.mark.req("GATE-4", "RUN-11")
def test_a_preflight_that_is_left_out_leaves_the_clock_to_the_dispatch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Approved with the check left out, for a runner an hour off: refused on the link, before a byte is staged."""
    with DeploySite(tmp_path).up() as site:
        main([*site.words("preflight"), "--json"])
        site.stand(json.loads(capsys.readouterr().out.splitlines()[0])["plan_digest"])
        entrance = site.ssh / "authorized_keys"
        entrance.write_text(entrance.read_text().replace(str(HYOPS), f"{moved_clock.words(tmp_path, 3600.0)} {HYOPS}"))

        words = ("--yes", "--skip-preflight", "--preflight-bypass-reason", "it burns")
        code = main([*site.words("deploy", *words), "--json"])

        outcome = next(o for o in map(json.loads, capsys.readouterr().out.splitlines()) if o["event"] == "outcome")
        assert (code, outcome["outcome"]) == (12, "refused")
        assert "ahead of this host's" in outcome["reason"]
        assert [*site.folders.run_ids(), *site.folders.cas.iterdir()] == []
        assert "ahead of this host's" in doctor_says(site, capsys)


def doctor_says(site: DeploySite, capsys: pytest.CaptureFixture[str]) -> str:
    """The one fault of the runner, as `hyops runner doctor` names it."""
    main(["runner", "doctor", "--config", str(site.config("execution")), "--json"])
    (told,) = map(json.loads, capsys.readouterr().out.splitlines())
    return str(next(fault for fault in told["faults"] if "clock" in fault))
