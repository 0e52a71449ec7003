"""A way in from outside on a real edge: kernel's end, record after a crash, removal proved from outside (ACC-1)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from access_hosts import Host, forwards_only, target
from hyops.access.public import open_grant
from hyops.adapters.access_grants import FileGrants
from hyops.adapters.access_nft import NftGrants
from hyops.adapters.access_outside import SshOutside
from hyops.cli.access import access
from hyops.errors import NotVerifiedError, PrerequisiteError, UnsafePlanError
from hyops.model.access import AccessGrant
from loopback import missing, own_network, wait_for

LACKS = missing("sshd", "ip", "nft") or (None if os.geteuid() == 0 else "needs root")
pytestmark = [pytest.mark.skipif(LACKS is not None, reason=str(LACKS)), pytest.mark.req("ACC-1")]
OUTSIDE, PORT, DOOR = "10.50.0.1", 22022, 22023


@dataclass
class Edge:
    """The edge, the guarded target and the host outside, all in one network of the test's own."""

    folder: Path
    vantage: Host

    @property
    def config(self) -> Path:
        """What the edge guards."""
        path, key = self.folder / "access.json", self.vantage.folder
        vantage = {
            "address": OUTSIDE, "port": DOOR, "user": "root", "site": "elsewhere",
            "key_file": str(key / "client"), "known_hosts": str(key / "known_hosts"),
        }  # fmt: skip
        guarded = [{"address": OUTSIDE, "port": PORT}]
        body = {"api_version": "hybridops/v1", "kind": "AccessDesk", "grants_dir": str(self.folder / "grants")}
        path.write_text(json.dumps({**body, "guarded": guarded, "vantage": vantage}))
        return path

    def hyops(self, *words: str) -> Result:
        """`hyops access WORDS`."""
        return CliRunner().invoke(access, [*words, "--config", str(self.config)])

    def open(self, *more: str, source: str = OUTSIDE) -> Result:
        """A drill of a minute, unless it says otherwise."""
        return self.hyops(
            "open", "--occasion", "drill", "--reason", "test", "--source", source, "--address", OUTSIDE,
            "--port", str(PORT), *(more or ("--for", "60")),
        )  # fmt: skip

    def gets_in(self) -> bool:
        """Ask the host outside."""
        return asyncio.run(SshOutside(self.vantage.place).gets_in(OUTSIDE, PORT))

    def listed(self) -> dict[str, Any]:
        """What the command lists."""
        body: dict[str, Any] = json.loads(self.hyops("list", "--json").stdout)
        return body


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The target and the host outside, up."""
    folder = tmp_path_factory.mktemp("edge")
    with own_network():
        subprocess.run(["ip", "addr", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)
        db = target(folder / "db", address=OUTSIDE, port=PORT)
        line = forwards_only(PORT).replace("127.0.0.1", OUTSIDE)
        vantage = Host(folder / "outside", "outside", line, DOOR, OUTSIDE)
        try:
            db.start()
            vantage.start()
            yield vantage
        finally:
            vantage.stop()
            db.stop()


@pytest.fixture
def edge(hosts: Host, tmp_path: Path) -> Iterator[Edge]:
    """The edge guards, and nothing is granted."""
    asyncio.run(NftGrants([(OUTSIDE, PORT)]).install())
    try:
        yield Edge(tmp_path, hosts)
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "hyops_access"], check=True)
        hosts.may(hosts.line)


def test_a_grant_lets_in_and_its_removal_is_proved_from_outside(edge: Edge) -> None:
    """Closed, opened by one command, listed, removed by another; the record says what proved it."""
    assert not edge.gets_in()
    opened = edge.open()
    assert (opened.exit_code, edge.gets_in()) == (0, True)
    (grant,) = edge.listed()["grants"]
    assert (grant["state"], grant["present"]) == ("open", True)

    removed = edge.hyops("remove", grant["grant_id"])

    assert removed.exit_code == 0
    assert not edge.gets_in()
    (grant,) = edge.listed()["grants"]
    assert (grant["state"], grant["present"]) == ("removed", False)
    assert "no connection from outside" in grant["proof"]


def test_the_kernel_ends_a_grant_that_nobody_removes(edge: Edge) -> None:
    """The rule goes by itself; its record stays due until somebody has looked from outside."""
    edge.open("--for", "1.5")
    assert edge.gets_in()
    wait_for(lambda: not edge.listed()["grants"][0]["present"], "the end of the grant")

    assert not edge.gets_in()
    assert edge.listed()["grants"][0]["state"] == "open"
    assert edge.hyops("remove", "--all").exit_code == 0
    assert edge.listed()["grants"][0]["state"] == "removed"


def test_a_crash_between_rule_and_record_is_cleaned(edge: Edge) -> None:
    """Killed after the rule was made: the record says `opening`, the kernel has its end, `remove --all` proves it."""
    grants, kept = FileGrants(edge.folder / "grants"), []

    def dies(grant: AccessGrant) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.append(grant)
        grants.keep(grant)

    now = datetime.now(UTC)
    grant = AccessGrant.of(
        {
            "schema": "hyops/access-grant/v1", "grant_id": "g1", "state": "opening", "occasion": "break-glass",
            "reason": "x", "by": "ada", "source": f"{OUTSIDE}/32", "address": OUTSIDE, "port": PORT,
            "opened_at": now.isoformat(), "expires_at": (now + timedelta(seconds=60)).isoformat(),
        }
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(open_grant(grant, NftGrants([(OUTSIDE, PORT)]), dies, looks_from=OUTSIDE))
    (found,) = edge.listed()["grants"]
    assert (found["state"], found["present"], edge.gets_in()) == ("opening", True, True)
    told = subprocess.run(["nft", "list", "set", "inet", "hyops_access", "grants"], capture_output=True, check=True)
    assert b"expires" in told.stdout

    assert edge.hyops("remove", "--all").exit_code == 0

    assert (edge.gets_in(), edge.listed()["grants"][0]["state"]) == (False, "removed")


def test_a_session_ends_with_its_grant(edge: Edge) -> None:
    """What was established while it was open is refused too."""
    edge.open()
    with socket.create_connection((OUTSIDE, PORT)) as link:
        assert link.recv(4) == b"SSH-"
        edge.hyops("remove", "--all")
        link.sendall(b"SSH-2.0-x\r\n")
        link.settimeout(5)
        with pytest.raises(ConnectionResetError):
            _drain(link)


def test_another_way_in_is_found_by_the_look(edge: Edge) -> None:
    """The rule is gone and somebody gets in all the same: not proved, and not called removed."""
    edge.open()
    subprocess.run(["nft", "flush", "chain", "inet", "hyops_access", "input"], check=True)

    done = edge.hyops("remove", "--all")

    assert isinstance(done.exception, NotVerifiedError)
    assert edge.listed()["grants"][0]["state"] == "removing"


def test_a_vantage_that_may_not_look_proves_nothing(edge: Edge) -> None:
    """A refusal by the vantage is not a refusal by the edge."""
    edge.open()
    edge.vantage.may(forwards_only(1))

    with pytest.raises(PrerequisiteError, match="may not look"):
        edge.gets_in()
    assert isinstance(edge.hyops("remove", "--all").exception, NotVerifiedError)


@pytest.mark.parametrize(
    ("words", "source"),
    [((), "0.0.0.0/0"), ((), "10.0.0.0/8"), ((), "10.50.0.2"), (("--for", "60", "--port", "22"), OUTSIDE)],
)
def test_what_is_open_unguarded_or_unseen_is_refused(edge: Edge, words: tuple[str, ...], source: str) -> None:
    """Everybody, a range, a source from which nobody looks, a port that is not guarded."""
    assert isinstance(edge.open(*words, source=source).exception, UnsafePlanError)
    assert not edge.gets_in()


def test_a_rule_without_a_record_is_listed(edge: Edge) -> None:
    """Somebody else's element is told, not hidden."""
    element = f"{{ {OUTSIDE} . {OUTSIDE} . {PORT} timeout 60s }}"
    subprocess.run(["nft", "add", "element", "inet", "hyops_access", "grants", element], check=True)

    assert edge.listed()["without_record"] == ["unnamed"]


def _drain(link: socket.socket) -> None:
    while link.recv(4096):
        pass
