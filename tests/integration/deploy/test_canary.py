"""A secret that is handed to a run is nowhere else: searched for on both sides after every kind of end (fault 21)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_site import HYOPS, DeploySite, released
from hyops.adapters.sealer_hpke import SealKey
from hyops.cli.main import main
from hyops.compose_secrets import secrets_of
from hyops.model.secret import Secret
from hyops.services import deploy as deploying
from loopback import missing, wait_for

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))

CANARY = 'canary/7f41+b9 "d"\'c'
NEEDLES = [
    CANARY.encode(),
    b"canary/7f41",
    base64.b64encode(CANARY.encode()).rstrip(b"="),
    CANARY.encode().hex().encode(),
    urllib.parse.quote(CANARY, safe="").encode(),
]
JOB = [sys.executable, str(Path(__file__).with_name("job_entry.py"))]
HANDED = ("--sync-env", "DB_PASSWORD")
TRIES = 6
"""Half a minute: a job that dies at each start ends the test, as it ends the command."""
BOUNDARIES = (1, 3, 5)
"""Before the first intent, around the effect, and at the closing of the run."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploySite]:
    """One site whose vault cache has the canary, and whose plan stands approved."""
    site = DeploySite(tmp_path_factory.mktemp("canary"), job=JOB)
    site.configure(runner=options(site))
    with site.up():
        password = site.folder / "vault-password"
        password.touch(mode=0o600)
        password.write_text("not the canary\n")
        secrets_of(site.root, password).put("DB_PASSWORD", Secret(CANARY))
        yield site


@pytest.fixture
def site(up: DeploySite) -> Iterator[DeploySite]:
    """The same, as it was at first."""
    yield up
    up.configure(runner=options(up))
    for name in ("crashed", "held"):
        (up.folder / name).unlink(missing_ok=True)


def options(site: DeploySite, **more: Any) -> dict[str, Any]:
    """The runner's configuration with the driver told what to do."""
    return {"options": {"folder": str(site.folder), **more}}


def words(site: DeploySite, *more: str, verb: str = "deploy") -> list[str]:
    """A deployment that hands the canary over."""
    asked = ("--yes",) if verb == "deploy" else ()
    password = ("--vault-password-file", str(site.folder / "vault-password"))
    return site.words(verb, *asked, *HANDED, *password, *more)


def approved(site: DeploySite, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan with the secret's name in it stands approved from now on."""
    main([*words(site, verb="preflight"), "--json"])
    plan = json.loads(capsys.readouterr().out.splitlines()[0])
    assert plan["plan"]["sync_env"] == {"DB_PASSWORD": "vault"}
    site.stand(plan["plan_digest"])


def hits(*folders: Path) -> list[str]:
    """Every file below that has the canary in any form."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                found += [str(path) for needle in NEEDLES if needle in data]
    return found


def processes() -> list[str]:
    """Every process that has the canary in its arguments or its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        for name in ("cmdline", "environ"):
            try:
                data = (entry / name).read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            found += [f"{entry}/{name}" for needle in NEEDLES if needle in data]
    return found


@pytest.fixture
def deploy(site: DeploySite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command in this process; what it prints is searched too."""
    approved(site, capsys)

    monkeypatch.setattr(deploying, "TRIES_MAX", TRIES)

    def deployed(*more: str) -> int:
        code = main(words(site, *more))
        said = capsys.readouterr()
        assert not any(needle in (said.out + said.err).encode() for needle in NEEDLES)
        return code

    return deployed


@pytest.mark.req("RUN-8", "SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("end", ["ok", "fail", "die"])
def test_nothing_is_left_of_a_secret_after_an_end(site: DeploySite, deploy: Callable[..., int], end: str) -> None:
    """A driver that talks in every way it can, and its children: no hit, and the rest of what was said is kept."""
    site.configure(runner=options(site, end=end))

    ended = deploy()

    run_id = site.folders.run_ids()[-1]
    said = (site.folders.run(run_id) / "job.err").read_text()
    assert (ended == 0) == (end == "ok")
    assert (hits(site.folder, site.secrets), processes()) == ([], [])
    assert "out: ***" in said
    assert said.count("child: ***") >= 4
    assert list(site.secrets.iterdir()) == []


@pytest.mark.req("RUN-8", "RUN-5")
@pytest.mark.fault(21)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_killed_job_leaves_nothing_and_goes_on(site: DeploySite, deploy: Callable[..., int], boundary: int) -> None:
    """kill -9 of the job: the run goes on by the same command, and nothing is left of the secret anywhere."""
    site.configure(runner=options(site, crash_at=boundary))

    assert deploy() == 0
    assert (site.folder / "crashed").exists()
    assert (hits(site.folder, site.secrets), list(site.secrets.iterdir())) == ([], [])


@pytest.mark.req("RUN-8", "RUN-5")
@pytest.mark.fault(21)
def test_a_killed_command_leaves_nothing_and_the_run_goes_on(
    site: DeploySite, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 of the command in the middle of the effect: no process and no file has it but the one of the open run,
    0600 in memory; when the run has ended by itself, that one is gone too.
    """
    approved(site, capsys)
    site.configure(runner=options(site, hold=True))
    with subprocess.Popen([str(HYOPS), *words(site)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        try:
            wait_for((site.folder / "held").exists, "the effect")
            run_id = site.folders.run_ids()[-1]
            kept = site.secrets / run_id
            while_held = hits(site.folder), processes(), set(hits(site.secrets)), kept.stat().st_mode & 0o777
        finally:
            command.kill()
    after_kill = hits(site.folder), processes()
    wait_for(lambda: released(site.folder / "held"), "the effect that waits")
    wait_for(lambda: site.folders.state(run_id) == "finished" and not kept.exists(), "the end of the run")

    assert while_held == ([], [], {str(kept)}, 0o600)
    assert after_kill == ([], [])
    assert hits(site.folder, site.secrets) == []
    site.close_by_hand()


@pytest.mark.req("SEC-3", "RUN-8")
def test_sealed_to_the_runner_not_even_the_handed_file_can_be_read(
    site: DeploySite, deploy: Callable[..., int]
) -> None:
    """With the runner's key in runners.yml, what travels and lies on the runner is a box that only it opens."""
    key = SealKey.create(site.folder / "seal.pem")
    site.configure(place={"seal_key": key.public}, runner={**options(site), "seal_key": str(site.folder / "seal.pem")})

    assert deploy() == 0
    assert hits(site.folder, site.secrets) == []


@pytest.mark.req("SEC-3", "GATE-3")
@pytest.mark.parametrize("side", ["control", "runner"])
def test_a_seal_that_only_one_side_knows_of_is_refused(site: DeploySite, deploy: Callable[..., int], side: str) -> None:
    """A runner with a key takes nothing plain, and one without cannot open a box: refused before any effect."""
    key = SealKey.create(site.folder / "seal.pem")
    if side == "control":
        site.configure(place={"seal_key": key.public}, runner=options(site))
    else:
        site.configure(runner={**options(site), "seal_key": str(site.folder / "seal.pem")})
    before = site.folders.run_ids()

    assert deploy() == 12
    assert site.folders.run_ids() == before


@pytest.mark.req("RUN-8", "GATE-1")
def test_a_key_without_a_value_is_refused_before_anything_is_recorded(
    site: DeploySite, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and no decision is made."""
    before = site.store("decision", "records").ids()

    code = main(words(site, "--sync-env", "ABSENT"))

    assert (code, site.store("decision", "records").ids()) == (21, before)
    assert "ABSENT" in capsys.readouterr().err


@pytest.mark.req("RUN-2", "SEC-2", "INV-10")
@pytest.mark.fault(21)
def test_what_a_bootstrap_command_says_of_a_secret_is_masked(
    site: DeploySite, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It runs before anything is asked for, and may well be told the values of the cache: the log is clean by then."""
    (tmp_path / "said").write_text(f"using {CANARY} now\n")
    login = json.loads(site.config("execution").read_text())["runners"]["cloud-runner"]
    nobody = {"runners": {"cloud-runner": {**login, "port": 1}}}
    (site.root / "state" / "modules").mkdir(parents=True, exist_ok=True)
    place = {"bootstrap": ["cat", str(tmp_path / "said")], "state_ref": "platform/linux/ops-runner#never_made"}
    site.configure(place=place, execution=nobody, runner=options(site))
    before = set((site.root / "logs" / "runner").glob("*"))

    code = main(words(site, "--bootstrap-runner"))

    said = capsys.readouterr()
    (folder,) = set((site.root / "logs" / "runner").glob("*")) - before
    assert code == 12, said
    assert (folder / "runner.log").read_text() == "using *** now\n"
    assert hits(site.folder) == []
    assert not any(needle in (said.out + said.err).encode() for needle in NEEDLES)


@pytest.mark.req("RUN-8")
def test_the_operators_own_value_stands_in_the_plan_as_such(
    site: DeploySite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a key that was named for it comes from the shell; approvers see which, by name, and never the value."""
    monkeypatch.setitem(os.environ, "DB_PASSWORD", CANARY)

    code = main([*site.words("preflight", "--sync-env-from-shell", "DB_PASSWORD"), "--json"])

    said = capsys.readouterr().out
    assert code == 0
    assert json.loads(said.splitlines()[0])["plan"]["sync_env"] == {"DB_PASSWORD": "operator"}
    assert not any(needle in said.encode() for needle in NEEDLES)
