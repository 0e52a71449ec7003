"""Each guard of the return of state is taken out; what it keeps must then break, or its tests prove nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import states_files
from hyops.engine import merge, published
from hyops.engine.merge import Take
from hyops.model.module_state import ModuleState
from hyops.services import returning
from state_kit import Root, ended, state


def each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *guard: Any) -> Iterator[tuple[bool, Root]]:
    """A root with the guard, then one without it."""
    yield True, Root(tmp_path / "with" / "lab")
    monkeypatch.setattr(*guard)
    yield False, Root(tmp_path / "without" / "lab")


def now(root: Root) -> ModuleState:
    """The state, which is there."""
    found = root.now()
    assert found is not None
    return found


@pytest.mark.req("RUN-6", "ROOT-5")
def test_without_the_merge_a_newer_state_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what the run left as it is: what another run changed meanwhile is gone."""

    def taken(base: Any, ours: Any, left: Any) -> Take:
        return Take(left.status, left.on(base), False)

    for guarded, root in each(tmp_path, monkeypatch, returning, "three_way", taken):
        root.put(state(1, cidr="a", gateway="a"))
        plan = root.plan()
        root.put(state(2, cidr="a", gateway="newer"))
        root.one(ended(plan, {"cidr": "b", "gateway": "a"}, base=1))
        assert (now(root).outputs["gateway"] == "newer") is guarded


@pytest.mark.req("RUN-6", "VOC-5")
def test_without_the_look_at_the_status_unknown_replaces_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any status win: a run that nobody observed makes a proved state unknown."""
    for guarded, root in each(tmp_path, monkeypatch, merge, "_status_clash", lambda *_: []):
        root.put(state(1, cidr="a"))
        root.one(ended(root.plan(), {}, base=1, outcome="unknown"))
        assert (now(root).status == "ok") is guarded


@pytest.mark.fault(18)
@pytest.mark.req("RUN-6")
def test_without_the_bundle_a_forged_generation_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not compare with what was sent: a runner chooses what it is merged against."""
    for guarded, root in each(tmp_path, monkeypatch, returning._Taking, "_base_fault", lambda *_: None):
        root.put(state(1, cidr="a"))
        root.one(ended(root.plan(), {"cidr": "evil"}, base=9))
        assert (now(root).outputs["cidr"] == "a") is guarded


@pytest.mark.fault(18)
@pytest.mark.req("RUN-6", "INV-10")
def test_without_the_look_at_values_a_secret_becomes_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any value: a password lies in the state, readable for good."""
    for guarded, root in each(tmp_path, monkeypatch, published, "_unfit", lambda _: None):
        root.one(ended(root.plan(), {"cidr": {"password": "hunter2-canary"}}, base=None))
        assert ("hunter2-canary" not in root.text()) is guarded


@pytest.mark.req("RUN-6", "ROOT-5")
def test_without_the_memory_of_its_own_run_it_is_taken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a run wrote: collected again after a crash, it clashes with itself and others."""
    for guarded, root in each(tmp_path, monkeypatch, returning, "_is_own", lambda *_: False):
        outcome = ended(root.plan(), {"cidr": "a"}, base=None)
        root.one(outcome)
        root.put(state(2, cidr="b"))
        for path in (root.path / "logs").rglob("*.json"):
            path.unlink()
        assert (root.one(outcome).what == "applied") is guarded


class _Stop(Exception):
    """The process died here."""


@pytest.mark.req("ROOT-3", "ROOT-5")
def test_without_the_history_first_a_kill_loses_a_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the new state in its place only: the generation that was killed there is in no history."""
    write = states_files.FileStateWriter._write

    def reversed_(self: Any, path: Path, data: bytes, name: str) -> None:
        if name != "history":
            write(self, path, data, name)

    def dies(name: str) -> None:
        if name == "current:named":
            raise _Stop

    for guarded, root in each(tmp_path, monkeypatch, states_files.FileStateWriter, "_write", reversed_):
        root.put(state(1, cidr="a"))
        with contextlib.suppress(_Stop):
            Root(root.path, dies).put(state(2, cidr="b"))
        past = root.path / "state/modules/platform__net/history/instances/site-b"
        kept = sorted(path.name for path in past.glob("*.json")) if past.is_dir() else []
        assert ("0000000000000002.json" in kept) is guarded
