"""Files of a runtime root, as they go into a bundle: by digest, through no link, none too many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyops.adapters import bundle_files
from hyops.adapters.bundle_files import FileBundles
from hyops.engine.bundling import Named
from hyops.errors import ConfigError, UnsafePlanError
from hyops.model import canonical


def named(path: str, *, folder: bool = False, shared: bool = False) -> Named:
    """What a step would name."""
    return Named(f"shared/{path}" if shared else path, "shared" if shared else "own", path, folder, "step a, key")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One with files in subfolders."""
    for path, data in {"config/o/a.yml": b"a", "config/o/site/b.yml": b"b", "config/other.yml": b"c"}.items():
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / path).write_bytes(data)
    return tmp_path / "root"


@pytest.mark.req("RUN-1")
def test_exactly_what_is_named_is_found(root: Path, tmp_path: Path) -> None:
    """A folder with its subfolders, a file, a file of the shared root; their bytes are read again when opened."""
    (tmp_path / "shared" / "state").mkdir(parents=True)
    (tmp_path / "shared" / "state" / "s.json").write_bytes(b"{}")
    found = FileBundles(root, tmp_path / "shared").files(
        [named("config/o", folder=True), named("state/s.json", shared=True)]
    )
    assert {name: (file.digest, file.size_bytes) for name, file in found.items()} == {
        "config/o/a.yml": (canonical.digest_bytes(b"a"), 1),
        "config/o/site/b.yml": (canonical.digest_bytes(b"b"), 1),
        "shared/state/s.json": (canonical.digest_bytes(b"{}"), 2),
    }
    for _ in range(2):
        with found["config/o/site/b.yml"].open() as source:
            assert source.read(10) == b"b"


@pytest.mark.req("RUN-1")
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_missing_is_said_with_the_step_that_names_it(root: Path, shared: bool) -> None:
    """A file that is not there, or a shared root that nobody configured."""
    with pytest.raises(ConfigError, match="step a, key"):
        FileBundles(root).files([named("config/none.yml", shared=shared)])
    with pytest.raises(ConfigError, match=r"step a, key.*No such file"):
        FileBundles(root / "nowhere").files([named("config/o", folder=True)])


@pytest.mark.req("RUN-1", "INV-10")
@pytest.mark.parametrize("how", ["link", "link-above", "folder", "fifo", "link-in-folder", "fifo-in-folder", "hidden"])
def test_links_and_devices_do_not_travel(root: Path, tmp_path: Path, how: str) -> None:
    """A link could take a key along, a pipe could hang: each is refused by its name."""
    (tmp_path / "key").write_bytes(b"secret")
    one = named("config/o", folder="in-folder" in how or how == "hidden")
    {
        "link": lambda: (root / "config/x").symlink_to(tmp_path / "key"),
        "link-above": lambda: (root / "config/x").symlink_to(root / "config/o"),
        "folder": (root / "config/x").mkdir,
        "fifo": lambda: os.mkfifo(root / "config/x"),
        "link-in-folder": lambda: (root / "config/o/site/x").symlink_to(tmp_path / "key"),
        "fifo-in-folder": lambda: os.mkfifo(root / "config/o/site/x"),
        "hidden": lambda: (root / "config/o/.key").write_bytes(b"k"),
    }[how]()
    if not one.is_folder:
        one = named("config/x/a.yml" if how == "link-above" else "config/x")
    with pytest.raises(UnsafePlanError, match=r"plain file|plain relative name"):
        FileBundles(root).files([one])


@pytest.mark.req("RUN-11")
def test_too_many_or_too_large_is_refused_while_it_is_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are those of the runner; the file that goes over is named."""
    for limit, value in (("FILES_MAX", 1), ("BYTES_MAX", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(bundle_files, limit, value)
            with pytest.raises(UnsafePlanError, match=r"with config/o/site/b\.yml the bundle is over"):
                FileBundles(root).files([named("config/o", folder=True)])


@pytest.mark.req("INV-4")
@pytest.mark.fault(11)
def test_a_changed_file_is_never_told_by_its_old_digest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once, it is not read again; with another byte, put back to its old size and time, it is."""
    reader, path, one = FileBundles(root), root / "config/other.yml", named("config/other.yml")
    reads: list[int] = []
    real = bundle_files._digest
    monkeypatch.setattr(bundle_files, "_digest", lambda fd: reads.append(fd) or real(fd))
    monkeypatch.setattr(bundle_files, "FRESH_NS", -(10**12))
    for _ in range(3):
        assert reader.files([one])[one.name].digest == canonical.digest_bytes(b"c")
    assert len(reads) == 1
    times = path.stat()
    path.write_bytes(b"d")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert reader.files([one])[one.name].digest == canonical.digest_bytes(b"d")


@pytest.mark.req("INV-4")
def test_a_file_that_was_just_written_is_read_each_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one tick of the clock two versions look alike: so young a file is not remembered."""
    reader, one, reads = FileBundles(root), named("config/other.yml"), []
    real = bundle_files._digest
    monkeypatch.setattr(bundle_files, "_digest", lambda fd: reads.append(fd) or real(fd))
    monkeypatch.setattr(bundle_files, "FRESH_NS", 10**15)
    for _ in range(2):
        reader.files([one])
    assert len(reads) == 2
