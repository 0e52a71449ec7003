"""The past of a real Prometheus, filled with its own tool, through a policy (DEC-2, DEC-3, DEC-5)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hyops.cli.main import main
from loopback import free_ports, missing
from policy_files import written
from waiting import wait_for

BEGAN_S = 1_767_225_600  # 2026-01-01T00:00:00Z
LENGTH_S, LOST, SILENT = 60, range(30, 50), range(52, 58)
VANTAGES = ("control", "witness", "cloud-runner")
UNTIL = datetime.fromtimestamp(BEGAN_S + LENGTH_S, UTC).isoformat()
Captured = pytest.CaptureFixture[str]


def past() -> str:
    """OpenMetrics: the answers of three exporters, one sample every half second; WAL stops with the primary."""
    lines = ["# TYPE probe_success gauge"]
    for vantage in VANTAGES:
        for half in range(2 * LENGTH_S):
            if half // 2 not in SILENT:
                value = 0 if half // 2 in LOST else 1
                lines.append(f'probe_success{{vantage="{vantage}"}} {value} {BEGAN_S + half / 2:.3f}')
    lines.append("# TYPE wal_age gauge")
    for half in range(2 * LENGTH_S):
        lines.append(f"wal_age {99 if half // 2 in LOST else 0.1} {BEGAN_S + half / 2:.3f}")
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus on loopback with that past and nothing to scrape."""
    if missing("prometheus", "promtool"):
        pytest.skip("needs Debian's prometheus: tools/setup --tests")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "past.txt").write_text(past())
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    made = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "past.txt"), str(folder / "data")]
    subprocess.run(made, check=True, capture_output=True)
    (port,) = free_ports(1)
    argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y"]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/-/ready", trust_env=False).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        try:
            wait_for(ready, "prometheus")
            yield url
        finally:
            process.kill()


def simulated(folder: Path, url: str, *words: str) -> tuple[str, ...]:
    """The command for the last minute of that past."""
    (policy,) = written("one-voice", folder, twin=True)
    return ("policy", "simulate", policy, "--prometheus", url, "--since", "60s", "--until", UNTIL, "--json", *words)


@pytest.mark.req("DEC-2", "DEC-3", "DEC-5")
def test_the_past_of_real_exporters_goes_through_the_policy(server: str, tmp_path: Path, capsys: Captured) -> None:
    """The loss is decided two seconds after it began, and a silence of six seconds is one, not the last value."""
    answers = 'answers=probe_success{vantage="$vantage"}'
    port = 'port=probe_success{vantage="$vantage"}'
    words = ("--query", answers, "--query", port, "--query", "wal_received=wal_age")

    assert main(list(simulated(tmp_path, server, *words))) == 0
    (told,) = json.loads(capsys.readouterr().out)["replays"]

    assert [(one["decision_type"], one["at"][17:19]) for one in told["decisions"]] == [("failover", "32")]
    assert [(one["from"][17:19], one["to"][17:19]) for one in told["losses"]] == [("30", "50")]
    assert all(2 <= silent <= 8 for silent in told["silent_s"].values())


@pytest.mark.req("DEC-3", "UX-1")
@pytest.mark.parametrize(
    ("query", "said"),
    [("probe_success", "3 series instead of one"), ("sum(", "HTTP 400"), ("'words'", "HTTP 400")],
)
def test_a_query_that_is_no_one_series_is_refused(
    query: str, said: str, server: str, tmp_path: Path, capsys: Captured
) -> None:
    """Exit code 20 with what the server said, and nothing was touched."""
    assert main(list(simulated(tmp_path, server, "--query", f"answers={query}"))) == 20
    told: dict[str, Any] = json.loads(capsys.readouterr().out)

    assert said in told["message"]
    assert told["effect"] == "none"
