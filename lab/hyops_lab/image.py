"""The root file system that all machines share: one squashfs, built once by mmdebstrap and cached by its recipe.

The recipe is the package list and the hooks below; its hash names the cache folder. A build happens under a lock, in a
folder of its own that is renamed when complete, so a build that is killed costs time and nothing else.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyops_lab.command import run
from hyops_lab.errors import LabError

SUITE = "bookworm"
MIRROR, MIRROR_SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BUILD_TIMEOUT_S = 1800.0

_PACKAGES = """
systemd systemd-sysv udev kmod dbus openssh-server openssh-client iproute2 iputils-ping nftables python3-nftables
libnftables1 python3 sudo ca-certificates procps netbase curl jq dnsutils rsync faketime
postgresql-15 postgresql-client-15 etcd-server etcd-client pdns-server pdns-backend-sqlite3 sqlite3
prometheus prometheus-blackbox-exporter prometheus-postgres-exporter
"""
PACKAGES = _PACKAGES.split()

# Debian starts a package's service at the next boot; here a role enables what it needs and nothing else runs
_DISABLED = """
postgresql.service etcd.service pdns.service prometheus.service prometheus-blackbox-exporter.service
prometheus-postgres-exporter.service nftables.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service systemd-networkd.service
systemd-resolved.service systemd-pstore.service getty@tty1.service rsync.service man-db.timer
"""
DISABLED = _DISABLED.split()
MASKED = ["console-getty.service", "getty.target", "systemd-random-seed.service"]

EXCLUDED = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*"]
INCLUDED = ["/usr/share/doc/*/copyright", "/usr/share/doc/pdns-backend-sqlite3/*"]

NO_CLUSTER = """
mkdir -p "$1/etc/postgresql-common"
printf 'create_main_cluster = false\\nadd_include_dir = conf.d\\n' > "$1/etc/postgresql-common/createcluster.conf"
"""

# One cluster for all labs and both sides: same system identifier, so a standby is a copy of it plus a signal file.
# Slots for both directions hold no WAL until first used. Passwords are set per lab, before the first boot.
CLUSTER_SQL = """
CREATE ROLE app LOGIN;
CREATE ROLE replicator LOGIN REPLICATION;
CREATE ROLE hyops LOGIN;
GRANT pg_monitor TO hyops;
GRANT pg_checkpoint TO hyops, replicator;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO replicator;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
SELECT pg_create_physical_replication_slot('onprem_db'), pg_create_physical_replication_slot('cloud_db');
CREATE DATABASE app OWNER app;
\\c app
SET ROLE app;
CREATE TABLE ledger (id bigint PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT now(), via text);
CREATE TABLE hyops_probe (probe_id text NOT NULL, generation int NOT NULL, at timestamptz NOT NULL DEFAULT now());
GRANT INSERT, SELECT, DELETE ON hyops_probe TO hyops;
GRANT SELECT ON ledger TO hyops;
"""

CUSTOMIZE = f"""
set -e
systemctl --root="$1" disable {" ".join(DISABLED)} 2>/dev/null || true
systemctl --root="$1" mask {" ".join(MASKED)} >/dev/null 2>&1
rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/machine-id" "$1/etc/hostname" "$1/etc/resolv.conf"
mkdir -p "$1/opt/hyops/app" "$1/opt/hyops/site"
chroot "$1" pg_createcluster 15 main --start-conf manual --locale C.UTF-8 -- --data-checksums --auth-local peer
chroot "$1" su postgres -c '/usr/lib/postgresql/15/bin/pg_ctl -w -D /var/lib/postgresql/15/main start \\
  -o "-c config_file=/etc/postgresql/15/main/postgresql.conf -c listen_addresses= -c unix_socket_directories=/tmp \\
  -c wal_level=replica -c max_replication_slots=10 -c logging_collector=off" >/dev/null'
chroot "$1" su postgres -c 'psql -q -v ON_ERROR_STOP=1 -h /tmp' > /dev/null <<'SQL'
{CLUSTER_SQL}
SQL
chroot "$1" su postgres -c '/usr/lib/postgresql/15/bin/pg_ctl -w -D /var/lib/postgresql/15/main stop >/dev/null'
rm -rf "$1"/var/lib/etcd/* "$1"/var/log/postgresql/* "$1"/tmp/* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*
"""


def cache_root() -> Path:
    """Where images and dependency layers are kept between labs; `HYOPS_LAB_CACHE` overrides."""
    return Path(os.environ.get("HYOPS_LAB_CACHE", "/var/cache/hyops-lab"))


def ensure(say: Callable[[str], None]) -> Path:
    """Return the squashfs of the current recipe, building it first if it is not cached."""
    recipe = [SUITE, platform.machine(), *PACKAGES, *DISABLED, *MASKED, *EXCLUDED, *INCLUDED, NO_CLUSTER, CUSTOMIZE]
    key = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    folder = cached(f"image-{key}", lambda path: _build(path, say))
    return folder / "root.squashfs"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cache folder `name`, filled by `build` if absent: one builder at a time, renamed when complete."""
    final = cache_root() / name
    if final.is_dir():
        return final
    cache_root().mkdir(parents=True, exist_ok=True)
    with _locked(cache_root() / f"{name}.lock"):
        if final.is_dir():
            return final
        for leftover in cache_root().glob(f"{name}.build-*"):
            run(["rm", "-rf", "--one-file-system", str(leftover)])
        partial = Path(tempfile.mkdtemp(prefix=f"{name}.build-", dir=cache_root()))
        partial.chmod(0o755)
        build(partial)
        partial.rename(final)
    return final


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, say: Callable[[str], None]) -> None:
    """Fill `folder` with `root.squashfs`; the tree and the sources file are removed again."""
    if not KEYRING.exists():
        raise LabError(f"{KEYRING} is missing: install debian-archive-keyring")
    say(f"building the machine image ({len(PACKAGES)} packages of Debian {SUITE}); this is done once")
    sources, tree = folder / "sources.list", folder / "tree"
    sources.write_text(debian_sources())
    run(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--keyring={KEYRING}",
            "--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"5\"",
            "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
            *(f"--dpkgopt=path-include={pattern}" for pattern in INCLUDED),
            f"--include={','.join(PACKAGES)}",
            f"--essential-hook={NO_CLUSTER}", f"--customize-hook={CUSTOMIZE}",
            SUITE, str(tree), str(sources),
        ],
        timeout_s=BUILD_TIMEOUT_S,
    )  # fmt: skip
    say("packing the machine image")
    run(
        ["mksquashfs", str(tree), str(folder / "root.squashfs"), "-comp", "zstd", "-Xcompression-level", "3",
         "-noappend", "-quiet", "-no-progress"],
        timeout_s=BUILD_TIMEOUT_S,
    )  # fmt: skip
    sources.unlink()
    shutil.rmtree(tree)


def debian_sources(etc_apt: Path = Path("/etc/apt")) -> str:
    """Sources for the image: the host's own Debian mirrors when it has some, the public ones otherwise."""
    main, security = MIRROR, MIRROR_SECURITY
    for uri in _mirrors(etc_apt):
        if uri.endswith("/debian"):
            main = uri
        elif uri.endswith("/debian-security"):
            security = uri
    return (
        f"deb [signed-by={KEYRING}] {main} {SUITE} main\n"
        f"deb [signed-by={KEYRING}] {main} {SUITE}-updates main\n"
        f"deb [signed-by={KEYRING}] {security} {SUITE}-security main\n"
    )


def _mirrors(etc_apt: Path) -> Iterator[str]:
    """Yield addresses whose entry has the component `main` and no signer but Debian: others also end in `/debian`."""
    for file in sorted([*etc_apt.glob("sources.list"), *etc_apt.glob("sources.list.d/*")]):
        lines = [line for line in file.read_text(errors="replace").splitlines() if not line.lstrip().startswith("#")]
        if file.suffix == ".sources":
            for stanza in "\n".join(lines).split("\n\n"):
                fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
                if "main" in fields.get("Components", "").split() and _is_debian(fields.get("Signed-By", "")):
                    yield from (uri.rstrip("/") for uri in re.findall(r"https?://\S+", fields.get("URIs", "")))
        elif file.suffix == ".list":
            for line in lines:
                found = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(https?://\S+)\s+\S+\s+(.*)", line)
                if found and "main" in found[3].split() and _is_debian(found[1] or ""):
                    yield found[2].rstrip("/")


def _is_debian(options: str) -> bool:
    signer = re.search(r"/\S+", options)
    return signer is None or "debian-archive" in signer[0]
