"""A switch is asked for by the page's own words, with and without a key, and shown to whoever approves (APR-1)."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from control_site import Run, run
from loop_site import LoopSite
from runbook import text

pytestmark = pytest.mark.req("APR-1", "UX-2")
PAGE = "ask-for-a-switch.md"
__all__ = ["Run", "run"]


def line_of(start: str) -> str:
    """The page's line that begins so, without its indent."""
    return next(line.strip() for line in text(PAGE).splitlines() if line.strip().startswith(start))


@pytest.mark.fault(10)
def test_the_page_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Ada asks with the page's words under its policy and cannot approve alone; of a typed name two approve."""
    site = LoopSite(tmp_path / "site")
    site.configure(approval=json.loads("{" + line_of('"policy"') + "}"))
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    ask = shlex.split(line_of("hyops decision request").replace("~/.ssh/id_ed25519", str(site.root / "ada")))[1:]
    assert run(*ask)[0] == 0
    assert run("decision", "request", "--service", "pg", "--type", "failover")[0] == 0
    site.serve("dispatch", lambda: len(site.read("dispatch", "requests")) == 2, "both requests")
    for request in site.read("dispatch", "requests"):
        code, _, err = run("approval", "grant", request["dispatch_id"], "--yes")
        assert code == 0, err
    waiting = json.loads(run("approval", "list", "--json")[1])

    assert [one["state"] for one in waiting] == ["waiting", "waiting"]
    said = sorted(one["reason"] for one in waiting)
    assert f"| `{said[0]}` |" in text(PAGE)
    assert said[1].startswith("nobody proved that ")
    assert said[1].endswith(" asked for it, so two people must approve")
    assert "asked for it, so two people must approve` |" in text(PAGE)
    shown = [run("approval", "show", one["request"]["dispatch_id"])[1] for one in waiting]
    assert sorted("proved by SHA256:" in one for one in shown) == [False, True]
    assert sorted("a name that nobody proved" in one for one in shown) == [False, True]
