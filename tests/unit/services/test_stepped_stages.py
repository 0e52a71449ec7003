"""The stages as they are put together judge by a clock that knows when it stepped, and commands say so (LOOP-1)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyops.adapters.clock_kept import KeptFile
from hyops.cli.main import main
from hyops.compose_clock import CLOCK_FILE, doubts
from hyops.compose_health import health_of
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.vocabulary import DecisionType, Level
from hyops.services.config import Homes
from hyops.services.job_facts import boot_id
from hyops.services.pulse import PULSE
from hyops.services.steady_clock import Known
from loop_site import LoopSite

STEP_S = 3 * 3600.0


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopSite:
    """A control host."""
    made = LoopSite(tmp_path / "site")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(PULSE, "doubt", None)
    monkeypatch.setattr(PULSE, "doubted_s", 0.0)
    return made


def decided(site: LoopSite, number: int, ends_s: float) -> str:
    """A failover that ends so many seconds from now, by the clock of this host."""
    now = datetime.now(UTC).replace(microsecond=0)
    decision = Decision(
        decision_id=f"decision-{now:%Y%m%dT%H%M%SZ}-failover-0000000{number}",
        decision_type=DecisionType.FAILOVER,
        rationale="onprem-db lost",
        timestamp_utc=now + timedelta(seconds=min(0.0, ends_s - 60)),
        expires_at=now + timedelta(seconds=ends_s),
        level=Level.TRIGGER,
        service="pg",
        generation=1,
        env="lab",
    )
    signed = sign_record(decision, site.keys["decision"])
    site.records("decision", "records").create(signed.decision_id, signed.encoded())
    return signed.decision_id


@pytest.mark.req("LOOP-1", "LOOP-2", "UX-2")
@pytest.mark.fault(4)
def test_a_stage_that_begins_in_the_middle_of_a_step_closes_nothing(
    site: LoopSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock is three hours ahead of what the dispatcher knew: what is over by it alone waits, as commands and the
    stage's health say; what is good by both is asked for. Once it is confirmed, it is closed."""
    maybe = decided(site, 1, -3600)
    site.knew_clock("dispatch", STEP_S)
    good = decided(site, 2, 3600)
    site.serve("dispatch", lambda: bool(site.read("dispatch", "requests")), "a request")

    assert [request["source_decision_id"] for request in site.read("dispatch", "requests")] == [good]
    assert site.read("dispatch", "refusals") == []
    health = health_of("dispatch", "record-only", type("Config", (), {"homes": Homes.of(site.homes)}))
    assert ["stepped 10800 s ahead" in fault for fault in health.faults()] == [True]
    assert 'hyops_stage_clock_doubted{stage="dispatch"} 1\n' in health.metrics()
    assert 'hyops_stage_queue_length{stage="dispatch"} 1\n' in health.metrics()
    capsys.readouterr()
    assert main(["explain", maybe, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], "whether it has expired is not known" in found["why"]) == ("waiting", True)
    main(["control", "status", "--config", str(site.config("control"))])
    assert "dispatch: the clock of this host stepped 10800 s ahead" in "".join(capsys.readouterr())

    site.knew_clock("dispatch", 0.0)
    site.serve("dispatch", lambda: bool(site.read("dispatch", "refusals")), "a refusal")
    assert [refusal["subject_id"] for refusal in site.read("dispatch", "refusals")] == [maybe]
    assert doubts(Homes.of(site.homes)) == []


@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("stage", ["decision", "dispatch", "approval", "execution"])
def test_every_stage_keeps_what_it_knew_of_the_clock(site: LoopSite, stage: str) -> None:
    """From its first pass on, in its own folder."""
    file = Path(site.homes[stage]) / "state" / CLOCK_FILE
    site.serve(stage, file.exists, "what it knew")

    known = KeptFile(file, Known).load()
    assert known is not None
    assert (known.boot_id, known.stepped_s) == (boot_id(), None)
