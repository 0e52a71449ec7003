"""Two releases on one loop in etcd, restarted one after the other in mid-work: no record is lost or made twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etcd_kit import Records
from fault_size import FULL
from hyops._version import __version__
from hyops.model import ids
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.vocabulary import DecisionType, Level
from loop_site import LoopSite
from loopback import Etcd, missing
from waiting import wait_for

pytestmark = [
    pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd"))),
    pytest.mark.req("LOOP-1", "LOOP-3", "INV-5", "INV-7"),
]
SOURCE = Path(__file__).parents[3] / "src"
THERE = Path(__file__).parents[2] / "stages_there.py"
NEWER = "99.0.0"
STAGES = ("dispatch", "approval", "execution")
CHAIN = [("decision", "records"), ("dispatch", "requests"), ("approval", "executions"), ("execution", "attempts")]
SOURCES = ("source_decision_id", "source_dispatch_id", "source_execution_id")
FIELD = {
    "model/dispatch.py": (
        "    status: RequestStatus\n",
        "    status: RequestStatus\n    urgency: Text | None = None\n",
    ),
    "control/dispatch.py": (
        "        execution_plane=chosen.",
        '        urgency="high",\n        execution_plane=chosen.',
    ),
}
"""File -> what stands in it, and what a release has there that writes a field which ours does not know."""
ATTEMPT = {
    "model/execution.py": (
        "    run_id: Name\n    timestamp_utc",
        "    run_id: Name\n    urgency: Text = ''\n    timestamp_utc",
    ),
    "control/execution.py": (
        "        run_id=execution.run_id(),\n",
        "        run_id=execution.run_id(),\n        urgency='high',\n",
    ),
}
"""The same in a record that no stage reads but the executors, each other's."""
CASES = {"version": {}, "field": FIELD, "attempt": ATTEMPT} if FULL else {"field": FIELD}


def release(folder: Path, changes: dict[str, tuple[str, str]]) -> Path:
    """A tree of a newer hyops: ours, but for its version and these changes; its catalogue is ours."""
    whole = {**changes, "_version.py": (f'"{__version__}"', f'"{NEWER}"')}
    tree = folder / "src"
    _linked(SOURCE / "hyops", tree / "hyops", {Path(name).parts[0] for name in whole})
    for parent in {Path(name).parent for name in changes}:
        _linked(SOURCE / "hyops" / parent, tree / "hyops" / parent, {Path(name).name for name in changes})
    for name, (before, after) in whole.items():
        text = (SOURCE / "hyops" / name).read_text()
        assert before in text
        (tree / "hyops" / name).write_text(text.replace(before, after, 1))
    (folder / "catalog").symlink_to(SOURCE.parent / "catalog")
    return tree


def _linked(source: Path, target: Path, but: set[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name not in but:
            (target / entry.name).symlink_to(entry)


class Loop:
    """One loop on a cluster; hosts of any release serve it, and decisions come in."""

    def __init__(self, root: Path, etcd: Etcd, records: Records) -> None:
        store = {"etcd": {"endpoints": etcd.endpoints, "env": records.env}}
        lane = {"target_ref": "core/noop@v1", "target_env": "lab", "execution_plane": "runner-local"}
        lane |= {"runner_ref": "cloud-runner", "requires_approval": False}
        routes = {"env": "lab", "dispatcher_require_approval": False, "dispatcher_routes": {"failover": lane}}
        free = {"required": 1, "allow_unapproved": True}
        self.root, self.records = root, records
        changes = {"dispatch": {"routes": routes}, "approval": {"policy": free}, "execution": {"mode": "dry-run"}}
        self.site, self.asked = LoopSite(root / "site", store, **changes), 0

    @contextlib.contextmanager
    def host(self, name: str, tree: Path) -> Iterator[Host]:
        """One more control host, that serves."""
        made = Host(self.root / f"{name}.out", [str(tree), str(self.site.root), *STAGES])
        try:
            wait_for(lambda: "serves" in made.said() or made.process.poll() is not None, f"{name} to serve")
            yield made
        finally:
            made.process.kill()
            made.process.wait()

    def ask(self, count: int = 1) -> None:
        """As many decisions more, of the kind that needs nobody's yes."""
        for _ in range(count):
            self.asked += 1
            at = datetime.now(UTC)
            made = Decision(
                decision_id=ids.derived("decision", at, str(self.asked), "failover"),
                decision_type=DecisionType.FAILOVER,
                rationale=f"loss {self.asked}",
                schema="hyops/decision/v1",
                timestamp_utc=at,
                expires_at=at + timedelta(hours=1),
                level=Level.TRIGGER,
                requires_approval=False,
                service="pg",
                env="lab",
                generation=1,
            )
            signed = sign_record(made, self.site.keys["decision"])
            self.records.store(*CHAIN[0]).create(signed.decision_id, signed.encoded())

    def all(self, stage: str, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind."""
        store = self.records.store(stage, kind)
        return {name: json.loads(store.read(name)) for name in store.ids()}

    def ended(self) -> bool:
        """Whether each decision came to its end."""
        return len(self.records.store(*CHAIN[3]).ids()) == self.asked

    def check(self) -> None:
        """Every record of a stage has one answer of the next, and no other record is there."""
        assert len(self.all(*CHAIN[0])) == self.asked
        for came, answer, source in zip(CHAIN, CHAIN[1:], SOURCES, strict=False):
            answered = Counter(one[source] for one in self.all(*answer).values())
            assert answered == dict.fromkeys(self.all(*came), 1), answer


class Host:
    """A process, and what it said."""

    def __init__(self, out: Path, words: list[str]) -> None:
        self.out = out
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with out.open("wb") as stdout, out.with_suffix(".log").open("wb") as log:
            command = [sys.executable, str(THERE), *words]
            self.process = subprocess.Popen(command, stdout=stdout, stderr=log, env=env)

    def said(self) -> str:
        """On stdout."""
        return self.out.read_text()

    def stop(self, number: int) -> None:
        """As its service manager does, or as a power cut."""
        self.process.send_signal(number)
        self.process.wait()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One member for all loops of this module."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.mark.fault(12, 13)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL] if FULL else [signal.SIGKILL])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_hosts_of_two_releases_serve_one_loop(
    tmp_path: Path, etcd: Etcd, changes: dict[str, tuple[str, str]], how: signal.Signals
) -> None:
    """Old, old and new, new: decisions come in all the time, hosts go in mid-work, and each record has one answer.

    What the newer release writes and ours does not know, ours refuses by the field's name, and leaves it to the newer
    one; it makes nothing in its place.
    """
    newer = release(tmp_path / "newer", changes)
    with Records(etcd.endpoints, f"upgrade-{tmp_path.name}") as records:
        loop = Loop(tmp_path, etcd, records)
        with loop.host("first", SOURCE) as first:
            assert f"serves {__version__}" in first.said()
            loop.ask(2)
            wait_for(loop.ended, "the ends under the old release")
            with loop.host("second", newer) as second:
                assert f"serves {NEWER}" in second.said()
                loop.ask(4)
                wait_for(loop.ended, "the ends under both")
                first.process.send_signal(signal.SIGSTOP)  # so that the newer one makes this request
                loop.ask()
                wait_for(loop.ended, "the end under the newer one")
                first.process.send_signal(signal.SIGCONT)
                if changes is FIELD:
                    wait_for(lambda: bool(loop.all("approval", "refusals")), "what the old one says of it")
                loop.ask(2)
                first.stop(how)
                loop.ask(2)
                wait_for(loop.ended, "the ends under the newer one alone")
        loop.check()
        _refused_by_name(loop)


def _refused_by_name(loop: Loop) -> None:
    """The old release said of what it does not know why it does not take it; nothing else was refused."""
    requests = loop.all("dispatch", "requests")
    strange = {name for name, one in requests.items() if "urgency" in one}
    refusals = loop.all("approval", "refusals").values()
    assert {one["subject_id"] for one in refusals} <= strange
    assert all("urgency: Extra inputs are not permitted" in one["reason"] for one in refusals)
