"""`hyops runner blueprint deploy` typed as root below a runtime root that is the executor's, and killed (RUN-7)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_site import HYOPS, DeploySite, released
from loopback import missing, wait_for

pytestmark = [
    pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd"))),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can work for another user"),
]
EXECUTOR, GROUP = 54314, 54300
JOB = [sys.executable, str(Path(__file__).with_name("job_entry.py"))]


@pytest.fixture
def site() -> Iterator[DeploySite]:
    """One site in a place that every user can reach; its runtime root and the executor's home are the executor's."""
    top = Path(tempfile.mkdtemp(prefix="hyops-test-"))
    top.chmod(0o755)
    try:
        made = DeploySite(top / "site", job=JOB)
        made.folder.chmod(0o755)
        made.configure(runner={"options": {"folder": str(made.folder), "hold": True}})
        (made.folder / "execution").mkdir(mode=0o750)
        for path in (made.folder / "execution", made.root, *made.root.rglob("*")):
            os.chown(path, EXECUTOR, GROUP)
        with made.up():
            password = made.folder / "vault-password"
            password.touch(mode=0o600)
            password.write_text("a password\n")
            argv = [str(HYOPS), "secrets", "set", "DB_PASSWORD", "--root", str(made.root)]
            argv += ["--vault-password-file", str(password)]
            subprocess.run(argv, input=b"a value", check=True, capture_output=True)
            yield made
    finally:
        shutil.rmtree(top)


def words(site: DeploySite, verb: str, *more: str) -> list[str]:
    """A deployment whose step takes a secret, as JSON lines."""
    password = ("--vault-password-file", str(site.folder / "vault-password"))
    return [str(HYOPS), *site.words(verb, "--sync-env", "DB_PASSWORD", *password, "--json", *more)]


def of_root(site: DeploySite) -> list[Path]:
    """What is root's below the runtime root and the executor's home; links are nobody's to open."""
    found = [path for top in (site.root, site.folder / "execution") for path in (top, *top.rglob("*"))]
    assert len(found) > 8
    return [path for path in found if (path.lstat().st_uid, path.lstat().st_gid) != (EXECUTOR, GROUP)]


def told(line: str) -> dict[str, Any]:
    """One event."""
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


@pytest.mark.req("RUN-7", "LOOP-1", "INV-7")
@pytest.mark.fault(13)
def test_killed_while_it_waits_for_the_approval_nothing_is_roots(site: DeploySite) -> None:
    """The record of what was asked for and the vault cache stay their owner's."""
    with subprocess.Popen(words(site, "deploy", "--yes"), stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        try:
            asked = next(line for line in map(told, command.stdout) if line["event"] == "request")
        finally:
            command.kill()

    (record,) = (site.root / "logs" / "runner").iterdir()
    assert json.loads((record / "dispatch.request.json").read_text())["dispatch_id"] == asked["dispatch_id"]
    assert of_root(site) == []


@pytest.mark.req("RUN-7", "LOOP-1", "INV-7", "EVD-1")
@pytest.mark.fault(13)
def test_killed_in_the_middle_of_the_effect_its_evidence_is_completed(site: DeploySite) -> None:
    """The run goes on, the executor closes it and seals its bundle, and all of it belongs to the one user."""
    preflight = subprocess.run(words(site, "preflight"), capture_output=True, text=True, check=True)
    site.stand(told(preflight.stdout.splitlines()[0])["plan_digest"])
    with subprocess.Popen(words(site, "deploy", "--yes"), stdout=subprocess.DEVNULL) as command:
        try:
            wait_for((site.folder / "held").exists, "the effect")
        finally:
            command.kill()
    run_id = site.folders.run_ids()[-1]
    assert (site.root / "logs" / "runner" / run_id / "dispatch.request.json").exists()
    assert of_root(site) == []

    wait_for(lambda: released(site.folder / "held"), "the effect that waits")
    site.close_by_hand(run_id)

    assert (site.folder / "execution" / "state" / "evidence" / run_id / "evidence.jsonl").exists()
    assert of_root(site) == []
