"""What `hyops runner attach` shows of a run whose log has an unsealed secret in it: nothing of the secret (SEC-2).

The value is sealed for the runner, opened by its job and logged there in every form. Attached are real processes, over
a real sshd: late, two at a time, over a link that breaks, and once more after the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_site import HYOPS, DeploySite, released
from hyops.adapters.sealer_hpke import SealKey
from hyops.cli.main import main
from hyops.compose_secrets import secrets_of
from hyops.model.secret import Secret
from integration.deploy.job_entry import secret_forms
from loopback import missing, wait_for

pytestmark = pytest.mark.skipif(missing("sshd") is not None, reason=str(missing("sshd")))

CANARY = 'attach/9c3e+f0?~ "q"\'s $v&<w> \\ende'
FORMS = secret_forms(CANARY)
JOB = [sys.executable, str(Path(__file__).with_name("job_entry.py"))]
PART = 12  # characters of a form that would give it away, wherever it was cut
END_LIMIT_S = 120.0


def needles() -> set[bytes]:
    """The middle of every form, without what depends on its neighbours, and the raw value's own parts."""
    middles = {form[8:-8].encode() for form in FORMS.values()}
    assert all(len(one) >= PART for one in middles)
    return middles | {CANARY.encode(), CANARY[:PART].encode(), CANARY[-PART:].encode()}


NEEDLES = needles()


def found_in(data: bytes) -> list[bytes]:
    """The needles that stand in it."""
    return [needle for needle in NEEDLES if needle in data]


class Attached:
    """One `hyops runner attach`, whose output is kept in memory; what it writes lies below the site's folder."""

    def __init__(self, site: DeploySite, run_id: str, *more: str) -> None:
        home = site.folder / "home"
        home.mkdir(exist_ok=True)
        argv = [str(HYOPS), "runner", "attach", run_id, "--config", str(site.config("execution")), *more]
        env = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=home, env=env)
        self.said, self.programs = b"", "--json" in more
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.said += line

    def shows(self, when: str) -> bool:
        """Whether it has shown the last form of that moment; for people it shows steps, and no log."""
        last = f"{when} as {list(FORMS)[-1]}: " if self.programs else "nothing: native/noop"
        return last.encode() in self.said

    def ends(self) -> int:
        """Its exit code."""
        code = self.process.wait(END_LIMIT_S)
        self._reader.join(END_LIMIT_S)
        return code

    def kill(self) -> None:
        """Whatever becomes of the test."""
        self.process.kill()
        self.ends()

    def in_proc(self) -> list[bytes]:
        """Needles in what `/proc` shows of it: its words, its environment and all memory that it may write."""
        folder = Path(f"/proc/{self.process.pid}")
        found = [needle for name in ("cmdline", "environ") for needle in found_in((folder / name).read_bytes())]
        with (folder / "mem").open("rb", buffering=0) as memory:
            for line in (folder / "maps").read_text().splitlines():
                first, last, rights = re.split("[- ]", line, maxsplit=3)[:3]
                if not rights.startswith("rw"):
                    continue
                with contextlib.suppress(OSError):  # a part that went meanwhile, or is no memory
                    memory.seek(int(first, 16))
                    found += found_in(memory.read(int(last, 16) - int(first, 16)))
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DeploySite]:
    """One site whose plan stands approved, with the canary in its vault and a key to seal it with."""
    made = DeploySite(tmp_path / "site", job=JOB)
    key = SealKey.create(made.folder / "seal.pem")
    options = {"folder": str(made.folder), "hold": True, "forms": True}
    made.configure(
        place={"seal_key": key.public}, runner={"options": options, "seal_key": str(made.folder / "seal.pem")}
    )
    with made.up():
        password = made.folder / "vault-password"
        password.touch(mode=0o600)
        password.write_text("not the canary\n")
        secrets_of(made.root, password).put("DB_PASSWORD", Secret(CANARY))
        yield made


def words(site: DeploySite, verb: str, *more: str) -> list[str]:
    """A deployment that hands the canary over."""
    password = ("--vault-password-file", str(site.folder / "vault-password"))
    return site.words(verb, "--sync-env", "DB_PASSWORD", *password, *more)


def on_disk(*folders: Path) -> list[str]:
    """Every file below that has a needle in it."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20
    return [str(path) for path in files if found_in(path.read_bytes())]


def cleaned(said: bytes, when: str) -> list[str]:
    """The forms of that moment that were shown with the secret taken out."""
    return [
        name
        for name in FORMS
        if re.search(rf"{when} as {re.escape(name)}: [^\n]{{0,40}}\*\*\*[^\n]{{0,40}} that was it".encode(), said)
    ]


@pytest.mark.req("SEC-2", "SEC-3", "RUN-5", "INV-10")
@pytest.mark.fault(21)
def test_attached_late_twice_and_over_a_broken_link_nobody_sees_a_secret(
    site: DeploySite, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every form is shown with the value taken out, and stands nowhere: printed, in `/proc`, on disk at either side."""
    assert main([*words(site, "preflight"), "--json"]) == 0
    site.stand(re.findall(r'"plan_digest": "([^"]+)"', capsys.readouterr().out)[0])
    deploying = subprocess.Popen(
        [str(HYOPS), *words(site, "deploy", "--yes")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    attached: list[Attached] = []
    try:
        wait_for((site.folder / "held").exists, "the effect")
        run_id = site.folders.run_ids()[-1]
        attached += [Attached(site, run_id, *more) for more in ((), ("--json",), ("--json",))]
        for one in attached:
            wait_for(lambda one=one: one.shows("before"), "what was logged before it came")  # type: ignore[misc]
        while_held = [one.in_proc() for one in attached], on_disk(site.folder, site.secrets)

        before = site.connections()
        broken = site.break_links()
        wait_for(lambda: site.connections() >= before + len(attached), "the links again")
        wait_for(lambda: released(site.folder / "held"), "the effect that waits")
        codes = [one.ends() for one in attached]
        attached.append(Attached(site, run_id, "--json"))
        codes.append(attached[-1].ends())
        deployed = deploying.wait(END_LIMIT_S)
    finally:
        for one in attached:
            one.kill()
        deploying.kill()
        deploying.wait()

    assert while_held == ([[], [], []], [])
    assert broken >= 3
    assert (codes, deployed) == ([0, 0, 0, 0], 0)
    assert [found_in(one.said) for one in attached] == [[], [], [], []]
    for one in attached[1:]:
        assert [cleaned(one.said, when) for when in ("before", "after")] == [list(FORMS)] * 2
    assert on_disk(site.folder, site.secrets) == []
