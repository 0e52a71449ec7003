"""What makes a host a runner: refusals touch nothing, killed anywhere it is ended by the next one, twice is once."""

from __future__ import annotations

import base64
import getpass
import hashlib
import io
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.release_files import Release, running
from hyops.compose_bootstrap import setup_text
from hyops.runner import setup, setup_files
from hyops.services.bootstrap import MARK, STARTED_BY

pytestmark = pytest.mark.req("RUN-2", "RUN-4")

ME = getpass.getuser()
KEY = base64.b64encode(b"the dispatcher's key").decode()
ENTRANCE = f'restrict,command="/usr/bin/hyops runner-serve" ssh-ed25519 {KEY}'
OURS, THEIRS = ({"keys": [{"public": who, "roles": ["execution"]}]} for who in ("ours", "theirs"))


class Host:
    """A host below one folder: its tools are small scripts, root and the runner's user are who runs the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.etc = folder, folder / "etc"
        self.launcher, self.releases = folder / "usr-bin" / "hyops", folder / "lib"
        for path in (self.etc, self.launcher.parent, folder / "bin", folder / "systemd", folder / "units"):
            path.mkdir(parents=True)
        for name, text in {
            "sudo": "",
            "useradd": "",
            "ssh-keygen": "",
            "systemctl": f'echo "$*" >> {folder}/calls; case $1 in enable) touch {folder}/on;; is-enabled) test -e '
            f"{folder}/on;; esac",
            "sshd": f'echo "port 22"; echo "authorizedkeysfile {folder}/keys/%u .ssh/no"',
        }.items():
            self.tool(name, text)
        body = b"print('x = 1')\n"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            member = tarfile.TarInfo("hyops/__init__.py")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
        self.archive = packed.getvalue()
        self.plan = self.planned()

    def tool(self, name: str, text: str) -> None:
        """A command of the host."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def planned(self) -> dict[str, Any]:
        """What is to stand there."""
        text = f'#!/bin/sh\n{MARK}\ntest "$1" != runner || echo \'{{"public": "k"}}\'\n'

        def file(name: str, data: bytes, mode: int = 0o644) -> dict[str, Any]:
            return {
                "path": str(self.etc / name),
                "data": base64.b64encode(data).decode(),
                "owner": "root",
                "mode": mode,
            }

        return {
            "apply": True,
            "runner_ref": "edge-runner",
            "path": f"{self.folder}/bin:/usr/bin:/bin",
            "systemd": str(self.folder / "systemd"),
            "tools": ["sudo", "systemctl", "sshd", "useradd"],
            "executors": ["ours"],
            "config": str(self.etc / "runner.json"),
            "user": {"name": ME, "home": pwd.getpwnam(ME).pw_dir, "shell": pwd.getpwnam(ME).pw_shell},
            "folders": [[str(self.etc), "root", 0o755], [str(self.folder / "var" / "runner"), ME, 0o700]],
            "files": [
                file("trusted_keys.json", json.dumps(OURS).encode()),
                file("target_key", b"secret", 0o600),
                file("runner.json", json.dumps(self.standing("edge-runner")).encode()),
            ],
            "signing_key": str(self.etc / "runner.pem"),
            "release": {
                "id": "1-abc",
                "version": "1",
                "folder": str(self.releases),
                "launcher": str(self.launcher),
                "mark": MARK,
                "text": text,
                "size": 100,
                "bytes": len(self.archive),
                "sha256": hashlib.sha256(self.archive).hexdigest(),
            },
            "entrance": {"line": ENTRANCE, "key": KEY, "alone": False},
            "enable": "hyops-runner-resume.service",
        }

    def standing(self, runner_ref: str, trusted_keys: str = "trusted_keys.json") -> dict[str, str]:
        """What a `runner.json` says of whose runner it is."""
        return {"runner_ref": runner_ref, "trusted_keys": str(self.etc / trusted_keys)}

    def run(self, capsys: pytest.CaptureFixture[str], **change: Any) -> dict[str, Any]:
        """One bootstrap; what it answers."""
        plan = {**self.plan, **change}
        capsys.readouterr()
        assert setup.main(io.BytesIO(json.dumps(plan).encode() + b"\n" + self.archive)) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return answer

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Everything that stands, but for keys that differ each time."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name, mode = str(path.relative_to(self.folder)), path.lstat().st_mode
            if name != "calls" and "__pycache__" not in name:
                read = path.is_file() and path.suffix != ".pem"
                found[name] = (mode, path.read_bytes() if read else b"")
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A bare one."""
    return Host(tmp_path / "host")


def test_a_bare_host_is_made_a_runner_and_a_second_time_nothing_is_to_do(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    """Owners and modes as planned, one entrance, a key of its own; repeated, everything is kept."""
    made = host.run(capsys)
    first = host.tree()

    again = host.run(capsys)

    assert (made["ok"], json.loads(made["public"])) == (True, {"public": "k"})
    assert {item["state"] for item in made["items"]} == {"kept", "made", "changed"}
    assert (again["ok"], again["changes"], {item["state"] for item in again["items"]}) == (True, 0, {"kept"})
    assert host.tree() == first
    assert (host.folder / "keys" / ME).read_text() == ENTRANCE + "\n"
    modes = [host.etc / "target_key", host.etc / "runner.pem", host.folder / "var" / "runner"]
    assert [path.stat().st_mode & 0o777 for path in modes] == [0o600, 0o600, 0o700]
    assert (host.releases / "1-abc" / "hyops" / "__init__.py").exists()


@pytest.mark.req("UX-1")
@pytest.mark.fault(13)
def test_a_tool_that_does_not_end_is_killed_and_named(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was let in; when it ends again the next bootstrap does what was left."""
    script = host.folder / "bin" / "systemctl"
    works = script.read_text()
    host.tool("systemctl", "exec sleep 600")
    monkeypatch.setattr(setup_files, "TOOL_LIMIT_S", 1.0)

    said = host.run(capsys)

    assert said["ok"] is False
    assert "systemctl daemon-reload did not end within 1 s" in said["message"]
    assert not (host.folder / "keys" / ME).exists()
    monkeypatch.undo()
    script.write_text(works)
    assert host.run(capsys)["ok"]


def test_a_file_may_be_roots_with_the_groups_right_to_read_it(host: Host) -> None:
    """Root owns it, the user's group reads it: neither of them is the user, who could then write it."""
    nobody = pwd.getpwnam("nobody")
    plan = {**host.planned(), "user": {"name": "nobody", "home": nobody.pw_dir, "shell": nobody.pw_shell}}
    made = setup.Setup(plan, io.BytesIO())
    assert made._owner("root:nobody") == (os.geteuid(), nobody.pw_gid)
    assert made._owner("nobody") == (nobody.pw_uid, nobody.pw_gid)
    assert made._owner("root") == (os.geteuid(), os.getegid())


def test_a_signing_key_made_there_is_one_that_hyops_reads(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """The few bytes that are written without a library are a good PKCS8 key; and one that stands is never replaced."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer

    host.run(capsys)
    made = Ed25519Signer.load(host.etc / "runner.pem").public
    (host.etc / "runner.pem").chmod(0o644)

    host.run(capsys)

    assert Ed25519Signer.load(host.etc / "runner.pem").public == made


def test_a_look_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wanting is named, and still is."""
    before = host.tree()

    told = host.run(capsys, apply=False)

    assert (told["ok"], told["touched"], told["public"]) == (True, False, None)
    assert {"to make", "kept"} <= {item["state"] for item in told["items"]}
    assert host.tree() == before


def test_killed_at_any_rename_it_is_ended_by_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL before the nth file takes its place: nobody is let in before the end; then it is as if never killed."""
    whole = Host(tmp_path / "whole")
    whole.run(capsys)
    wanted = {name: mode for name, (mode, _) in whole.tree().items()}
    killed = 0
    for nth in range(1, 50):
        host = Host(tmp_path / f"host{nth}")
        if not killed_before(host, nth):
            break
        killed += 1
        assert not (host.folder / "keys" / ME).exists()
        assert host.run(capsys)["ok"]
        assert {name: mode for name, (mode, _) in host.tree().items()} == wanted
        assert host.run(capsys)["changes"] == 0
    assert killed == 7  # three files, release, launcher, signing key, entrance


def killed_before(host: Host, nth: int) -> bool:
    """Run it in a child that is killed before its nth rename; False when it came to its end."""
    pid = os.fork()
    if pid == 0:
        left, real = [nth], os.replace

        def replace(source: Any, target: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = replace  # type: ignore[assignment]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        setup.main(io.BytesIO(json.dumps(host.plan).encode() + b"\n" + host.archive))
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def plant(path: str) -> Callable[[Host], None]:
    """A link where something of ours goes."""
    return lambda host: (host.folder / path).symlink_to("/dev/null")


def write(path: str, value: Any) -> Callable[[Host], None]:
    """A file of another bootstrap."""
    return lambda host: (host.folder / path).write_text(json.dumps(value)) and None


def standing(runner_ref: str, trusted_keys: str = "trusted_keys.json") -> Callable[[Host], None]:
    """A runner that stands there."""
    return lambda host: write("etc/runner.json", host.standing(runner_ref, trusted_keys))(host)


def elsewhere(host: Host) -> None:
    """A runner of that name, which keeps whose orders it takes in another file; they are not ours."""
    write("etc/theirs.json", THEIRS)(host)
    standing("edge-runner", "theirs.json")(host)


def no_room(host: Host) -> None:
    """More than any disk has."""
    host.plan["release"]["size"] = 2**60


def no_sshd(host: Host) -> None:
    """A host that nobody enters."""
    (host.folder / "bin" / "sshd").unlink()


def a_pipe(host: Host) -> None:
    """Who reads it would wait for ever."""
    os.mkfifo(host.etc / "runner.json")


def another_person(host: Host) -> None:
    """The account is not the runner's."""
    host.plan["user"] = {**host.plan["user"], "home": "/var/lib/elsewhere"}


def a_package(host: Host) -> None:
    """hyops came there in another way, in another version."""
    host.launcher.write_text("#!/bin/sh\necho hyops 0\n")
    host.launcher.chmod(0o755)


def no_systemd(host: Host) -> None:
    """Another init."""
    (host.folder / "systemd").rmdir()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (write("etc/trusted_keys.json", THEIRS), "a runner of another control"),
        (write("etc/trusted_keys.json", "torn"), "a runner of another control"),
        (elsewhere, "etc/theirs.json: this host is a runner of another control"),
        (standing("other-runner"), "this host is runner 'other-runner'"),
        (write("etc/runner.json", "torn"), "etc/runner.json: whose runner this is cannot be read"),
        (write("etc/runner.json", {"runner_ref": "edge-runner"}), "cannot be read (KeyError)"),
        (write("etc/runner.json", {"runner_ref": "edge-runner", "trusted_keys": "theirs.json"}), "cannot be read"),
        (write("etc/runner.json", {"runner_ref": 1, "trusted_keys": "/x"}), "cannot be read"),
        (a_pipe, "etc/runner.json: whose runner this is cannot be read"),
        (plant("etc/runner.pem"), "etc/runner.pem is a link"),
        (plant("etc/target_key"), "etc/target_key is a link"),
        (plant("etc/runner.json"), "etc/runner.json is a link"),
        (no_room, "MiB are free"),
        (no_sshd, "not installed: sshd"),
        (no_systemd, "systemd is not there"),
        (another_person, f"user {ME} is somebody's"),
        (a_package, "was not made by a bootstrap"),
    ],
)
def test_what_is_refused_touches_nothing(
    host: Host, capsys: pytest.CaptureFixture[str], spoil: Callable[[Host], None], says: str
) -> None:
    """Each by its own words, with what to do; the host is as it was."""
    spoil(host)
    before = host.tree()

    told = host.run(capsys)

    assert (told["ok"], told["touched"]) == (False, False)
    assert says in told["message"]
    assert told["hint"]
    assert host.tree() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
@pytest.mark.parametrize("place", ["etc", "var/runner", "etc/target_key"])
def test_a_folder_or_file_of_somebody_else_is_refused(
    host: Host, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Squatted: whoever owns it could put in what he likes."""
    path = host.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith("key"):
        path.write_text("mine")
    else:
        path.mkdir(exist_ok=True)
    os.chown(path, 12345, 12345)

    told = host.run(capsys)

    assert (told["ok"], told["touched"]) == (False, False)
    assert f"{path} belongs to user 12345" in told["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_a_place_below_a_folder_of_somebody_else_is_refused(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Its owner could put a link there between the look and the change."""
    folder = host.folder / "var"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    before = host.tree()

    told = host.run(capsys)

    assert f"{folder}, in which {folder}/runner lies, belongs to user 12345" in told["message"]
    assert host.tree() == before


@pytest.mark.parametrize(("place", "folder"), [("var/runner", True), ("etc/runner.pem", False)])
def test_a_link_that_comes_after_the_look_is_not_followed(
    host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, folder: bool
) -> None:
    """What it leads to keeps its mode: a shadow file would be the runner's user's otherwise."""
    host.run(capsys)
    path, victim = host.folder / place, host.folder / "victim"
    path.rename(host.folder / "taken")
    victim.mkdir() if folder else victim.write_text("root's")
    victim.chmod(0o755)
    path.symlink_to(victim)
    monkeypatch.setattr(setup.Setup, "_squatted", lambda self: [])  # it was no link yet

    told = host.run(capsys)

    assert (told["ok"], "symbolic links" in told["message"] or "Not a directory" in told["message"]) == (False, True)
    assert victim.stat().st_mode & 0o777 == 0o755


def test_what_became_another_thing_is_given_to_nobody(tmp_path: Path) -> None:
    """A pipe in place of a file, a file in place of a folder."""
    os.mkfifo(tmp_path / "pipe", 0o644)
    for kind in (stat.S_ISREG, stat.S_ISDIR):
        with pytest.raises(setup_files.Refusal, match="another thing"):
            setup_files.give(tmp_path / "pipe", kind, 0o600, (os.geteuid(), os.getegid()))
    assert (tmp_path / "pipe").stat().st_mode & 0o777 == 0o644


def test_two_at_once_are_one_and_a_refusal(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """The second one is told, and touches nothing."""
    import fcntl

    fd = os.open(host.etc, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    told = host.run(capsys)

    os.close(fd)
    assert "another bootstrap is under way" in told["message"]
    assert host.run(capsys)["ok"]


HOLD = (
    "import mmap, sys; file = open(sys.argv[1], 'rb'); "
    "held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); print(flush=True); sys.stdin.read()"
)


def test_a_release_that_a_living_job_uses_is_not_removed(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """However old: it may load more of its modules yet. The newest other one stays too; what nobody uses goes."""
    for age, name in enumerate(["0-last", "0-unused", "0-used"]):
        folder = host.releases / name
        folder.mkdir(parents=True)
        (folder / "code.so").write_bytes(b"code")
        os.utime(folder, (1000 - age, 1000 - age))
    code = str(host.releases / "0-used" / "code.so")
    with subprocess.Popen([sys.executable, "-c", HOLD, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()

        assert host.run(capsys)["ok"]

        assert sorted(path.name for path in host.releases.iterdir()) == ["0-last", "0-used", "1-abc"]
        job.communicate()


def test_a_torn_release_is_not_installed(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the bytes came: no launcher, and nothing is left of it; the next one has all."""
    whole = host.archive
    host.archive = whole[:-10]
    told = host.run(capsys)
    assert (told["ok"], "came torn" in told["message"], host.launcher.exists()) == (False, True, False)
    assert list(host.releases.iterdir()) == []

    host.archive = whole
    assert host.run(capsys)["ok"]


def test_a_host_that_takes_no_keys_lets_nobody_in(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Its sshd is set to certificates alone: that is said, and no file is left that nobody reads."""
    host.tool("sshd", "echo authorizedkeysfile none")

    told = host.run(capsys)

    assert (told["ok"], told["touched"]) == (False, True)
    assert "takes no keys" in told["message"]
    assert host.run(capsys, entrance=None)["ok"]


def test_other_lines_of_the_entrance_stay_and_are_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that somebody else put there is not removed in silence, nor kept in silence."""
    (host.folder / "keys").mkdir()
    (host.folder / "keys" / ME).write_text("ssh-ed25519 BBBB somebody\n")

    told = host.run(capsys)

    assert told["also"] == ["BBBB somebody"]
    assert (host.folder / "keys" / ME).read_text() == f"ssh-ed25519 BBBB somebody\n{ENTRANCE}\n"


STOLEN = f"{ENTRANCE.replace(KEY, 'BBBB')} stolen"


def test_with_only_this_key_every_other_line_is_told_and_goes(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """The line of a stolen key would let the thief in for ever; a look names it, and takes nothing away."""
    (host.folder / "keys").mkdir()
    (host.folder / ".ssh").mkdir()
    place, second = host.folder / "keys" / ME, host.folder / ".ssh" / "also"
    host.tool("sshd", f"echo authorizedkeysfile {place} {host.folder}/none {second}")
    place.write_text(f"# by hand\n{STOLEN}\n\n{ENTRANCE}\n")
    second.write_text("ssh-ed25519 CCCC hidden\n")
    alone = {**host.plan["entrance"], "alone": True}
    gone = ["by hand", "BBBB stolen", "CCCC hidden"]

    looked = host.run(capsys, apply=False, entrance=alone)

    told = [item["what"] for item in looked["items"] if item["state"] == "to remove"]
    assert [any(item.endswith(one) for item in told) for one in gone] == [True] * len(told)
    assert STOLEN in place.read_text()
    assert second.read_text() != ""

    made = host.run(capsys, entrance=alone)

    assert [item["what"] for item in made["items"] if item["state"] == "removed"] == told
    assert (place.read_text(), second.read_text(), made["also"]) == (f"{ENTRANCE}\n", "", [])
    assert host.run(capsys, entrance=alone)["changes"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_with_only_this_key_nothing_of_somebody_else_is_emptied(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """A second file of keys that somebody else owns is a riddle for a person."""
    second = host.folder / "second"
    second.write_text("ssh-ed25519 CCCC hidden\n")
    os.chown(second, 12345, 12345)
    host.tool("sshd", f"echo authorizedkeysfile {host.folder}/keys/%u {second}")

    told = host.run(capsys, entrance={**host.plan["entrance"], "alone": True})

    assert (told["ok"], f"{second} belongs to user 12345" in told["message"]) == (False, True)
    assert (second.read_text(), (host.folder / "keys" / ME).exists()) == ("ssh-ed25519 CCCC hidden\n", False)


@pytest.mark.parametrize(
    "before",
    [
        f"ssh-ed25519 {KEY} by hand",
        f'\tno-pty,command="/bin/sh -c ls"\tssh-ed25519\t{KEY}\r',
        f"ssh-ed25519 {KEY}\n{ENTRANCE}",
        f"{ENTRANCE}\nssh-ed25519 {KEY}",
        f"{ENTRANCE}\n{ENTRANCE}",
    ],
)
def test_another_line_of_the_dispatchers_key_is_replaced(
    host: Host, capsys: pytest.CaptureFixture[str], before: str
) -> None:
    """sshd goes by the first line of a key: one without `restrict` would let the dispatcher do anything."""
    (host.folder / "keys").mkdir()
    place = host.folder / "keys" / ME
    place.write_text(f"# {KEY}\nssh-ed25519 BBBB somebody\n{before}\n")

    told = host.run(capsys)

    assert place.read_text() == f"# {KEY}\nssh-ed25519 BBBB somebody\n{ENTRANCE}\n"
    assert [item["state"] for item in told["items"] if item["what"].startswith("entrance")] == ["changed"]
    assert "BBBB somebody" in told["also"]
    assert host.run(capsys)["changes"] == 0


@pytest.mark.parametrize("empty", [b"", b"\n"])
def test_a_file_of_keys_without_a_key_gets_the_line_alone(
    host: Host, capsys: pytest.CaptureFixture[str], empty: bytes
) -> None:
    """And one that is no text stays as it is beside it."""
    (host.folder / "keys").mkdir()
    place = host.folder / "keys" / ME
    place.write_bytes(empty)

    host.run(capsys)

    assert place.read_text() == f"{ENTRANCE}\n"
    place.write_bytes(b"# \xff\xe2\x80\xa8 no text\n")
    assert host.run(capsys)["ok"]
    assert place.read_bytes() == b"# \xff\xe2\x80\xa8 no text\n" + ENTRANCE.encode() + b"\n"


def test_its_text_runs_where_there_is_no_hyops(host: Host) -> None:
    """As it is sent: both modules as one text, before the plan, to a Python that sees no package."""
    text = setup_text()
    plan = json.dumps({**host.plan, "apply": False}).encode() + b"\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STARTED_BY],
        input=b"%d\n" % len(text) + text + plan, capture_output=True, timeout=120, check=False,
    )  # fmt: skip

    told = json.loads(done.stdout)
    assert (told["ok"], told["touched"], told["changes"] > 0) == (True, False, True)
    assert done.stderr == b""


def test_the_release_is_what_runs_here_and_nothing_of_this_checkout_else() -> None:
    """All packages that hyops needs and none that only its tests need; the same files give the same name."""
    found = running()
    names = {name.split("/")[0] for name in found.files}

    assert {"hyops", "asyncssh", "pydantic", "pydantic_core", "psycopg_binary", "cryptography"} <= names
    assert not names & {"pytest", "mypy", "moto", "hyops_lab", "botocore"}
    assert not [name for name in found.files if "__pycache__" in name or ".." in name]
    own = {name: path for name, path in found.files.items() if name.startswith("hyops/runner/")}
    assert Release("1", own).digest == Release("1", dict(reversed(own.items()))).digest
    fewer = dict(list(own.items())[1:])
    assert Release("1", own).digest != Release("1", fewer).digest
