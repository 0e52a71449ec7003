"""What running stages tell of their clocks and mirrors, on a real etcd and through `hyops control status` (LOOP-3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etcd_kit import Records, ask, put
from hyops.adapters import etcd_presence, etcd_presence_told
from hyops.adapters.etcd_gateway import b64
from hyops.adapters.etcd_presence import present, who_serves, who_serves_what
from hyops.adapters.etcd_presence_told import Told
from hyops.cli.main import main
from hyops.ports.lease import QuorumLostError
from loopback import Etcd, missing
from waiting import wait_for

pytestmark = [
    pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd"))),
    pytest.mark.req("LOOP-3", "UX-2"),
]
OLD = "/hyops/lab/serving/dispatch/of-before-7"


class Loop:
    """One member, an administrator's file, and how to look."""

    def __init__(self, folder: Path, endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.endpoint, self._capsys, self._config = endpoint, capsys, folder / "control.json"
        homes = {stage: str(folder / stage) for stage in ("decision", "dispatch", "approval", "execution")}
        store = {"etcd": {"endpoints": [endpoint], "env": "lab"}}
        body = {"api_version": "hybridops/v1", "kind": "Control", "homes": homes, "store": store}
        self._config.write_text(json.dumps(body))

    def said(self, *more: str) -> str:
        """What the command prints."""
        self._capsys.readouterr()
        assert main(["control", "status", "--config", str(self._config), *more]) == 0
        return self._capsys.readouterr().out

    def status(self) -> dict[str, Any]:
        """The same for programs."""
        return dict(json.loads(self.said("--json")))

    def stages(self, behind: str | None = None) -> list[dict[str, Any]]:
        """What is shown of the stages, once every one has told that its mirror is confirmed, or why it is not."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self.status()["serving"]
            return bool(found) and all(one["mirror"] and one["mirror"]["behind"] == behind for one in found)

        wait_for(there, f"stages whose mirrors are behind: {behind}")
        return found


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One member for all."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd.endpoints[0]


@pytest.fixture
def loop(tmp_path: Path, endpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Loop:
    """Whose stages give signs of life more often than in earnest."""
    monkeypatch.setattr(etcd_presence, "KEEP_S", 0.05)
    return Loop(tmp_path, endpoint, capsys)


def test_each_stage_tells_its_clock_and_its_mirror(loop: Loop) -> None:
    """One whose clock is far off is warned of, by name; nothing is said to be unknown."""
    with (
        Records([loop.endpoint]) as near,
        Records([loop.endpoint]) as far,
        present(near.session, "dispatch"),
        present(far.session, "approval", lambda: ahead(1000)),
    ):
        wait_for(lambda: len(loop.stages()) == 2, "both stages")
        said, found = loop.said(), loop.status()

    clocks = {one["stage"]: one["clock"] for one in found["serving"]}
    assert abs(clocks["dispatch"]["off_s"]) <= clocks["dispatch"]["within_s"]
    assert abs(clocks["approval"]["off_s"] - 1000) <= clocks["approval"]["within_s"]
    (warning,) = found["warnings"]
    assert warning.startswith("the clock of approval on ")
    assert f"WARNING: {warning}" in said
    assert "mirror confirmed at most 34" in said
    assert (found["unknown"], "not known" in said) == ([], False)


def ahead(seconds: float) -> datetime:
    """The time of a clock that is wrong."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("value", [b'{"version": "0.9", "since": "2026-01-01T00:00:00+00:00"}', b"", b"[]", b"\xff"])
def test_a_stage_of_an_older_release_is_shown_with_what_it_tells(loop: Loop, value: bytes) -> None:
    """In the middle of a rolling upgrade: its clock and mirror are unknown, and that is said; nobody warns."""
    put(loop.endpoint, OLD, value)
    try:
        found, said = loop.status(), loop.said()
    finally:
        ask(loop.endpoint, "/v3/kv/deleterange", key=b64(OLD))

    (one,) = found["serving"]
    assert (one["stage"], one["host"], one["pid"]) == ("dispatch", "of-before", "7")
    assert (one["clock"], one["mirror"], found["warnings"]) == (None, None, [])
    assert one["version"] == ("0.9" if b"0.9" in value else None)
    assert "not known: the clock and the mirror of dispatch on of-before (pid 7)" in said
    assert "dispatch on of-before (pid 7)" in said


def test_a_mirror_that_falls_behind_is_told_and_that_it_caught_up(loop: Loop) -> None:
    """As where etcd refuses a stage the records of another: its own key stands, and its mirror is not confirmed."""
    with Records([loop.endpoint]) as records, present(records.session, "dispatch"):
        loop.stages()
        confirm = records.session.confirm

        async def denied(*, counted: bool = True) -> None:
            raise QuorumLostError("permission denied")

        records.session.confirm = denied  # type: ignore[method-assign]
        loop.stages(behind="permission denied")
        said = loop.said()
        records.session.confirm = confirm  # type: ignore[method-assign]
        loop.stages()
    assert "WARNING: the mirror of dispatch on " in said
    assert "is not confirmed now: permission denied" in said


def test_signs_of_life_cost_no_revision(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that nobody compacts would be full within weeks; a clock that is set is told at once all the same."""
    looks, off_s = [0], [0.0]
    look = Told.look

    async def counted(told: Told) -> None:
        looks[0] += 1
        await look(told)

    monkeypatch.setattr(Told, "look", counted)
    monkeypatch.setattr(etcd_presence_told, "EVERY_S", 3000.0)
    with Records([loop.endpoint]) as records, present(records.session, "dispatch", lambda: ahead(off_s[0])):
        loop.stages()
        before, since = revision(loop.endpoint), looks[0]
        wait_for(lambda: looks[0] >= since + 20, "twenty signs of life")
        assert revision(loop.endpoint) == before

        off_s[0] = 5000.0
        wait_for(lambda: revision(loop.endpoint) > before, "another telling")
        (one,) = loop.stages()
    assert one["clock"]["off_s"] - one["clock"]["within_s"] > 1000


def revision(endpoint: str) -> int:
    """Of the whole store."""
    return int(ask(endpoint, "/v3/kv/range", key=b64("x"))["header"]["revision"])


def test_a_telling_brings_back_no_key_that_is_gone(loop: Loop) -> None:
    """What comes late, after a stage has ended, finds no key; a stage whose key was taken away shows itself anew."""
    with Records([loop.endpoint]) as records:
        told = Told(records.session, 34.0)
        key = "/hyops/lab/serving/execution/ended-1"
        assert not records.session.do(lambda: etcd_presence._say(records.session, key, 0, told, told.now(), anew=False))
        assert told.last is None
        assert who_serves(records.session) == []

        with present(records.session, "execution", lambda: ahead(next(steps))):
            (one,) = loop.stages()
            ask(
                loop.endpoint, "/v3/kv/deleterange", key=b64(f"/hyops/lab/serving/execution/{one['host']}-{one['pid']}")
            )
            wait_for(lambda: [it["stage"] for it in who_serves_what(records.session)] == ["execution"], "it is back")
        assert who_serves(records.session) == []


steps = iter(range(0, 10**9, 10))
"""A clock that somebody sets all the time, so that there is always something to tell."""
