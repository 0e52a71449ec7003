"""The commands of the page on SSH identity, typed as they stand there, against a real sshd (RUN-3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssh_peer
from hyops import compose_transport
from hyops.adapters.runner_link import RunnerTarget
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.errors import HostKeyError, RunnerUnreachableError
from hyops.model.pki import SERVE_COMMAND
from hyops.testing.evidence import VERIFIER
from simulation.world import policy
from ssh_peer import SSHD, SshPeer
from ssh_site import keygen
from waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.skipif(SSHD is None, reason="not installed: sshd"), pytest.mark.req("RUN-3")]
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "ssh-identity.md"
BOOTSTRAP_PAGE = PAGE.with_name("bootstrap-a-runner.md")
ENTRANCE_THERE = Path(__file__).parents[2] / "entrance_there.py"
RUNNER = "gcp-ops-runner"


def parts() -> dict[str, list[str]]:
    """Heading -> the commands below it."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^ *```bash\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
        found[section.split("\n")[0]] = ["\n".join(line.strip() for line in block.splitlines()) for block in blocks]
    return found


class Thief:
    """An open session, in which the runner's side of a dispatch answers."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def answered(self) -> bool:
        """Whether one more question is answered; waits until it is, or until the session has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b'{"verb": "hello"}\n')
            self._process.stdin.flush()
        return b"runner_ref" in self._process.stdout.readline()


class Desk:
    """The control host and the runner as two folders; `ssh` and `scp` go from one to the other."""

    login, more = RUNNER, dict[str, str]()

    def __init__(self, folder: Path) -> None:
        self.folder, self.here, self.there = folder, folder / "control", folder / "runner"
        self.peer = SshPeer(folder / "peer")
        for path in (self.here / "work", self.here / "hyops", self.there / "ssh" / "sshd_config.d", folder / "bin"):
            path.mkdir(parents=True)
        (self.there / "home").mkdir()
        self.command = f"{' '.join(ssh_peer.SERVE)} {self.peer.folder}"
        (self.peer.folder / "ref").write_text(RUNNER)
        keygen(self.there / "ssh" / "ssh_host_ed25519_key")
        self._sshd()
        for name, text in {
            "hyops": f'{shlex.quote(sys.executable)} -m hyops "$@" || exit\n'
            f"for file in {RUNNER}.d/*; do case $file in *.conf|*.sh|*/principals) sed -i"
            f" -e 's#/etc/ssh#{self.there}/ssh#g' -e 's#{SERVE_COMMAND}#{self.command}#'"
            f" -e 's#Match User hyops#Match User {ssh_peer.user()}#' $file;; esac; done",
            "ssh": f'test "$1" = {self.login} && cd {self.there}/home && sh -ec "$2"',
            "scp": f'r=""; [ "$1" != -r ] || {{ r=-r; shift; }}\n'
            f'place() {{ case $1 in {self.login}:/*) echo "${{1#*:}}";;'
            f' {self.login}:*) echo "{self.there}/home/${{1#*:}}";; *) echo "$1";; esac; }}'
            '\ncp $r "$(place "$1")" "$(place "$2")"',
            "sudo": '"$@"',
            "sshd": f'test "$1" = -t && {SSHD} -t -f {self.peer.folder}/sshd_config',
            "systemctl": f'test "$*" = "reload ssh" && kill -HUP $(cat {self.folder}/pid)',
            # of this sshd's sessions alone, and the login there is whoever runs the test
            "pkill": f'for last do :; done\ntest "$*" = "-KILL -e -f $last"\n'
            f"exec {shutil.which('pkill')} -KILL -e -P $(cat {self.folder}/pid) -f"
            f' "$(printf %s "$last" | sed "s/hyops/{ssh_peer.user()}/")"',
        }.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    def _sshd(self) -> None:
        self.peer.options = f"HostKey {self.there}/ssh/ssh_host_ed25519_key\nInclude {self.there}/ssh/sshd_config.d/*\n"
        (self.peer.folder / "host").write_bytes((self.there / "ssh" / "ssh_host_ed25519_key").read_bytes())
        self.peer.start()
        assert self.peer.process is not None
        (self.folder / "pid").write_text(str(self.peer.process.pid))

    def types(self, text: str) -> None:
        """Type commands on the control host; each must succeed."""
        reloads = self.peer.log.count("Server listening")
        text = text.replace("/etc/hyops/", f"{self.here}/hyops/").replace("/etc/ssh/", f"{self.there}/ssh/")
        known = {
            **os.environ,
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "HYOPS_PKI": f"{self.here}/hyops/pki",
            **self.more,
        }
        done = subprocess.run(
            ["sh", "-ec", text], cwd=self.here / "work", env=known, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        if "reload ssh" in text or "install.sh" in text:
            wait_for(lambda: self.peer.log.count("Server listening") > reloads, "sshd's reload")

    def executor(self) -> Path:
        """The executor's configuration, with the page's own entry for the runner."""
        shown = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert shown is not None
        entry = json.loads(shown[1].replace("/etc/hyops/", f"{self.here}/hyops/"))["runners"][RUNNER]
        entry |= {"address": "127.0.0.1", "port": self.peer.port, "user": ssh_peer.user()}
        entry["certificate"]["command"] = self.command
        body = {
            "api_version": "hybridops/v1",
            "kind": "DecisionExecutor",
            "signing_key": "/nonexistent",
            "trusted_keys": "/nonexistent",
            "protected": [{"policy": policy().body(), "initial_generation": 1}],
            "runners": {RUNNER: entry},
        }
        path = self.folder / "executor.json"
        path.write_text(json.dumps(body))
        return path

    def reaches(self) -> None:
        """Dispatch far enough to be answered, by the runner that was asked for."""
        from hyops.services.config_execution import ExecutionConfig

        config = ExecutionConfig.read(self.executor().read_bytes())

        async def body() -> None:
            transport = compose_transport.transport_of(config, VERIFIER)
            async with transport.connect(RUNNER) as session:
                await session.status("run-x")

        asyncio.run(asyncio.wait_for(body(), PATIENCE_S))

    def shows(self, places: list[Path], contents: list[bytes]) -> None:
        """Let the runner be who has these."""
        for path, data in zip(places, contents, strict=True):
            path.write_bytes(data)
        self.types("systemctl reload ssh")

    def _thief(self, name: str) -> list[str]:
        words = ["ssh", "-F", "none", "-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oIdentityAgent=none"]
        words += ["-oUserKnownHostsFile=/dev/null", "-p", str(self.peer.port), "-i", str(self.folder / name)]
        return [*words, f"{ssh_peer.user()}@127.0.0.1", "id"]

    def as_thief(self, name: str) -> str:
        """Log in with a key and a certificate that were taken; what ssh says."""
        done = subprocess.run(
            self._thief(name), capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False
        )
        return (done.stdout + done.stderr).decode()

    @contextlib.contextmanager
    def thief_inside(self, name: str) -> Iterator[Thief]:
        """Somebody who logged in with these while he could."""
        pipe = subprocess.PIPE
        with subprocess.Popen(self._thief(name), bufsize=0, stdin=pipe, stdout=pipe) as process:
            try:
                yield Thief(process)
            finally:
                process.kill()


class PlainDesk(Desk):
    """The same for a runner with plain keys: what the bootstrap page names by variables stands in `more`."""

    login = "ada@127.0.0.1"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        key = self.peer.folder / "user"
        self.more = {
            "RUNNER": RUNNER,
            "ADMIN": "ada",
            "ADDRESS": "127.0.0.1",
            "DISPATCHER_KEY": str(key),
            "KNOWN_HOSTS": str(self.peer.known_hosts),
            **{name: str(folder / name.lower()) for name in ("FILES", "ADMIN_KEY", "EXECUTOR")},
        }
        (folder / "executor").touch()
        there = f"{sys.executable} {ENTRANCE_THERE} '{self.command}' {ssh_peer.user()} {key}.pub"
        for name, text in {
            "hyops": f'exec {there} "$@"',
            "sshd": f'test "$1" = -T && echo authorizedkeysfile {self.peer.folder}/authorized_keys',
        }.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        self.peer.known_hosts.unlink()
        (self.here / "work" / f"{RUNNER}.pub").write_bytes((self.identity.with_suffix(".pub")).read_bytes())
        self.types(self.block("pin"))

    @property
    def identity(self) -> Path:
        """The runner's host key."""
        return self.there / "ssh" / "ssh_host_ed25519_key"

    def _sshd(self) -> None:
        (self.peer.folder / "host").unlink()
        (self.peer.folder / "host").symlink_to(self.identity)
        self.peer.start()
        assert self.peer.process is not None
        (self.folder / "pid").write_text(str(self.peer.process.pid))

    def block(self, title: str) -> str:
        """The commands of the bootstrap page under this title."""
        found = re.search(rf'```sh title="{title}"\n(.*?)```', BOOTSTRAP_PAGE.read_text(), re.DOTALL)
        assert found is not None
        return "\n".join(line.strip() for line in found[1].splitlines())

    def reaches(self) -> None:
        """Enter with the dispatcher's key as it is now, and be answered."""
        known = {"key_file": self.peer.folder / "user", "known_hosts": self.peer.known_hosts}
        target = RunnerTarget("127.0.0.1", ssh_peer.user(), **known, port=self.peer.port, host_key_alias=RUNNER)

        async def body() -> None:
            async with AsyncsshRunnerTransport({RUNNER: target}, VERIFIER).connect(RUNNER) as session:
                await session.status("run-x")

        asyncio.run(asyncio.wait_for(body(), PATIENCE_S))


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[PlainDesk]:
    """A runner as the bootstrap page makes it, pinned."""
    made = PlainDesk(tmp_path)
    try:
        yield made
    finally:
        made.peer.end()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Before anybody typed anything."""
    made = Desk(tmp_path)
    try:
        yield made
    finally:
        made.peer.end()


@pytest.mark.fault(16)
def test_the_three_runbooks_do_what_they_say(desk: Desk) -> None:
    """Bootstrap: reached. Rotate: reached, and the old host key is nobody. Stolen: the old key is nobody, we go on."""
    runbooks = parts()
    first = runbooks["Bootstrap a runner's identity"]
    for block in first[:-1]:
        desk.types(block)
    (desk.here / "hyops" / "runner_hosts").touch()
    with pytest.raises(HostKeyError):
        desk.reaches()
    desk.types(first[-1])
    desk.reaches()

    identity = [desk.there / "ssh" / "ssh_host_ed25519_key", desk.there / "ssh" / "hyops" / "host-cert.pub"]
    old = [path.read_bytes() for path in identity]
    for block in runbooks["Rotate a runner's host key"]:
        desk.types(block)
    desk.reaches()
    new = [path.read_bytes() for path in identity]
    desk.shows(identity, old)
    with pytest.raises(HostKeyError, match="revoked"):
        desk.reaches()
    desk.shows(identity, new)
    desk.reaches()

    stolen = desk.folder / "stolen"
    for suffix in ("", ".pub"):
        (desk.folder / f"stolen{suffix}").write_bytes((desk.here / "hyops" / f"dispatch_ed25519{suffix}").read_bytes())
    stolen.chmod(0o600)
    desk.types(
        f"hyops pki sign user {stolen}.pub --group cloud-runners --valid 12h --command {shlex.quote(desk.command)}"
    )
    with desk.thief_inside("stolen") as thief:
        assert thief.answered()
        for block in runbooks["Revoke a stolen dispatcher key"]:
            desk.types(block)
        assert not thief.answered()  # a new login is refused, and the one that was open is over
    assert "Permission denied" in desk.as_thief("stolen")
    assert "revoked" in desk.peer.log
    desk.reaches()

    (desk.there / "ssh" / "hyops" / "revoked.krl").unlink()  # the page: a runner without the file takes no login at all
    with pytest.raises(RunnerUnreachableError, match="refused our key"):
        desk.reaches()


@pytest.mark.parametrize(
    ("title", "ended"),
    [
        ("sshd: hyops [priv]", True),
        ("sshd: hyops@notty", True),
        ("sshd-session: hyops@notty", True),  # so OpenSSH calls it since 9.8
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", False),
        ("sshd: ada@pts/0", False),
        ("sshd: hyops-jump@notty", False),
        ("/usr/bin/python3 -IS /usr/bin/hyops runner-job --config /etc/hyops/runner.json run-x", False),
        ("sudo pkill -KILL -e -f ^sshd: hyops[ @]", False),
    ],
)
def test_what_the_page_ends_is_a_session_of_hyops_and_nothing_else(title: str, ended: bool) -> None:
    """No run, no person, no other login, not the sshd that takes the next one."""
    patterns = re.findall(r"-f '(\^sshd[^']*)'", "".join(parts()["Revoke a stolen dispatcher key"]))
    assert [re.search(pattern, title) is not None for pattern in patterns] == [ended]


def test_a_stolen_plain_key_opens_nothing_after_its_runbook(plain: PlainDesk) -> None:
    """Another bootstrap alone keeps the thief's line; with `--only-this-key` it goes, and his open session is ended."""
    plain.reaches()
    shutil.copy(plain.peer.folder / "user", plain.folder / "stolen")
    only = plain.block("only this key").rstrip()
    assert " --only-this-key" in only
    with plain.thief_inside("stolen") as thief:
        assert thief.answered()
        plain.types(plain.block("new dispatcher key"))
        plain.types(only.replace(" --only-this-key", ""))
        plain.types(f"{only} --dry-run")
        assert "Permission denied" not in plain.as_thief("stolen")
        plain.types(only)
        assert "Permission denied" in plain.as_thief("stolen")
        assert thief.answered()
        plain.types(plain.block("end open sessions"))
        assert not thief.answered()
    plain.reaches()


def test_a_rotated_plain_host_key_is_the_only_one_that_is_pinned(plain: PlainDesk) -> None:
    """Reached before and after; who shows the old key is nobody."""
    plain.reaches()
    old = plain.identity.read_bytes()
    plain.types(plain.block("new host key"))
    plain.types(plain.block("change host key"))
    plain.reaches()
    plain.shows([plain.identity], [old])
    with pytest.raises(HostKeyError):
        plain.reaches()


def test_every_command_of_the_page_is_in_a_runbook_that_runs() -> None:
    """No block of commands stands outside of the three."""
    assert {name for name, blocks in parts().items() if blocks} == {
        "Bootstrap a runner's identity",
        "Rotate a runner's host key",
        "Revoke a stolen dispatcher key",
    }
