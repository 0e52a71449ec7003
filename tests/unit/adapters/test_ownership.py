"""What root makes in somebody's folder is that somebody's from its first moment on, wherever root is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.access_grants import FileGrants
from hyops.adapters.secret_cache_ansible_vault import AnsibleVaultCache
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.errors import PrerequisiteError
from hyops.evidence.assemble import Story, assemble
from hyops.model.access import AccessGrant
from hyops.ownership import as_owner, make_folder, maker, open_lock
from hyops.services.deploy_record import DeployRecord
from hyops.testing import evidence as seeds
from state_kit import Root, state

STAGE, GROUP, STRANGER = 7114, 7100, 7199
ATTEMPT = "attempt-20260314T030000Z-failover-0123abcd"
KILLS_MAX = 400
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "os.truncate",
)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")


@pytest.fixture
def home() -> Iterator[Path]:
    """A stage's folder, in a place that every user can reach, which pytest's own is not."""
    top = Path(tempfile.mkdtemp(prefix="hyops-test-"))
    top.chmod(0o755)
    made = top / "home"
    made.mkdir(mode=0o750)
    os.chown(made, STAGE, GROUP)
    try:
        yield made
    finally:
        shutil.rmtree(top)


def records(home: Path) -> None:
    """A record with a slot."""
    FileRecordStore(home / "state" / "attempts").create("one", b'{"a": 1}\n', slot="first")


def starts(home: Path) -> None:
    """A dial, an epoch, and the mark of a start."""
    made = FileStarts(home / "state" / "starts")
    with made.dialling(ATTEMPT) as mine:
        assert mine
    made.next_epoch()
    made.note(ATTEMPT)


def evidence(home: Path) -> None:
    """A bundle, with a file beside its chain."""
    switch = seeds.failover()
    story = Story(**{name: getattr(switch, name) for name in Story.__dataclass_fields__ if hasattr(switch, name)})
    assemble(story, directory=home / "evidence", signer=seeds.STAGES["execution"], now=seeds.START + timedelta(hours=1))


def deployment(home: Path) -> None:
    """The record of a deployment, from its beginning to its end, and the report that the executor puts into it."""
    record = DeployRecord(home, "decision-1")
    record.begin({"by": "ada"})
    record.requested(dispatch_id="dispatch-1")
    record.named("run-1")
    record.line("a line")
    FileRecordStore(record.folder, group_readable=False).create("report", b'{"a": 1}\n')
    record.end({"status": "succeeded"})
    assert record.fault is None


def states(home: Path) -> None:
    """One more generation of a module's state."""
    root = Root(home)
    now = root.now()
    root.put(state(now.generation + 1 if now else 1, cidr="a"))


def secrets(home: Path) -> None:
    """One more line in the vault cache."""
    cache = AnsibleVaultCache(home / "vault" / "bootstrap.vault.env", lambda: b"pw")
    cache.update(lambda before: before + b"A=1\n")


def grants(home: Path) -> None:
    """A grant of access."""
    body = {
        "schema": "hyops/access-grant/v1",
        "grant_id": "g1",
        "state": "opening",
        "occasion": "drill",
        "reason": "drill of March",
        "by": "ada",
        "source": "198.51.100.7/32",
        "address": "192.0.2.8",
        "port": 22,
        "opened_at": seeds.START.isoformat(),
        "expires_at": (seeds.START + timedelta(minutes=10)).isoformat(),
    }
    FileGrants(home / "grants").keep(AccessGrant.of(body))


WRITERS = [records, starts, evidence, deployment, states, secrets, grants]
each_writer = pytest.mark.parametrize("writes", WRITERS, ids=lambda writes: writes.__name__)


def in_child(work: Callable[[], None], *, user: int = 0, kill_at: int | None = None) -> str:
    """How a process of its own ended that does `work` as `user`: `done`, `killed`, or the text of its error.

    `kill_at` is the number of the change to a file before which it kills itself.
    """
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "done"
        try:
            if user:
                os.setgroups([])
                os.setresgid(GROUP, GROUP, GROUP)
                os.setresuid(user, user, user)
            if kill_at is not None:
                _die_at(kill_at)
            work()
        except BaseException as exc:  # noqa: BLE001  # it goes to the parent; this process must end here
            answer = f"{type(exc).__name__}: {exc} {getattr(exc, 'hint', '')}"
        finally:
            os.write(said, answer.encode())
            os._exit(0)
    os.close(said)
    with os.fdopen(heard, "rb") as file:
        answer = file.read().decode()
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else answer


def _die_at(number: int) -> None:
    seen = 0

    def hook(event: str, told: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES or (event == "open" and told[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def strange(home: Path) -> list[Path]:
    """What is below and is not the stage's, links too."""
    found = [(path, path.lstat()) for path in home.rglob("*")]
    return [path for path, seen in found if (seen.st_uid, seen.st_gid) != (STAGE, GROUP)]


@pytest.mark.req("LOOP-1", "LOOP-2", "EXE-1", "RUN-7", "ROOT-3", "ROOT-5")
@each_writer
def test_what_root_writes_for_a_stage_is_the_stages(home: Path, writes: Callable[[Path], None]) -> None:
    """Folders, locks, links, records, counters, logs and bundles: everything that the stage must open later."""
    writes(home)

    assert len(list(home.rglob("*"))) >= 2
    assert strange(home) == []
    assert in_child(lambda: writes(home), user=STAGE) == "done"


@pytest.mark.req("LOOP-1", "LOOP-2", "RUN-7", "ROOT-5", "INV-7")
@pytest.mark.fault(13)
@each_writer
def test_killed_before_any_change_to_a_file_the_stage_goes_on(home: Path, writes: Callable[[Path], None]) -> None:
    """SIGKILL of root before each of them: nothing there is root's, and the stage does the same work to its end."""
    kills = 0
    for number in range(1, KILLS_MAX):
        place = home / str(number)
        place.mkdir()
        os.chown(place, STAGE, GROUP)
        ended = in_child(lambda place=place: writes(place), kill_at=number)  # type: ignore[misc]
        assert strange(place) == []
        assert in_child(lambda place=place: writes(place), user=STAGE) == "done"  # type: ignore[misc]
        shutil.rmtree(place)
        if ended == "done":
            break
        assert ended == "killed"
        kills += 1
    assert 4 <= kills < KILLS_MAX - 1


@pytest.mark.req("RUN-7", "UX-1")
def test_who_is_neither_the_owner_nor_root_begins_no_deployment(home: Path) -> None:
    """Also where everybody may write: what he left there the owner could not go on with."""
    home.chmod(0o777)

    told = in_child(lambda: DeployRecord(home, "decision-1").begin({}), user=STRANGER)

    assert told.startswith("PrerequisiteError")
    assert f"belongs to user {STAGE}, and you are user {STRANGER}" in told
    assert f"nothing was done; run it as user {STAGE} or as root" in told
    assert list(home.iterdir()) == []


@pytest.mark.req("RUN-7", "UX-1")
@pytest.mark.parametrize("closed", ["logs", "logs/runner"])
def test_a_folder_of_roots_from_before_is_refused_with_its_mend(home: Path, closed: str) -> None:
    """What an older command left to root keeps the owner out, so nothing is begun in it."""
    (home / "logs" / "runner").mkdir(parents=True)
    for name in {"logs", "logs/runner"} - {closed}:
        os.chown(home / name, STAGE, GROUP)
    (home / closed).chmod(0o700)

    with pytest.raises(PrerequisiteError, match=f"for user {STAGE}, who owns") as caught:
        DeployRecord(home, "decision-1").begin({})

    assert f"chown -R {STAGE}:{GROUP} {home}/logs" in str(caught.value.hint)
    assert list((home / "logs" / "runner").iterdir()) == []


@pytest.mark.req("SEC-2", "ROOT-5")
@pytest.mark.parametrize("writes", [states, secrets], ids=lambda writes: writes.__name__)
def test_a_folder_of_a_third_user_is_still_refused(home: Path, writes: Callable[[Path], None]) -> None:
    """Root writes for the owner of the root, and for nobody who only owns a folder in it."""
    for name in ("state", "vault"):
        (home / name).mkdir(mode=0o700)
        os.chown(home / name, STRANGER, GROUP)

    with pytest.raises(PrerequisiteError):
        writes(home)
    assert [path.name for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.req("LOOP-1", "RUN-7")
def test_a_planted_link_leads_nowhere_that_its_owner_could_not_go(home: Path) -> None:
    """Root's rights go no further there than the owner's: a link into root's own folder is not followed to an end."""
    kept = home.parent / "kept"
    kept.mkdir(mode=0o700)
    (home / "logs").symlink_to(kept)

    with pytest.raises(PrerequisiteError):
        DeployRecord(home, "decision-1").begin({})
    assert list(kept.iterdir()) == []


@pytest.mark.req("LOOP-1")
def test_only_this_thread_is_the_owner_and_only_meanwhile(home: Path) -> None:
    """Others go on as root, so does this one afterwards, also when the work failed or was nested."""
    begins = threading.Event()

    def beside() -> None:
        assert begins.wait(60)
        (home / "of-root").touch()

    def fails() -> None:
        with as_owner(home):
            with as_owner(home):
                (home / "inner").touch()
            (home / "of-the-owner").touch()
            begins.set()
            other.join()
            raise ValueError("failed")

    other = threading.Thread(target=beside)
    other.start()
    with pytest.raises(ValueError, match="failed"):
        fails()
    (home / "after").touch()

    owners = {path.name: path.stat().st_uid for path in home.iterdir()}
    assert owners == {"inner": STAGE, "of-the-owner": STAGE, "of-root": 0, "after": 0}


@pytest.mark.req("LOOP-1")
def test_the_maker_is_the_owner_for_root_and_oneself_for_others(home: Path) -> None:
    """Of a folder that is not there yet, it is who owns the one above it."""
    assert maker(home / "not" / "yet") == STAGE
    assert in_child(lambda: (home / str(maker(home))).touch(), user=STAGE) == "done"
    assert [path.name for path in home.iterdir()] == [str(STAGE)]


@pytest.mark.req("LOOP-1")
def test_what_was_there_before_keeps_its_owner(home: Path) -> None:
    """A lock or a folder that somebody else made is opened, and not given away."""
    (home / ".lock").touch(mode=0o600)
    (home / "there").mkdir()

    os.close(open_lock(home / ".lock", 0o600))
    make_folder(home / "there", 0o700)

    assert [(home / name).stat().st_uid for name in (".lock", "there")] == [0, 0]


@pytest.mark.req("LOOP-1")
def test_a_link_in_the_place_of_a_lock_is_refused(home: Path, tmp_path: Path) -> None:
    """What it points to is neither opened nor given to the stage."""
    kept = tmp_path / "kept"
    kept.touch()
    (home / ".lock").symlink_to(kept)

    with pytest.raises(OSError, match="symbolic links"):
        open_lock(home / ".lock", 0o600)
    assert kept.stat().st_uid == 0
