"""Secrets of runs lie in memory, under the run's name and under no other, whoever is killed while writing them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyops.errors import PrerequisiteError
from hyops.runner import gc, handed, staging
from hyops.runner.boot import resume_all
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders

CANARY = "canary-7f31"
NOW = 2_000_000_000.0

KILLED = """
import os, signal, sys
from pathlib import Path
from hyops.runner.folders import Folders
root, secrets, call, refused = sys.argv[1:]
if refused:
    opened = os.open
    def no_nameless(path, flags, *rest, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(int(refused), "nameless")
        return opened(path, flags, *rest, **more)
    os.open = no_nameless
setattr(os, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
folders = Folders(Path(root), Path(secrets))
with folders.locked():
    folders.put_secrets("run-x", {"DB": "canary-7f31"})
"""


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    """A runner whose secrets lie on a memory file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as secrets:
        made = Folders(tmp_path / "root", Path(secrets))
        made.make()
        yield made


def killed_at(folders: Folders, call: str, *, nameless: bool = True) -> None:
    """Hand secrets over in a process that is killed when it calls this function of the system."""
    refused = "" if nameless else str(errno.EOPNOTSUPP)
    words = [str(folders.root), str(folders.secrets_dir), call, refused]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], check=False)
    assert done.returncode == -signal.SIGKILL


def lying(folders: Folders) -> dict[str, str]:
    """What lies in the folder of secrets."""
    return {path.name: path.read_text() for path in folders.secrets_dir.iterdir()}


def finished(folders: Folders, run_id: str) -> None:
    """A run that is over."""
    folders.run(run_id).mkdir(mode=0o700)
    (folders.run(run_id) / "result.json").write_text("{}")


@pytest.mark.req("INV-10", "RUN-8")
@pytest.mark.fault(12)
@pytest.mark.parametrize("call", ["link", "unlink", "rename"])
def test_a_writer_that_is_killed_leaves_no_secret(folders: Folders, call: str) -> None:
    """kill -9 just before the file gets its name: no file has the secret in it, under no name."""
    if call != "link":
        with pytest.raises(AssertionError):  # the first of a run get their name at once: nobody is killed there
            killed_at(folders, call)
        assert json.loads(lying(folders)["run-x"]) == {"DB": CANARY}
        return
    killed_at(folders, call)
    assert lying(folders) == {}


@pytest.mark.req("INV-10", "RUN-8")
@pytest.mark.fault(12)
@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("call", ["link", "unlink", "rename"])
def test_a_run_keeps_its_secrets_when_the_next_ones_are_killed_on_the_way(
    folders: Folders, call: str, nameless: bool
) -> None:
    """kill -9 at each step of a second hand-over: the run has the first ones, and what is left beside them is swept."""
    folders.put_secrets("run-x", {"DB": "first"})
    with contextlib.suppress(AssertionError):  # not every way comes by each of the calls: then it got to its end
        killed_at(folders, call, nameless=nameless)
    whole = folders.secrets("run-x")
    assert whole in ({"DB": "first"}, {"DB": CANARY})
    assert call != "rename" or whole == {"DB": "first"}
    staging.sweep(folders, now=os.lstat(folders.secrets_dir / "run-x").st_mtime)
    assert lying(folders).keys() == {"run-x"}
    assert folders.secrets("run-x") == whole


@pytest.mark.req("RUN-8")
def test_a_second_hand_over_that_cannot_be_named_leaves_the_first(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename fails: refused, the first secrets are there, and nothing beside them."""
    folders.put_secrets("run-x", {"DB": "first"})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(PrerequisiteError, match="No space left"):
        folders.put_secrets("run-x", {"DB": CANARY})
    assert folders.secrets("run-x") == {"DB": "first"}
    assert lying(folders).keys() == {"run-x"}


@pytest.mark.req("INV-10", "RUN-8")
@pytest.mark.fault(12)
@pytest.mark.parametrize("swept", ["drop", "offer", "gc", "boot", "put"])
def test_what_a_killed_writer_left_is_swept(folders: Folders, tmp_path: Path, swept: str) -> None:
    """Where a file needs a name from its beginning, the next drop, offer, sweep, boot or hand-over removes it."""
    killed_at(folders, "rename", nameless=False)
    (left,) = lying(folders)
    assert CANARY in lying(folders)[left]

    if swept == "drop":
        folders.drop_secrets("run-x")
    elif swept == "offer":
        staging.sweep(folders, now=NOW)
    elif swept == "gc":
        gc.sweep_cache(folders, now=NOW, bytes_max=1, keep_s=1)
    elif swept == "put":
        with folders.locked():
            folders.put_secrets("run-y", {"A": "b"})
        folders.drop_secrets("run-y")
    else:
        more = dict.fromkeys(("signing_key", "trusted_keys", "allowed_signers"), tmp_path / "k")
        config = RunnerConfig(
            runner_ref="r", site="s", root=folders.root, secrets_dir=folders.secrets_dir, source=tmp_path / "c", **more
        )
        assert resume_all(config) == []
    assert lying(folders) == {}


@pytest.mark.req("INV-10", "RUN-8")
def test_a_writer_that_still_lives_is_left_alone(folders: Folders) -> None:
    """A young file of a living process, another runner's run and any foreign file stay; what is old or over goes."""
    finished(folders, "run-over")
    names = {f".run-a.{os.getpid()}.partial", "run-of-another-runner", "notes.txt"}
    for name in (*names, "run-over"):
        (folders.secrets_dir / name).write_text(CANARY)
    now = os.lstat(folders.secrets_dir / "notes.txt").st_mtime
    staging.sweep(folders, now=now)
    assert lying(folders).keys() == names
    staging.sweep(folders, now=now + handed.WRITTEN_S + 1)
    assert lying(folders).keys() == {"run-of-another-runner", "notes.txt"}


@pytest.mark.req("RUN-8")
@pytest.mark.parametrize("nameless", [True, False])
def test_secrets_are_replaced_whole(folders: Folders, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    """A second hand-over stands in place of the first, readable by us alone."""
    if not nameless:
        monkeypatch.setattr(handed, "_nameless", lambda *_: False)
    for value in ("one", "two"):
        folders.put_secrets("run-x", {"DB": value})
        assert folders.secrets("run-x") == {"DB": value}
    assert os.lstat(folders.secrets_dir / "run-x").st_mode & 0o777 == 0o600
    assert lying(folders).keys() == {"run-x"}


@pytest.mark.req("RUN-8")
def test_no_room_in_memory_is_a_refusal(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full memory file system refuses the start and leaves nothing behind."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(PrerequisiteError, match="No space left"):
        folders.put_secrets("run-x", {"DB": CANARY})
    assert lying(folders) == {}


@pytest.mark.req("INV-10")
def test_a_folder_of_somebody_else_is_not_swept(folders: Folders) -> None:
    """What lies in a folder that is not ours alone is nothing of ours."""
    (folders.secrets_dir / ".run-a.1.partial").write_text("x")
    folders.secrets_dir.chmod(0o755)
    staging.sweep(folders, now=NOW)
    assert lying(folders) == {".run-a.1.partial": "x"}
