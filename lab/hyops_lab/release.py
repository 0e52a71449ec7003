"""hyops itself as read-only layers below every machine: third-party packages (cached) and the current source.

In a machine: `/opt/hyops/site` has the dependencies as locked, `/opt/hyops/app` the source and the catalog, and
`/usr/bin/hyops` starts with exactly these two on its path. All is compiled by the machine's own Python beforehand.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from hyops._version import __version__
from hyops.errors import Effect
from hyops_lab import daemon
from hyops_lab.command import run
from hyops_lab.errors import LabError
from hyops_lab.image import cached

PYTHON = "3.11"  # of Debian bookworm
SITE, APP = "opt/hyops/site", "opt/hyops/app"
INSTALL_TIMEOUT_S = 600.0

LAUNCHER = f"""#!/usr/bin/python3 -IS
import sys
sys.path += ["/{APP}/src", "/{SITE}", "/usr/lib/python3/dist-packages"]
from hyops.__main__ import main
sys.exit(main())
"""


def project_root() -> Path:
    """Return the source checkout that this process runs from."""
    import hyops

    if hyops.__file__ is None:
        raise LabError("the lab needs hyops as a package with files")
    root = Path(hyops.__file__).resolve().parents[2]
    if not (root / "uv.lock").is_file():
        raise LabError(f"the lab installs hyops in its machines from a source checkout; {root} has no uv.lock")
    return root


def dependencies(image: Path, say: Callable[[str], None]) -> Path:
    """Return the layer with the locked third-party packages, compiled, building it if it is not cached."""
    root = project_root()
    digest = hashlib.sha256((root / "uv.lock").read_bytes() + platform.machine().encode() + image.parent.name.encode())
    return cached(f"site-{digest.hexdigest()[:16]}", lambda folder: _install(root, folder, image, say))


def application(folder: Path, image: Path, cgroup: Path) -> None:
    """Fill `folder` with the layer of the current source, catalog and launcher, compiled by a process in `cgroup`."""
    root, app = project_root(), folder / APP
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(root / "src", app / "src", ignore=ignore, symlinks=True)
    shutil.copytree(root / "catalog", app / "catalog", ignore=ignore, symlinks=True)
    described = app / "src" / f"hyops-{__version__}.dist-info" / "METADATA"  # what it needs, for who hands it on
    described.parent.mkdir()
    described.write_text(importlib.metadata.distribution("hyops").read_text("METADATA") or "")
    launcher = folder / "usr/bin/hyops"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    run(daemon.joined(cgroup, _compile(folder, image, APP)), timeout_s=INSTALL_TIMEOUT_S)


def _install(root: Path, folder: Path, image: Path, say: Callable[[str], None]) -> None:
    say("installing the locked dependencies for the machines; this is done once per lock file")
    locked = run(
        [_uv(root), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes",
         "--project", str(root)],
    ).stdout  # fmt: skip
    requirements = folder / "requirements.txt"
    requirements.write_text(locked)
    run(
        [_uv(root), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--python", sys.executable,
         "--python-version", PYTHON, "--python-platform", f"{platform.machine()}-unknown-linux-gnu",
         "--target", str(folder / SITE), "-r", str(requirements)],
        timeout_s=INSTALL_TIMEOUT_S,
    )  # fmt: skip
    run(_compile(folder, image, SITE), timeout_s=INSTALL_TIMEOUT_S)


def _compile(folder: Path, image: Path, path: str) -> list[str]:
    """Return the command that compiles `folder/path` by the image's Python, seen at `/path` as in a machine."""
    script = """
    set -e
    mount -t tmpfs none /mnt
    mkdir /mnt/base
    mount -o loop,ro "$1" /mnt/base
    mount --rbind /dev /mnt/base/dev
    mount --bind "$2/$3" "/mnt/base/$3"
    exec chroot /mnt/base /usr/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "/$3"
    """
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(image), str(folder), path]


def _uv(root: Path) -> str:
    """The uv that runs this program (it names itself in `UV`), that of `tools/setup`, or one of this machine."""
    beside = [root / ".bootstrap/bin/uv", Path(sys.executable).with_name("uv")]
    found = os.environ.get("UV") or next((str(path) for path in beside if path.exists()), shutil.which("uv"))
    if found is None:
        raise LabError("no uv here: run `tools/setup --lab` first", effect=Effect.NONE)
    return found
