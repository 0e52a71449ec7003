"""Staging by content: what lacks comes as one archive, is there whole or not at all, and nothing hostile gets in."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.errors import ConfigError, PrerequisiteError, UnsafePlanError
from hyops.model import canonical, wire
from hyops.model.protocol import PROTOCOL_MAX
from hyops.runner import cache, staging
from hyops.runner.boot import resume_all
from hyops.runner.bundle import unpack
from hyops.runner.serve import Server
from hyops.runner.staging import watched
from staging_kit import FILES, RUN, archive, ask, config, folders_of, held, hexed, left, member, offer, ship

ALL = {hexed(data) for data in FILES.values()}
HELLO = wire.encode({"verb": "hello"})
KILLED = """
import io, os, signal, sys
from pathlib import Path
from functools import partial
sys.path[:0] = sys.argv[4].split(":")
from hyops.runner import serve, staging
from hyops.runner.config import RunnerConfig
passed = []
def at(name):
    passed.append(name)
    if len(passed) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
serve.staging.Staging = partial(staging.Staging, at=at)
serve.Server(RunnerConfig.load(Path(sys.argv[1])), open(sys.argv[2], "rb"), io.BytesIO()).run()
print(len(passed))
"""


@pytest.mark.req("RUN-1")
def test_only_what_lacks_is_asked_for_and_taken(tmp_path: Path) -> None:
    """A first staging takes all, a second nothing, one more file only that; the job finds each under its name."""
    made = config(tmp_path)
    folders = folders_of(made)
    first = ask(made, offer(FILES), ship(archive(FILES)), offer(FILES))
    assert [len(first[0]["missing"]), first[1]["files"], first[2]["missing"]] == [3, 3, []]
    more = {**FILES, "overlays/site-b/more.yml": b"new"}
    asked, came = ask(made, offer(more), ship(member(b"new") + bytes(1024)))
    assert (asked["missing"], came["files"]) == ([canonical.digest_bytes(b"new")], 1)
    folders.run(RUN).mkdir(mode=0o700)
    unpacked = unpack(folders, RUN, {name: canonical.digest_bytes(data) for name, data in more.items()})
    assert {str(p.relative_to(unpacked)): p.read_bytes() for p in unpacked.rglob("*") if p.is_file()} == more
    assert {path.stat().st_mode & 0o777 for path in (*folders.cas.iterdir(), *unpacked.rglob("*/*"))} <= {0o600, 0o700}


def _device(kind: bytes, **fields: Any) -> bytes:
    return member(b"", name=hexed(FILES["play.yml"]), type=kind, **fields)


HOSTILE = {
    "parent": member(b"x", name="../../etc/cron.d/x"),
    "absolute": member(b"x", name="/etc/cron.d/x"),
    "newline": member(b"x", name="a\nb"),
    "unasked": member(b"not asked for"),
    "twice": member(FILES["play.yml"]) * 2,
    "symlink": _device(tarfile.SYMTYPE, linkname="/etc/shadow"),
    "hardlink": _device(tarfile.LNKTYPE, linkname="/etc/shadow"),
    "device": _device(tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block": _device(tarfile.BLKTYPE),
    "fifo": _device(tarfile.FIFOTYPE),
    "folder": _device(tarfile.DIRTYPE),
    "long-name": _device(tarfile.GNUTYPE_LONGNAME),
    "sparse": _device(tarfile.GNUTYPE_SPARSE),
    "pax": _device(tarfile.XHDTYPE),
    "file-with-link": _device(tarfile.REGTYPE, linkname="/etc/shadow"),
    "bomb": member(b"", name=hexed(FILES["play.yml"]), size=2**33 - 1) + bytes(1 << 16),
    "short": member(FILES["play.yml"][:-1], name=hexed(FILES["play.yml"])),
    "other-bytes": member(b"- hosts: ALL\n", name=hexed(FILES["play.yml"])),
    "noise": b"\xff" * 512,
    "after-its-end": bytes(1024) + member(FILES["play.yml"]),
    "one-zero-block": bytes(512) + member(FILES["play.yml"]),
}


@pytest.mark.req("RUN-1", "RUN-6", "INV-4")
@pytest.mark.fault(11, 18)
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_archive_changes_nothing(tmp_path: Path, name: str) -> None:
    """Refused as unsafe, wherever in the stream it comes; no file anywhere, and the connection still answers."""
    made = config(tmp_path)
    good = member(FILES["overlays/site-b/hosts.yml"])
    before = sorted(tmp_path.rglob("*"))
    asked, refused, hello = ask(made, offer(FILES), ship(good + HOSTILE[name] + bytes(1024)), HELLO)
    assert (asked["ok"], refused["error"]["error"], hello["ok"]) == (True, "UnsafePlanError", True)
    folders = folders_of(made)
    assert (held(folders), left(folders)) == (set(), [])
    assert {p for p in tmp_path.rglob("*") if p not in before} <= {made.root, *made.root.iterdir()}


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a//b", "a/../b", "", ".hidden", "a\nb", "-rf", "a" * 129, "play.yml/x"]
)
def test_a_manifest_with_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is asked for: names are plain, relative, and none lies below another file."""
    made = config(tmp_path)
    (refused,) = ask(made, offer({**FILES, name: b"x"}))
    assert refused["error"]["error"] == "UnsafePlanError"
    assert left(folders_of(made)) == []


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (["sha256:../../etc/shadow", 1], "RecordError"),
        (["sha256:" + "0" * 64, -1], "RecordError"),
        (["sha256:" + "0" * 64, True], "RecordError"),
        (["sha256:" + "0" * 64], "RecordError"),
        ([canonical.digest_bytes(b"- hosts: all\n"), 7], "RecordError"),
        (["sha256:" + "0" * 64, 2**40], "UnsafePlanError"),
    ],
)
def test_a_mistyped_or_oversized_manifest_is_refused(tmp_path: Path, entry: list[Any], error: str) -> None:
    """No digest, no size, two sizes for one digest, or more bytes than the runner takes."""
    (refused,) = ask(config(tmp_path), offer(FILES, other=entry))
    assert refused["error"]["error"] == error


@pytest.mark.req("RUN-11")
def test_too_many_files_are_refused(tmp_path: Path) -> None:
    """One over the limit is refused, the limit itself is not."""
    made, digest = config(tmp_path), canonical.digest_bytes(b"")
    for count, ok in ((10_000, True), (10_001, False)):
        files = {f"f{n}": [digest, 0] for n in range(count)}
        (answer,) = ask(
            made,
            wire.encode({"protocol": PROTOCOL_MAX, "verb": "offer", "run_id": RUN}, canonical.encode({"files": files})),
        )
        assert answer["ok"] is ok


@pytest.mark.req("RUN-1")
@pytest.mark.fault(14)
@pytest.mark.parametrize("end", [b"", b"\0\0", wire.abort(), b"\0\x20\0\0", wire.chunk(b"x" * 9)[:-2]])
def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path, end: bytes) -> None:
    """The link dies, the dispatcher gives up, or speaks nonsense, after all files but before the end: none is kept."""
    made = config(tmp_path)
    answers = ask(made, offer(FILES), ship(archive(FILES), end=end))
    assert answers[1]["error"]["error"] == "RunnerUnreachableError"
    folders = folders_of(made)
    assert (held(folders), left(folders)) == (set(), [])


@pytest.mark.req("RUN-1")
def test_an_archive_that_ends_early_names_what_is_missing(tmp_path: Path) -> None:
    """All but one file came: refused with the name of that one, and the others are not kept either."""
    made = config(tmp_path)
    some = {name: data for name, data in FILES.items() if name != "play.yml"}
    _, refused = ask(made, offer(FILES), ship(archive(some)))
    assert "without 1 files: play.yml" in refused["error"]["message"]
    assert held(folders_of(made)) == set()
    (torn,) = ask(made, offer(FILES), ship(member(FILES["play.yml"])[:515]))[1:]
    assert "within a file" in torn["error"]["message"]


@pytest.mark.req("RUN-1")
def test_nothing_is_taken_that_was_not_offered(tmp_path: Path) -> None:
    """A stream without an offer, for another run, or a second one for one offer is refused."""
    made = config(tmp_path)
    sent = ship(archive(FILES))
    for frames in ([sent], [offer(FILES, "run-other"), sent], [offer(FILES), sent, sent]):
        assert ask(made, *frames)[-1]["error"]["error"] == "RecordError"


@pytest.mark.req("INV-4", "RUN-1")
@pytest.mark.fault(11)
@pytest.mark.parametrize("how", ["byte", "longer", "empty", "link", "folder", "fifo"])
def test_a_tampered_entry_is_fetched_anew(tmp_path: Path, how: str) -> None:
    """Whatever became of an entry, an offer finds it, asks for it again, and the job gets the right bytes."""
    made = config(tmp_path)
    folders = folders_of(made)
    ask(made, offer(FILES), ship(archive(FILES)))
    data = FILES["overlays/site-b/hosts.yml"]
    path, other = folders.cas / hexed(data), tmp_path / "other"
    other.write_bytes(data)
    if how in ("byte", "longer", "empty"):
        path.write_bytes({"byte": b"y" + data[1:], "longer": data + b"x", "empty": b""}[how])
    else:
        path.unlink()
        {"link": lambda: path.symlink_to(other), "folder": path.mkdir, "fifo": lambda: os.mkfifo(path)}[how]()
    asked, came = ask(made, offer(FILES), ship(member(data) + bytes(1024)))
    assert (asked["missing"], came["files"]) == ([canonical.digest_bytes(data)], 1)
    assert (path.is_symlink(), path.read_bytes(), other.read_bytes()) == (False, data, data)


@pytest.mark.req("INV-4")
@pytest.mark.fault(11)
def test_an_entry_tampered_with_after_the_offer_stops_the_job(tmp_path: Path) -> None:
    """The job hashes what it lays out: it names the file, lays nothing out, and drops the entry."""
    made = config(tmp_path)
    folders = folders_of(made)
    ask(made, offer(FILES), ship(archive(FILES)))
    path = folders.cas / hexed(FILES["play.yml"])
    path.write_bytes(b"- hosts: ALL\n")
    folders.run(RUN).mkdir(mode=0o700)
    with pytest.raises(PrerequisiteError, match=r"play\.yml.*damaged"):
        unpack(folders, RUN, {name: canonical.digest_bytes(data) for name, data in FILES.items()})
    assert (list(folders.run(RUN).iterdir()), path.exists()) == ([], False)
    assert ask(made, offer(FILES))[0]["missing"] == [canonical.digest_bytes(FILES["play.yml"])]


@pytest.mark.req("RUN-1")
@pytest.mark.fault(17)
def test_killed_at_any_boundary_the_next_staging_is_whole(tmp_path: Path) -> None:
    """kill -9 at each: the cache has whole entries only, the next staging works, and then nothing else is left."""
    sent = tmp_path / "sent"
    sent.write_bytes(offer(FILES) + ship(archive(FILES)))
    script, path = tmp_path / "killed.py", ":".join(entry for entry in sys.path if entry)
    script.write_text(KILLED)
    boundary, died = 0, True
    while died:
        boundary += 1
        folder = tmp_path / str(boundary)
        folder.mkdir()
        made = config(folder)
        words = [sys.executable, "-S", str(script), str(made.source), str(sent), str(boundary), path]
        died = subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
        folders = folders_of(made)
        assert held(folders) <= ALL
        assert all(hexed((folders.cas / name).read_bytes()) == name for name in held(folders))
        asked, *rest = ask(made, offer(FILES))
        lacking = {n: d for n, d in FILES.items() if canonical.digest_bytes(d) in asked["missing"]}
        assert {hexed(data) for data in lacking.values()} == ALL - held(folders)
        ask(made, offer(FILES), ship(archive(lacking)))
        assert (held(folders), left(folders), rest) == (ALL, [f"{RUN}.offer"], [])
    assert boundary > 10


@pytest.mark.req("RUN-1")
@pytest.mark.parametrize("by", ["gc", "boot"])
def test_what_a_killed_staging_left_goes_by_rule(tmp_path: Path, by: str) -> None:
    """A folder that nobody holds, a planted link and an old offer go; what a living connection holds stays."""
    made = config(tmp_path)
    folders = folders_of(made)
    living = staging.Staging(made, folders)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    with living._folder("run-living") as folder:
        dead = folders.staging / "run-dead.4194305.partial"
        dead.mkdir(mode=0o700)
        (dead / "half").write_bytes(b"x")
        (folders.staging / "run-link.1.partial").symlink_to(victim)
        cache.note_offer(folders, "run-old", ["sha256:" + "0" * 64])
        os.utime(folders.staging / "run-old.offer", (1, 1))
        if by == "gc":
            (answer,) = ask(made, wire.encode({"protocol": PROTOCOL_MAX, "verb": "gc", "dry_run": False}))
            assert answer["cache"] == {"files": 0, "size_bytes": 0, "gone_files": 0, "gone_bytes": 0}
        else:
            resume_all(made)
        assert left(folders) == [folder.name]
    assert (left(folders), list(victim.iterdir())) == ([], [victim / "file"])


def _tmpfs(tmp_path: Path, options: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounting a file system of its own")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    yield from _tmpfs(tmp_path, "size=256k,mode=700")


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """One where nothing may be executed."""
    yield from _tmpfs(tmp_path, "noexec,mode=700")


@pytest.mark.fault(17)
def test_a_disk_that_is_too_small_is_known_before_anything_is_sent(small: Path) -> None:
    """The offer is refused with what is there and what is needed; nothing is left of it."""
    made = config(small)
    (refused,) = ask(made, offer({"big": bytes(200_000)}))
    assert refused["error"]["error"] == "DiskFullError"
    assert "400000 bytes and 2 files are to come" in refused["error"]["message"]
    assert left(folders_of(made)) == []


@pytest.mark.fault(17)
@pytest.mark.parametrize("filled_at", ["folder", "member", "received", "synced", "adopted"])
def test_a_disk_that_fills_up_leaves_whole_entries_only(
    small: Path, monkeypatch: pytest.MonkeyPatch, filled_at: str
) -> None:
    """Somebody else fills the disk in the middle: a refusal, or success; with room again, the same staging works."""
    made = config(small)
    folders = folders_of(made)
    files = {"a": b"a" * 30_000, "b": b"b" * 30_000}
    filler = small / "filler"

    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "__init__", _with(lambda name: _fill(filler) if name == filled_at else None))
        answer = ask(made, offer(files), ship(archive(files)))[-1]
    if filled_at in ("folder", "member"):
        assert "No space left on device; nothing was staged" in answer["error"]["message"]
        assert (held(folders), left(folders)) == (set(), [])
    else:
        assert answer["files"] == 2
    filler.unlink(missing_ok=True)
    assert ask(made, offer(files), ship(archive(files) if held(folders) == set() else bytes(1024)))[-1]["ok"]
    assert held(folders) == {hexed(data) for data in files.values()}

    folders.run(RUN).mkdir(mode=0o700)
    _fill(filler)
    with pytest.raises(PrerequisiteError, match="cannot lay the bundle out"):
        unpack(folders, RUN, {name: canonical.digest_bytes(data) for name, data in files.items()})
    assert list(folders.run(RUN).iterdir()) == []


def _fill(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1024))


def _with(at: Any) -> Any:
    real = staging.Staging.__init__
    return lambda self, made, folders: real(self, made, folders, at)


@pytest.mark.fault(17)
def test_a_file_over_the_limit_of_the_process_is_refused(tmp_path: Path) -> None:
    """Without root and a disk of its own: the write fails in the middle of a file, and nothing is left."""
    made = config(tmp_path)
    folders, big = folders_of(made), {"big": bytes(300_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        _, refused, hello = ask(made, offer(big), ship(archive(big)), HELLO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ("nothing was staged" in refused["error"]["message"], hello["ok"]) == (True, True)
    assert (held(folders), left(folders)) == (set(), [])


@pytest.mark.fault(17)
def test_a_root_where_nothing_may_run_takes_no_bundle(noexec: Path) -> None:
    """noexec is said at the offer; a run without a bundle is not concerned."""
    made = config(noexec)
    refused, fine = ask(made, offer(FILES), offer({}))
    assert ("noexec" in refused["error"]["message"], fine["ok"]) == (True, True)


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17)
def test_links_planted_in_tmp_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world-writable /tmp full of links: staging neither reads nor writes there."""
    tmp, victim = tmp_path / "tmp", tmp_path / "victim"
    tmp.mkdir()
    tmp.chmod(0o1777)
    victim.write_bytes(b"as it was")
    for name in (*ALL, RUN, f"{RUN}.{os.getpid()}.partial", "bundle", "lock"):
        (tmp / name).symlink_to(victim)
    monkeypatch.setenv("TMPDIR", str(tmp))
    monkeypatch.chdir(tmp)
    made = config(tmp_path)
    assert ask(made, offer(FILES), ship(archive(FILES)))[-1]["files"] == 3
    assert victim.read_bytes() == b"as it was"
    assert all(path.is_symlink() for path in tmp.iterdir())


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17)
@pytest.mark.parametrize("parent", [0o777, 0o1777])
def test_a_root_in_a_folder_that_everybody_may_write_is_refused(tmp_path: Path, parent: int) -> None:
    """Not even a sticky one will do: there somebody else could have made the root first."""
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(parent)
    made = config(tmp_path, root=str(place / "root"))
    with pytest.raises(ConfigError, match="everybody may write"):
        ask(made, HELLO)


@pytest.mark.req("RUN-4")
@pytest.mark.fault(17)
@pytest.mark.parametrize("squat", ["link", "file", "open", "foreign"])
@pytest.mark.parametrize("place", ["run", "staging", "cas"])
def test_a_squatted_folder_is_refused(tmp_path: Path, squat: str, place: str) -> None:
    """A job, staging or cache folder that is a link, a file, open, or somebody else's: refused, nothing written."""
    made = config(tmp_path)
    folders = folders_of(made)
    path = {"run": folders.runs / RUN, "staging": folders.staging, "cas": folders.cas}[place]
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    if place != "run":
        path.rmdir()
    if squat == "link":
        path.symlink_to(victim)
    elif squat == "file":
        path.touch()
    else:
        path.mkdir(mode=0o700)
        if squat == "open":
            path.chmod(0o755)
        elif os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        else:
            pytest.skip("needs root: giving a folder away")
    if place == "run":
        answer = ask(made, offer(FILES))[0]
        assert answer["error"]["error"] == "ConfigError"
    else:
        with pytest.raises(ConfigError):
            ask(made, offer(FILES))
    assert list(victim.iterdir()) == []
    assert not path.is_dir() or list(path.iterdir()) == []


@pytest.mark.req("RUN-1", "RUN-11")
@pytest.mark.fault(12)
def test_two_dispatches_at_once_do_not_meet(tmp_path: Path) -> None:
    """Two connections stage the same files, each byte in turn with the other: both succeed, the cache is whole."""
    made = config(tmp_path)
    folders = folders_of(made)
    script = (
        "import sys\nfrom pathlib import Path\nsys.path[:0] = sys.argv[2].split(':')\n"
        "from hyops.runner import serve\nfrom hyops.runner.config import RunnerConfig\n"
        "serve.Server(RunnerConfig.load(Path(sys.argv[1])), sys.stdin.buffer, sys.stdout.buffer).run()"
    )
    words = [sys.executable, "-S", "-c", script, str(made.source), ":".join(entry for entry in sys.path if entry)]
    peers = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    files = {**FILES, "big": os.urandom(300_000)}
    for peer in peers:
        assert peer.stdin is not None
        assert peer.stdout is not None
        peer.stdin.write(offer(files))
        peer.stdin.flush()
        assert len(json.loads(peer.stdout.readline())["missing"]) == 4
    sent = ship(archive(files))
    for at in range(0, len(sent), 50_000):
        for peer in peers:
            assert peer.stdin is not None
            peer.stdin.write(sent[at : at + 50_000])
            peer.stdin.flush()
    assert [json.loads(peer.communicate()[0])["files"] for peer in peers] == [4, 4]
    assert (held(folders), left(folders)) == ({hexed(d) for d in files.values()}, [f"{RUN}.offer"])
    assert all(hexed((folders.cas / name).read_bytes()) == name for name in held(folders))


@pytest.mark.req("RUN-11")
@pytest.mark.fault(14)
def test_a_silent_stream_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open link brings nothing and never ends: after the limit the connection is over, and nothing is left."""
    monkeypatch.setattr("hyops.runner.serve.staging.watched", lambda: watched(0.05))
    made = config(tmp_path)
    folders = folders_of(made)
    reader, writer = os.pipe()
    os.write(writer, offer(FILES) + ship(archive(FILES), end=b""))
    sink = io.BytesIO()
    ender = threading.Timer(20.0, os.close, [writer])  # without the limit the end of the pipe would be waited for
    ender.start()
    with open(reader, "rb") as source:
        assert Server(made, source, sink).run() == 0
    assert ender.is_alive()
    ender.cancel()
    os.close(writer)
    assert "nothing came for 0.05 s" in sink.getvalue().splitlines()[1].decode()
    assert (held(folders), left(folders)) == (set(), [])


@pytest.mark.req("RUN-1", "RUN-6")
@pytest.mark.fault(18)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=16), st.integers(0, 100))
def test_any_damaged_header_is_refused_or_still_a_plain_file(at: int, noise: bytes, cut: int) -> None:
    """Whatever stands in a header: a refusal, the end, or a plain file whose name and size are looked at; no other."""
    data = bytearray(member(b"x" * 20))
    data[at : at + len(noise)] = noise[: 512 - at]
    header = bytes(data[:148]) + b"%06o\0 " % (256 + sum(data[:148]) + sum(data[156:512])) + bytes(data[156:])
    stream = wire.Chunks(io.BytesIO(wire.chunk(header[: len(header) - cut]) + wire.chunk(b"")))
    try:
        found = staging.next_member(stream)
    except UnsafePlanError:
        return
    assert found is None or (found.isreg() and not found.linkname)
