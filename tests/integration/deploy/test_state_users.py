"""The state of an environment between users that are really others: the stages' group reads it and never writes it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyops.adapters import bundle_files, states_files
from hyops.compose_bundle import digests_of
from hyops.engine import bundling
from hyops.errors import HyopsError
from hyops.model.module_state import state_path
from state_kit import REF, Root, net, state

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users, which only root can"),
    pytest.mark.req("RUN-6", "ROOT-3", "INV-8"),
]
LOADED = (bundle_files, bundling)  # by now: another user may not read this checkout
GROUP = 54100
PLACE = state_path(REF)[0]


@dataclass(frozen=True)
class User:
    """Somebody, and whether he is in the stages' group."""

    uid: int
    of_the_loop: bool = True

    def does(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, or the name and text of its error, in a process that is this user for good."""
        heard, said = os.pipe()
        child = os.fork()
        if child == 0:
            answer: Any = "died"
            try:
                os.setgroups([GROUP] if self.of_the_loop else [])
                os.setresgid(self.uid, self.uid, self.uid)
                os.setresuid(self.uid, self.uid, self.uid)
                os.umask(0o077)
                answer = work()
            except (HyopsError, OSError) as exc:
                answer = [type(exc).__name__, str(exc)]
            finally:
                try:
                    os.write(said, json.dumps(answer, default=str).encode())
                finally:
                    os._exit(0)  # whatever happened: it must never go on as a second pytest
        os.close(said)
        with os.fdopen(heard, "rb") as file:
            answer = json.loads(file.read())
        os.waitpid(child, 0)
        return answer


EXECUTOR, DISPATCHER, STRANGER = User(54014), User(54012), User(54099, of_the_loop=False)


@pytest.fixture
def root() -> Iterator[Path]:
    """A runtime root of the executor's, open for the group down to its state; pytest's own folders are closed."""
    top = Path(tempfile.mkdtemp(prefix="hyops-test-"))
    top.chmod(0o755)
    for path in (top / "lab", top / "lab" / "state"):
        path.mkdir()
        os.chown(path, EXECUTOR.uid, GROUP)
        path.chmod(0o750)
    try:
        yield top / "lab"
    finally:
        shutil.rmtree(top)


def put(root: Path, generation: int) -> None:
    """What the executor does when a run comes home."""
    assert EXECUTOR.does(lambda: Root(root).put(state(generation, cidr="a"))) is None


def planned(root: Path) -> dict[str, str]:
    """What a stage finds for the plan of a step that keeps `REF`."""
    return dict(digests_of(SimpleNamespace(runtime_root=str(root), shared_root=None))([net()]))


def test_the_dispatcher_plans_with_the_state_that_the_executor_wrote(root: Path) -> None:
    """Both find the same digest, generation after generation, under a umask that would close it."""
    for generation in (1, 2):
        put(root, generation)
        theirs, ours = DISPATCHER.does(lambda: planned(root)), EXECUTOR.does(lambda: planned(root))
        assert theirs == ours == {PLACE: states_files.FileStates(root).read(REF).digest}  # type: ignore[union-attr]

    made = list((root / "state" / "modules").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o750, 0o640}
    assert {path.stat().st_gid for path in made} == {GROUP}


@pytest.mark.parametrize("who", [DISPATCHER, STRANGER])
def test_nobody_but_the_executor_writes_it(root: Path, who: User) -> None:
    """In place, beside it, over it, away with it, and by the store's own way: each is refused."""
    put(root, 1)
    place, before = root / PLACE, Root(root).files()
    ways: list[Callable[[], Any]] = [
        lambda: place.write_text("{}"),
        lambda: (place.parent / "other.json").write_text("{}"),
        lambda: place.rename(place.with_name("gone.json")),
        place.unlink,
        lambda: place.chmod(0o660),
        lambda: (root / "state" / "mine").mkdir(),
        lambda: Root(root).put(state(2)),
    ]

    told = [who.does(way) for way in ways]

    assert [one[0] for one in told[:-1]] == ["PermissionError"] * (len(ways) - 1)
    assert told[-1][0] == "PrerequisiteError"
    assert Root(root).files() == before


def test_who_is_not_in_the_group_sees_nothing_and_is_told_so(root: Path) -> None:
    """State that may not be looked at is not absent: a plan without it would be another one."""
    put(root, 1)

    assert STRANGER.does(lambda: Root(root).now() and "read")[0] in ("RecordError", "PermissionError")
    kind, text = STRANGER.does(lambda: planned(root))
    assert (kind, "Permission denied" in text, str(root / PLACE) in text) == ("ConfigError", True, True)


def test_where_state_is_closed_it_stays_closed(root: Path) -> None:
    """The layout's own 0700 opens nothing below, and the dispatcher is refused instead of planning without it."""
    (root / "state").chmod(0o700)
    put(root, 1)

    made = list((root / "state" / "modules").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700, 0o600}
    assert DISPATCHER.does(lambda: planned(root))[0] == "ConfigError"


def test_state_that_was_closed_opens_with_the_next_generation(root: Path) -> None:
    """Folders of before are opened too, so that one `chmod` of `state/` is enough from then on."""
    (root / "state").chmod(0o700)
    put(root, 1)
    (root / "state").chmod(0o750)
    put(root, 2)

    assert DISPATCHER.does(lambda: planned(root)) == EXECUTOR.does(lambda: planned(root))


def test_state_that_the_group_may_write_is_refused(root: Path) -> None:
    """A folder in which others can put files is no authority."""
    (root / "state").chmod(0o770)

    assert EXECUTOR.does(lambda: Root(root).put(state(1)))[0] == "PrerequisiteError"
