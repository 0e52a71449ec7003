"""A stage on its host: twice is once, a bad configuration changes nothing, killed anywhere it is ended by the next."""

from __future__ import annotations

import base64
import getpass
import grp
import hashlib
import io
import json
import os
import pwd
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fault_size import FULL
from hyops.runner import setup_files, stage_setup
from hyops.runner.stage_setup import Stage, perform
from hyops.services.stage_plan import STAGES, unit

pytestmark = pytest.mark.req("LOOP-4")

ME, UNIT = getpass.getuser(), "hyops-decision-dispatcher.service"
HYOPS = """
import json, sys
words = sys.argv[1:]
own = {"public": "own", "roles": ["dispatch"]}
if words[1] == "signing-key":
    print(json.dumps(own))
else:
    text = open(words[-1]).read()
    for name in json.loads(text).get("needs", []):
        open(name).read()
    if "hang" in text:
        import time
        time.sleep(600)
    if "bad" in text:
        sys.exit("config.routes: bad")
    print(json.dumps({"execution_mode": "record-only", "signing_key": own}))
"""


class Host:
    """A host below one folder: its tools are small scripts; root and the stage's user are who runs the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.top, self.calls = folder, folder / "opt", folder / "calls"
        self.home = self.top / "decision-dispatcher"
        for name in ("bin", "units", "systemd"):
            (folder / name).mkdir(parents=True)
        self.calls.write_text("")
        systemctl = (
            f'echo "$*" >> {self.calls}',
            f'case "$1" in is-active|is-enabled) test -e {folder}/on;;',
            f"restart|start) test ! -e {folder}/broken && touch {folder}/on;; disable) rm -f {folder}/on;; esac",
        )
        self.tool("systemctl", "\n".join(systemctl))
        for name in ("useradd", "userdel", "groupadd", "groupdel"):
            self.tool(name, f'echo "{name} $*" >> {self.calls}')
        self.tool("journalctl", "echo it says why")
        self.data = {"config.json": "{}", "trusted_keys.json": '{"keys": []}', "secret": "s3cret"}
        self.release("1-one")

    def tool(self, name: str, text: str) -> None:
        """A command of the host."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def release(self, name: str) -> None:
        """From now on this one is to be installed."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, text in {
                "hyops/__init__.py": "",
                "hyops/__main__.py": f"def main():\n    exec({HYOPS!r})\n",
            }.items():
                member = tarfile.TarInfo(path)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        path = self.folder / f"{name}.tar.gz"
        path.write_bytes(packed.getvalue())
        data = packed.getvalue()
        self.wanted = {"id": name, "size": 1000, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
                       "python": None, "archive": str(path)}  # fmt: skip

    def plan(self, **change: Any) -> dict[str, Any]:
        """What is to stand here."""
        return {
            "stage": "dispatch",
            "unit": UNIT,
            "unit_text": "[Service]\n",
            "launcher": f"#!/bin/sh\n# {self.wanted['id']}\n",
            "user": ME,
            "group": grp.getgrgid(os.getegid()).gr_name,
            "home": str(self.home),
            "top": str(self.top),
            "kinds": ["requests"],
            "private": ["secret"],
            "path": f"{self.folder}/bin:/usr/bin:/bin",
            "tools": ["systemctl", "useradd"],
            "systemd": str(self.folder / "systemd"),
            "units": str(self.folder / "units"),
            "purge": False,
            "release": self.wanted,
            **change,
        }

    def do(self, action: str, **change: Any) -> dict[str, Any]:
        """One play's worth."""
        data = {name: base64.b64encode(text.encode()).decode() for name, text in self.data.items()}
        return perform(action, self.plan(**change), data)

    def stands(self) -> dict[str, bytes]:
        """Every file but releases."""
        found = [p for p in self.folder.rglob("*") if p.is_file() and "releases" not in p.parts and p != self.calls]
        return {str(path): path.read_bytes() for path in found}

    def restarts(self) -> int:
        """How often the service began anew."""
        return sum(line.startswith("restart") for line in self.calls.read_text().splitlines())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Nothing stands; the account of this process is the stage's."""
    made = Host(tmp_path)
    account = pwd.getpwnam(ME)
    monkeypatch.setattr(
        pwd, "getpwnam", lambda name: pwd.struct_passwd((*account[:5], str(made.home), account.pw_shell))
    )
    return made


def test_a_look_changes_nothing_and_a_second_time_neither(host: Host) -> None:
    """What is to make is told; once made, nothing is wanting, nothing begins anew, and the key is the same."""
    before = host.stands()
    assert host.do("look")["wanting"] > 0
    assert host.stands() == before

    made = host.do("make")
    assert made["ok"], made
    assert made["said"]["execution_mode"] == "record-only"
    stands = host.stands()
    assert json.loads((host.home / "config" / "trusted_keys.json").read_bytes())["keys"] == [
        {"public": "own", "roles": ["dispatch"]}
    ]
    assert (host.home / "config" / "secret").stat().st_mode & 0o777 == 0o600

    again = host.do("make")
    assert (again["wanting"], host.restarts()) == (0, 1)
    assert host.stands() == stands
    assert host.do("look")["wanting"] == 0


@pytest.mark.req("UX-1")
def test_a_bad_configuration_leaves_all_as_it_was(host: Host) -> None:
    """It is tried beside the old one; the old one runs on, and nothing says that anything was touched."""
    host.do("make")
    before = host.stands()
    host.data |= {"config.json": '{"x": "bad"}', "secret": "another"}

    said = host.do("make")

    assert (said["ok"], said["config"], said["touched"]) == (False, True, False)
    assert "config.routes: bad" in said["message"]
    assert (host.stands(), host.restarts()) == (before, 1)


def test_a_configuration_is_tried_with_the_files_that_come_with_it(host: Host) -> None:
    """What it names is read from among the new files, before they take their place; one that is named and not there
    is a refusal."""
    needed = str(host.home / "config" / "fresh")
    host.do("make")
    host.data |= {"config.json": json.dumps({"needs": [needed]})}
    assert not host.do("make")["ok"]
    host.data |= {"fresh": "x"}
    assert host.do("make")["ok"]
    del host.data["fresh"]
    host.data |= {"config.json": "{}"}
    assert {"what": f"file {needed}", "state": "removed"} in host.do("make")["items"]
    assert not Path(needed).exists()


def test_one_that_does_not_start_gets_its_old_files_back(host: Host) -> None:
    """The new one fails at its start: the refusal has its journal, and the old files are in place again."""
    host.do("make")
    before = host.stands()
    host.data |= {"config.json": '{"x": 1}'}
    (host.folder / "broken").touch()

    said = host.do("make")

    (host.folder / "broken").unlink()
    assert not said["ok"]
    assert "it says why" in said["message"]
    after = {path: data for path, data in host.stands().items() if not path.endswith("/.restart")}
    assert after == before


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("then", ["public", "gone"])
def test_a_roll_back_gives_a_private_file_its_mode_and_owner_back(host: Host, then: str) -> None:
    """The new configuration no longer keeps it private, or does without it, and fails: nobody else may read it."""
    host.do("make")
    secret, group = host.home / "config" / "secret", os.getegid()
    if os.geteuid() == 0:
        group += 1
        os.chown(secret, -1, group)
    host.data |= {"config.json": '{"x": 1}', "secret": "another"}
    if then == "gone":
        del host.data["secret"]
    (host.folder / "broken").touch()

    assert not host.do("make", private=[])["ok"]

    found = secret.stat()
    assert (secret.read_text(), found.st_mode & 0o777, found.st_gid) == ("s3cret", 0o600, group)


@pytest.mark.req("SEC-1", "UX-1")
@pytest.mark.parametrize("action", ["look", "make"])
def test_a_link_in_the_place_of_a_file_is_refused(host: Host, action: str) -> None:
    """What it leads to may be private: it is neither replaced nor copied into a file that others may read."""
    host.do("make")
    secret = host.folder / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    linked = next(path for path in host.folder.rglob("config.json"))
    linked.unlink()
    linked.symlink_to(secret)
    before = host.stands()

    said = host.do(action)

    assert said["ok"] is False
    assert f"{linked} is a link" in said["message"]
    assert host.stands() == before
    assert (linked.is_symlink(), secret.read_text()) == (True, "hunter2")


@pytest.mark.req("UX-1")
@pytest.mark.fault(13)
def test_what_does_not_end_is_killed_and_named_and_the_old_one_goes_on(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemctl waits for ever for a start: a refusal with its name, and the old files are in place again."""
    host.do("make")
    before = host.stands()
    script = host.folder / "bin" / "systemctl"
    hang = f'if test "$1" = restart && rm {host.folder}/hang 2>/dev/null; then exec sleep 600; fi\n'
    script.write_text(script.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{hang}"))
    before[str(script)] = script.read_bytes()
    host.data |= {"config.json": '{"x": 1}'}
    (host.folder / "hang").touch()
    monkeypatch.setattr(setup_files, "TOOL_LIMIT_S", 3.0)

    said = host.do("make")

    assert (said["ok"], said["config"]) == (False, False)
    assert f"systemctl restart {UNIT} did not end within 3 s" in said["message"]
    assert said["hint"]
    assert host.stands() == before


@pytest.mark.req("UX-1")
def test_a_hyops_that_does_not_answer_about_a_configuration_changes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed and named before anything was replaced."""
    host.do("make")
    before = host.stands()
    host.data |= {"config.json": '{"x": "hang"}'}
    monkeypatch.setattr(stage_setup, "CHECK_LIMIT_S", 5.0)

    said = host.do("make")

    assert "hyops service check did not end within 5 s" in said["message"]
    assert (host.stands(), host.restarts()) == (before, 1)


def test_an_upgrade_keeps_the_release_before_and_no_older_one(host: Host) -> None:
    """Each stands beside the others; the launcher names the new one, and the service began anew."""
    for number, name in enumerate(("1-one", "2-two", "3-three"), start=1):
        host.release(name)
        assert host.do("make")["ok"]
        assert host.restarts() == number
    assert sorted(path.name for path in (host.top / "releases").iterdir()) == ["2-two", "3-three"]
    assert "3-three" in (host.home / "bin" / "hyops").read_text()


def test_a_torn_release_is_refused(host: Host) -> None:
    """Its sha256 is looked at before anything of it is used."""
    Path(host.wanted["archive"]).write_bytes(b"torn")
    said = host.do("make")
    assert (said["ok"], "came torn" in said["message"]) == (False, True)
    assert not (host.top / "releases" / "1-one").exists()
    assert not host.restarts()


@pytest.mark.fault(13)
def test_killed_anywhere_it_is_ended_by_the_next_one(host: Host) -> None:
    """SIGKILL before each effect of an upgrade in turn: the next make ends it, and the service runs what stands."""
    host.do("make")
    killed, number, stride = 0, 0, 1 if FULL else 7
    while True:
        host.data |= {"config.json": json.dumps({"number": number})}
        pid = os.fork()
        if pid == 0:
            _killing_after(number)
            host.do("make")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        seen = host.restarts()
        said = host.do("make")
        assert said["ok"], said
        assert json.loads((host.home / "config" / "config.json").read_bytes()) == {"number": number}
        assert not (host.home / ".restart").exists()
        if os.WIFEXITED(status):
            assert host.restarts() == seen
            break
        killed, number = killed + 1, number + stride
    assert killed > 1


def _killing_after(effects: int) -> None:
    """In the child: it dies before the effect of this number."""
    left = [effects]

    def dying(work: Any) -> Any:
        def one(*args: Any, **more: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return work(*args, **more)

        return one

    stage_setup.replace = dying(stage_setup.replace)
    stage_setup.give = dying(stage_setup.give)
    Stage._tool = dying(Stage._tool)  # type: ignore[method-assign]


def test_what_somebody_planted_is_refused(host: Host) -> None:
    """A link where the home goes: root follows it nowhere."""
    host.top.mkdir()
    (host.folder / "elsewhere").mkdir()
    host.home.symlink_to(host.folder / "elsewhere")
    said = host.do("make")
    assert (said["ok"], said["touched"]) == (False, False)
    assert "is a link" in said["message"]
    assert list((host.folder / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "why"), [({"tools": ["no-such"]}, "not installed: no-such"), ({"systemd": "/no"}, "systemd")]
)
def test_what_is_lacking_is_said_before_anything_is_touched(host: Host, change: dict[str, Any], why: str) -> None:
    """Tools, systemd: named, all of it."""
    said = host.do("make", **change)
    assert (said["ok"], said["touched"]) == (False, False)
    assert why in said["message"]
    assert not host.top.exists()


def test_no_room_is_said_before_anything_is_touched(host: Host) -> None:
    """A release that cannot fit is not begun with."""
    said = host.do("make", release={**host.wanted, "size": 2**60})
    assert "MiB are free" in said["message"]
    assert not host.top.exists()


@pytest.mark.parametrize("purge", [False, True])
def test_records_stay_unless_they_are_to_go(host: Host, purge: bool) -> None:
    """Everything else is gone either way; what stayed is taken up again by the next make."""
    host.do("make")
    record = host.home / "state" / "requests" / "dispatch-1.json"
    record.write_text("{}")

    said = host.do("remove", purge=purge)

    assert said["ok"], said
    assert record.exists() is not purge
    assert host.home.exists() is not purge
    assert not (host.folder / "units" / UNIT).exists()
    assert not (host.home / "config").exists()
    assert (host.top / "releases").exists() is False
    if not purge:
        assert host.do("make")["ok"]
        assert record.read_text() == "{}"


def test_a_remove_that_only_looks_removes_nothing(host: Host) -> None:
    """It says what would go; where nothing is, nothing is wanting."""
    host.do("make")
    before = host.stands()
    assert host.do("look-remove")["wanting"] > 0
    assert host.stands() == before


@pytest.mark.req("SEC-2")
def test_the_unit_gives_a_stage_what_it_needs_and_no_more() -> None:
    """Each stage: its own user, no capability, its own folders to write, bounded, watched."""
    for stage in STAGES.values():
        text = unit(stage, command="/x/hyops", memory_max_mb=300, tasks_max=50, write_paths=["/srv/root"])
        lines = set(text.splitlines())
        assert {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "WatchdogSec=30",
                "Type=notify", "MemoryMax=300M", "TasksMax=50", f"User={stage.user}"} <= lines  # fmt: skip
        assert f"ReadWritePaths={stage.home}/state {stage.home}/logs /srv/root" in lines
    assert len({stage.user for stage in STAGES.values()}) == len(STAGES)
