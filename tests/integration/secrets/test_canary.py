"""Fault 21 for secrets: canaries through every verb, in success, failure and kill -9; then a search for them.

A real process a verb, against a Vault over TLS: what it leaves on disk, what it prints, and what `/proc` shows of it
and of its children while it works.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.server import Answer, Request, authority_files
from fakes.vault import FakeVault, Policy
from hyops.adapters.ansible_vault import decrypt

UPSTREAM = "c4nary-upstream-0f3a"
BY_HAND = "c4nary-by-hand-77bd"
TOKEN = "c4nary-token-5521"
PASSWORD = "c4nary-password-e901"
CANARIES = [UPSTREAM, BY_HAND, TOKEN, PASSWORD]


class WatchingVault(FakeVault):
    """Looks at the asking process while it waits for the answer; `pid` is whom to look at."""

    pid: int | None = None
    looked: list[bytes]
    kill = False

    def answer(self, request: Request) -> Answer:
        """Look first."""
        if self.pid is not None:
            self.looked += look_at(self.pid)
            if self.kill:
                os.kill(self.pid, signal.SIGKILL)
        return super().answer(request)


def look_at(pid: int) -> list[bytes]:
    """The command line and the environment of a process and its children, as `ps` and others see them."""
    seen = []
    for one in [pid, *_children(pid)]:
        for name in ("cmdline", "environ"):
            try:
                seen.append(Path(f"/proc/{one}/{name}").read_bytes())
            except OSError:
                continue
    return seen


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def hits(data: bytes) -> list[str]:
    """Canaries in some bytes, also in base64 at any alignment."""
    found = []
    for canary in CANARIES:
        cores = [base64.b64encode(b"\0" * n + canary.encode())[4:-4] for n in range(3)]
        found += [canary for form in (canary.encode(), *cores) if form in data]
    return found


class Site:
    """A runtime root, a Vault, and the command."""

    def __init__(self, folder: Path, vault: WatchingVault) -> None:
        self.folder, self.vault = folder, vault
        self.root = folder / "root"
        for name in ("config/secrets/vault", "credentials", "tmp"):
            (self.root / name).mkdir(parents=True)
        self.inputs = {self.root / "credentials/token": TOKEN, self.root / "credentials/password": PASSWORD}
        for path, text in self.inputs.items():
            path.write_text(text)
            path.chmod(0o600)
        (self.root / "config/secrets/vault/allowed.csv").write_text("db,DB_PASSWORD,secret/{env}/db#password\n")
        (self.root / "config/secrets/secrets.yml").write_text(
            "api_version: hybridops/v1\nkind: Secrets\npassword: {file: credentials/password}\n"
            f"vault: {{address: '{vault.url}', token_file: credentials/token, ca_file: '{authority_files()[0]}'}}\n"
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """One verb as a process; its temporary files would lie in the root too."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.root / "tmp"),
            "HYOPS_DEBUG": "1",
        }
        verb, *rest = words
        command = [sys.executable, "-m", "hyops", "secrets", verb, "--root", str(self.root), *rest]
        pipe = subprocess.PIPE
        started = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=self.folder)
        self.vault.pid = started.pid
        return started

    def run(self, *words: str, stdin: str = "", watch: bool = True) -> tuple[int, bytes]:
        """Its exit code, and all that it printed."""
        started = self.start(*words)
        if not watch:
            self.vault.pid = None
        out, err = started.communicate(stdin.encode(), timeout=60)
        self.vault.pid = None
        return started.returncode, out + err

    def on_disk(self) -> list[str]:
        """Files that hold a canary, beside those that a person put there."""
        return [
            str(path.relative_to(self.folder))
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path not in self.inputs and hits(path.read_bytes())
        ]

    def cache(self) -> bytes:
        """The text of the cache."""
        return decrypt((self.root / "vault/bootstrap.vault.env").read_bytes(), PASSWORD.encode())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One secret upstream."""
    vault = WatchingVault()
    vault.looked = []
    vault.tokens[TOKEN] = Policy(("secret/",))
    with vault.serve():
        made = Site(tmp_path, vault)
        vault.put(f"secret/{made.root.name}/db", {"password": UPSTREAM})
        yield made


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
def test_no_verb_that_succeeds_leaves_a_value_anywhere(site: Site) -> None:
    """Every verb but `show --reveal` and the child of `exec`: not printed, not on disk, not in argv or environment."""
    said = []
    for words, stdin in (
        (["vault-sync"], ""),
        (["vault-sync", "--json"], ""),
        (["vault-sync", "--dry-run"], ""),
        (["set", "BY_HAND"], BY_HAND),
        (["keys"], ""),
        (["keys", "--json"], ""),
        (["show", "DB_PASSWORD"], ""),
        (["ensure", "DB_PASSWORD", "BY_HAND", "FRESH", "--generate"], ""),
        (["exec", "--key", "DB_PASSWORD", "--", "true"], ""),
    ):
        code, out = site.run(*words, stdin=stdin)
        assert code == 0, out
        said.append(out)

    assert hits(b"".join(said)) == []
    assert len(site.vault.looked) >= 6
    assert hits(b"".join(site.vault.looked)) == []
    assert site.on_disk() == []
    assert UPSTREAM.encode() in site.cache()


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "mode", ["sealed", "throttled 900", "cut", "garbage", "html", "broken", "elsewhere", "denied", "gone"]
)
def test_no_failure_leaves_a_value_anywhere_and_the_cache_is_as_it_was(site: Site, mode: str) -> None:
    """Exit 21 with what to do; also with tracebacks asked for, nothing of a value or a login is printed."""
    assert site.run("vault-sync")[0] == 0
    path = site.root / "vault/bootstrap.vault.env"
    before = path.read_bytes()
    if mode == "denied":
        site.vault.tokens.clear()
    elif mode == "gone":
        site.vault.mounts.clear()
    else:
        site.vault.be(mode)
    code, out = site.run("vault-sync")

    assert code == 21
    assert b"next: " in out
    assert hits(out) == []
    assert hits(b"".join(site.vault.looked)) == []
    assert site.on_disk() == []
    assert path.read_bytes() == before


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
def test_a_sync_that_is_killed_leaves_nothing_in_the_clear(site: Site) -> None:
    """kill -9 while the authority answers: no left-over with a value, and the next sync works."""
    site.vault.kill = True
    code, out = site.run("vault-sync")

    assert code == -signal.SIGKILL
    assert hits(out) == []
    assert site.on_disk() == []
    site.vault.kill = False
    assert site.run("vault-sync")[0] == 0
    assert site.on_disk() == []


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("boundary", ["locked", "changed", "half-written", "written", "renamed"])
def test_a_set_that_is_killed_while_it_writes_leaves_nothing_in_the_clear(site: Site, boundary: str) -> None:
    """kill -9 at each boundary of a write: only cipher text lies there."""
    program = (
        "import os, signal, sys\n"
        "from hyops.adapters import secret_cache_ansible_vault as m\n"
        "start = m.AnsibleVaultCache.__init__\n"
        f"die = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == {boundary!r} else None\n"
        "m.AnsibleVaultCache.__init__ = lambda self, *a, **k: start(self, *a, **k, at_boundary=die)\n"
        "from hyops.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["secrets", "set", "BY_HAND", "--root", str(site.root)]
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, input=BY_HAND.encode(), capture_output=True, check=False)

    assert done.returncode == -signal.SIGKILL
    assert hits(done.stdout + done.stderr) == []
    assert site.on_disk() == []
    assert site.run("set", "BY_HAND", stdin=BY_HAND)[0] == 0
    assert {path.name for path in (site.root / "vault").iterdir()} == {
        "bootstrap.vault.env",
        ".bootstrap.vault.env.lock",
    }


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
def test_exec_gives_a_value_to_its_child_alone(site: Site) -> None:
    """The child has it in its environment, nobody has it in argv, and a kill -9 of the child leaves nothing on disk."""
    assert site.run("vault-sync")[0] == 0
    child = "import os, sys; print(os.environ['DB_PASSWORD'], flush=True); sys.stdin.read()"
    started = site.start("exec", "--key", "DB_PASSWORD", "--", sys.executable, "-c", child)
    assert started.stdout is not None
    assert started.stdin is not None
    assert started.stdout.readline().decode().strip() == UPSTREAM
    own = Path(f"/proc/{started.pid}")
    assert hits((own / "environ").read_bytes()) == [UPSTREAM] or UPSTREAM in hits((own / "environ").read_bytes())
    assert (own / "environ").stat().st_mode & 0o077 == 0
    assert hits((own / "cmdline").read_bytes()) == []
    assert hits(Path("/proc/self/environ").read_bytes()) == []
    started.kill()
    started.communicate()

    assert site.on_disk() == []


@pytest.mark.req("SEC-2")
@pytest.mark.fault(21)
def test_two_syncs_and_a_set_at_the_same_time_lose_nothing(site: Site) -> None:
    """Processes of their own: every key is there afterwards."""
    started = [site.start("vault-sync"), site.start("vault-sync")]
    hand = threading.Thread(target=lambda: site.run("set", "BY_HAND", stdin=BY_HAND, watch=False))
    hand.start()
    codes = [one.wait(60) for one in started]
    for one in started:
        one.communicate()
    hand.join()

    assert codes == [0, 0]
    assert UPSTREAM.encode() in site.cache()
    assert BY_HAND.encode() in site.cache()
