"""A control host is lost with its member of etcd, and rebuilt by the page: nothing is lost, and nothing done twice."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd_kit import Records
from hyops._version import __version__
from hyops.cli.main import main
from loop_site import LoopSite
from loopback import Etcd, free_ports, listens, missing
from runbook import block, says, titles
from waiting import stand_still, wait_for

pytestmark = [
    pytest.mark.skipif(missing("etcd", "etcdctl") is not None, reason=str(missing("etcd", "etcdctl"))),
    pytest.mark.req("LOOP-1", "LOOP-3", "UX-1"),
]
PAGE = "lose-and-rebuild-a-control-host.md"
TREE = Path(__file__).parents[3] / "src"
THERE = Path(__file__).parents[2] / "stages_there.py"
KINDS = [("decision", "records"), ("dispatch", "requests"), ("approval", "executions"), ("execution", "attempts")]


class Loop:
    """One loop on a cluster, with whoever administrates it."""

    def __init__(self, root: Path, etcd: Etcd, patch: pytest.MonkeyPatch, out: pytest.CaptureFixture[str]) -> None:
        self.root, self.etcd, self._patch, self._out = root, etcd, patch, out
        store = {"etcd": {"endpoints": etcd.endpoints, "env": "lab"}}
        self.site = LoopSite(root / "site", store, execution={"mode": "dry-run"})
        patch.chdir(self.site.root)
        etcdctl = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(etcd.endpoints)}
        for name, value in {**self.site.environment, **etcdctl}.items():
            patch.setenv(name, value)

    def hyops(self, line: str) -> str:
        """A command; it must succeed. What was said."""
        self._out.readouterr()
        code = main(shlex.split(line)[1:])
        said = self._out.readouterr()
        assert code == 0, f"{line}: {said.out}{said.err}"
        return said.out

    def ask(self, number: int) -> str:
        """Somebody asks for a switch; the decision."""
        said = self.hyops(f"hyops decision request --service pg --type failover --by bob --rationale n{number} --json")
        return str(json.loads(said)["decision_id"])

    @contextlib.contextmanager
    def host(self, *names: str) -> Iterator[subprocess.Popen[bytes]]:
        """A control host with these stages; its power is cut at the end."""
        command = [sys.executable, str(THERE), str(TREE), str(self.site.root), *names]
        with (
            (self.root / "host.log").open("wb") as log,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as made,
        ):
            try:
                yield made
            finally:
                made.kill()

    def there(self, records: Records, kind: tuple[str, str]) -> dict[str, bytes]:
        """All records of one kind."""
        store = records.store(*kind)
        return {name: store.read(name) for name in store.ids()}


@pytest.mark.fault(12, 13)
def test_a_lost_host_is_rebuilt_by_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut in mid-work with its member; the member is replaced, the stages run elsewhere, each decision has one end."""
    with Etcd(tmp_path / "etcd", count=3) as etcd, Records(etcd.endpoints, "lab") as records:
        loop = Loop(tmp_path, etcd, monkeypatch, capsys)
        dead = etcd.leader()
        with loop.host("dispatch"):
            asked = [loop.ask(1)]
            wait_for(lambda: bool(records.store("dispatch", "requests").ids()), "a request")
        etcd.kill(dead)
        asked.append(loop.ask(2))
        before = {kind: loop.there(records, kind) for kind in KINDS}

        said = loop.hyops(block(PAGE, "control: what is left").strip())
        assert says(f"{etcd.endpoints[dead]} DOES NOT ANSWER", said), said

        with member(loop, dead) as url:
            endpoints = [*(e for n, e in enumerate(etcd.endpoints) if n != dead), url]
            rebuilt(loop, endpoints)
            requests, attempts = records.store(*KINDS[1]), records.store(*KINDS[3])
            with loop.host("dispatch", "approval", "execution") as host:
                wait_for(lambda: len(requests.ids()) == 2, "both requests")
                for request in requests.ids():
                    loop.hyops(f"hyops approval grant {request} --yes")
                wait_for(lambda: len(attempts.ids()) == 2, "both attempts")
                said = loop.hyops(block(PAGE, "control: verify").strip())
                assert "DOES NOT ANSWER" not in said
                for stage in ("dispatch", "approval", "execution"):
                    assert says(f"{stage} on ... (pid {host.pid}), hyops {__version__} since", said), said
                assert says("waiting for execution: 0", said), said
        after = {kind: loop.there(records, kind) for kind in KINDS}
    assert all(after[kind][name] == data for kind in KINDS for name, data in before[kind].items())
    assert sorted(after[KINDS[0]]) == sorted(asked)
    sources = ["source_decision_id", "source_dispatch_id", "source_execution_id"]
    for kind, came, source in zip(KINDS[1:], KINDS, sources, strict=False):
        answered = Counter(json.loads(data)[source] for data in after[kind].values())
        assert answered == dict.fromkeys(after[came], 1)
    assert len(titles(PAGE)) == 5


def rebuilt(loop: Loop, endpoints: list[str]) -> None:
    """The same keys and configurations on a new host, with the new member among the endpoints; homes are empty."""
    site = loop.site
    site.store = {"etcd": {"endpoints": endpoints, "env": "lab"}}
    site.configure()
    for stage in site.homes:
        assert not (site.root / f"{stage}-home" / "state" / "records").exists()


@contextlib.contextmanager
def member(loop: Loop, dead: int) -> Iterator[str]:
    """The page's commands in place of the dead one; the new one's address, once it is there."""
    found = subprocess.run(["etcdctl", "member", "list"], check=True, capture_output=True, text=True, env=os.environ)
    (dead_id,) = [line.split(", ")[0] for line in found.stdout.splitlines() if f", m{dead}, " in line]
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    words = {"DEAD_ID": dead_id, "NAME": "fresh", "PEER_URL": peer, "CLIENT_URL": client}
    words["DATA"] = str(loop.root / "fresh")
    known = {**os.environ, **words}
    subprocess.run(
        ["sh", "-ec", block(PAGE, "control: replace the member")], env=known, capture_output=True, check=True
    )
    said = [""]

    def added() -> bool:
        """Typed again where the page says so."""
        typed = ["sh", "-ec", block(PAGE, "control: add its successor")]
        done = subprocess.run(typed, env=known, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "unhealthy cluster" in done.stderr, done.stderr
        said[0] = done.stdout
        if done.returncode != 0:
            stand_still(0.5, "etcd looks at its own clock for 5 s, and each asking costs a process")
        return done.returncode == 0

    wait_for(added, "the member's place in the cluster")
    (line,) = [line for line in said[0].splitlines() if line.startswith("ETCD_INITIAL_CLUSTER=")]
    words["CLUSTER"] = line.partition("=")[2].strip('"')
    typed = ["sh", "-ec", "exec " + block(PAGE, "new host: start the member")]
    with (loop.root / "fresh.log").open("wb") as log:
        process = subprocess.Popen(typed, env={**os.environ, **words}, stdout=log, stderr=log)
    try:
        wait_for(lambda: listens(int(client.rpartition(":")[2])), "the new member")
        yield client
    finally:
        process.kill()
        process.wait()
