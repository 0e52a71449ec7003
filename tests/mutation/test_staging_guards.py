"""Each guard of staging is taken out; what it keeps must then break, or its tests prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import runner_shipping
from hyops.adapters.runner_shipping import ship as ship_files
from hyops.errors import HyopsError
from hyops.model import bundled, canonical, wire
from hyops.runner import cache, folders, staging
from hyops.runner.cache import Cache
from hyops.runner.config import RunnerConfig
from hyops.testing.runs import bundle_of
from staging_kit import FILES, RUN, archive, ask, config, folders_of, held, hexed, member, offer, ship

DATA = FILES["play.yml"]


def with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *guard: Any) -> Any:
    """A runner with the guard, then one without it."""
    yield True, _made(tmp_path / "with")
    monkeypatch.setattr(*guard)
    yield False, _made(tmp_path / "without")


def _made(folder: Path) -> RunnerConfig:
    folder.mkdir()
    return config(folder)


@pytest.mark.req("INV-4", "RUN-1")
@pytest.mark.fault(11)
def test_without_the_hash_other_bytes_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe what a file is called: bytes that nobody approved lie under an approved digest."""
    real, evil = staging._taken, member(b"- hosts: ALL\n", name=hexed(DATA)) + bytes(1024)

    def believed(stream: Any, path: Path, size: int) -> str:
        real(stream, path, size)
        return path.name

    for guarded, made in with_and_without(tmp_path, monkeypatch, staging, "_taken", believed):
        ask(made, offer({"play.yml": DATA}), ship(evil))
        assert (held(folders_of(made)) == set()) is guarded


@pytest.mark.req("INV-4", "RUN-1")
@pytest.mark.fault(11)
def test_without_the_second_look_a_tampered_entry_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe what lies in the cache: what was changed there is not asked for again."""
    for guarded, made in with_and_without(
        tmp_path, monkeypatch, Cache, "verified", lambda self, digest, *_, **__: self.has(digest)
    ):
        (folders_of(made).cas / hexed(DATA)).write_bytes(b"- hosts: ALL\n")
        assert (ask(made, offer({"play.yml": DATA}))[0]["missing"] != []) is guarded


@pytest.mark.req("INV-4")
@pytest.mark.fault(11)
def test_without_the_sender_hashing_a_change_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not hash what leaves: a file that changed after its approval is sent, and ended as if it were whole."""
    made = bundle_of({"a": b"now"})["a"]
    changed = type(made)(canonical.digest_bytes(b"old"), 3, made.open)

    async def sent() -> bytes:
        out: list[bytes] = []
        ended = asyncio.Event()

        async def write(data: bytes) -> None:
            out.append(data)
            if data in (wire.abort(), wire.chunk(b"")):
                ended.set()

        async def answer() -> dict[str, Any]:
            await ended.wait()
            return {}

        with contextlib.suppress(HyopsError):
            await ship_files({"a": changed}, write, answer)
        return out[-1]

    async def unread(name: str, file: Any) -> Any:
        with file.open() as source:
            yield source.read()

    assert asyncio.run(sent()) == wire.abort()
    monkeypatch.setattr(runner_shipping, "_pieces", unread)
    assert asyncio.run(sent()) == wire.chunk(b"")


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17, 18)
def test_without_the_check_of_names_a_manifest_leads_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any name: a manifest with a way out is accepted."""
    for guarded, made in with_and_without(
        tmp_path,
        monkeypatch,
        bundled,
        "_PART",
        bundled.re.compile(".*"),  # type: ignore[attr-defined]
    ):
        assert ask(made, offer({"../../x": DATA}))[0]["ok"] is not guarded


@pytest.mark.req("RUN-1")
@pytest.mark.fault(17)
def test_without_the_whole_archive_half_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files in as they come: an archive that breaks off leaves some of them."""
    real = staging._taken

    def at_once(stream: Any, path: Path, size: int) -> str:
        digest = real(stream, path, size)
        (path.parent.parent.parent / "cas" / path.name).write_bytes(path.read_bytes())
        return digest

    for guarded, made in with_and_without(tmp_path, monkeypatch, staging, "_taken", at_once):
        ask(made, offer(FILES), ship(archive(FILES), end=wire.abort()))
        assert (held(folders_of(made)) == set()) is guarded


@pytest.mark.req("RUN-5")
def test_without_looking_at_runs_and_offers_needed_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evict without asking who needs it: what was staged for a run is gone before its start."""
    for guarded, made in with_and_without(tmp_path, monkeypatch, cache, "in_use", lambda *_, **__: set()):
        ask(made, offer(FILES), ship(archive(FILES)))
        Cache(folders_of(made)).evict(now=time.time() + 1, bytes_max=0, keep_s=0)
        assert (len(held(folders_of(made))) == 3) is guarded


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17)
def test_without_the_look_at_the_parents_a_root_may_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Do not look above the root: a runner serves from a folder that everybody may write to."""
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o1777)
    made = config(tmp_path, root=str(place / "root"))
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(folders, "check_parents", lambda _: None)
        try:
            served = ask(made, wire.encode({"verb": "status", "run_id": RUN}))[0]["ok"]
        except HyopsError:
            served = False
        assert served is not guarded
