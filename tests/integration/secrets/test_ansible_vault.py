"""The vault cache against the real `ansible-vault`, kills at every boundary, and writers at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hyops.adapters.ansible_vault import VaultFormatError, WrongPasswordError, decrypt, encrypt
from hyops.adapters.secret_cache_ansible_vault import AnsibleVaultCache
from hyops.errors import Effect, PrerequisiteError, SecretsError

PASSWORD = b"a password of its own"
TEXTS = [b"", b"K=v\n", b"x" * 15, b"x" * 16, b"x" * 4096, "K='ä\nb'\n".encode()]
ANSIBLE_VAULT = Path(sys.executable).with_name("ansible-vault")
BOUNDARIES = ["locked", "changed", "half-written", "written", "renamed"]


def ansible_vault(folder: Path, *words: str, data: bytes = b"") -> bytes:
    """Run the real one, with the password from a file."""
    (folder / "password").write_bytes(PASSWORD + b"\n")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "LC_ALL": "C.UTF-8",
    }
    command = [str(ANSIBLE_VAULT), *words, "--vault-password-file", str(folder / "password")]
    return subprocess.run(command, input=data, capture_output=True, env=env, check=True).stdout


def cache_at(path: Path, **more: object) -> AnsibleVaultCache:
    """The cache, with its password."""
    return AnsibleVaultCache(path, lambda: PASSWORD, **more)  # type: ignore[arg-type]


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("text", TEXTS[1:])
def test_ansible_reads_what_we_write(tmp_path: Path, text: bytes) -> None:
    """`ansible-vault view` prints the very text."""
    (tmp_path / "vault").write_bytes(encrypt(text, PASSWORD))

    assert ansible_vault(tmp_path, "view", str(tmp_path / "vault")).rstrip(b"\n") == text.rstrip(b"\n")


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("label", [[], ["--encrypt-vault-id", "dev"]])
def test_we_read_what_ansible_writes(tmp_path: Path, label: list[str]) -> None:
    """Both header versions, with and without a vault id."""
    for text in TEXTS[1:]:
        (tmp_path / "plain").write_bytes(text)
        if label:
            (tmp_path / "password").write_bytes(PASSWORD)
            words = ["--vault-id", f"dev@{tmp_path}/password", *label]
        else:
            words = []
        ansible_vault(tmp_path, "encrypt", str(tmp_path / "plain"), *words)
        data = (tmp_path / "plain").read_bytes()

        assert data.startswith(b"$ANSIBLE_VAULT;1.2;AES256;dev" if label else b"$ANSIBLE_VAULT;1.1;AES256")
        assert decrypt(data, PASSWORD) == text


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: b"",
        lambda d: b"K=v\n",
        lambda d: d[: len(d) // 2],
        lambda d: d.replace(b"AES256", b"AES"),
        lambda d: d.replace(b";1.1;", b";2.0;"),
        lambda d: d[:-3] + b"zz\n",
        lambda d: d.split(b"\n")[0] + b"\n",
    ],
)
def test_a_damaged_file_is_an_error_and_stays(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    """Cut, foreign or changed: exit 21, nothing was changed, and the file is left for a look."""
    path = tmp_path / "vault"
    path.write_bytes(spoiled := spoil(encrypt(b"K=v\n", PASSWORD)))

    for act in (cache_at(path).read, lambda: cache_at(path).update(lambda text: text + b"N=1\n")):
        with pytest.raises(SecretsError) as caught:
            act()
        assert (caught.value.exit_code, caught.value.effect) == (21, Effect.NONE)
    assert path.read_bytes() == spoiled


@pytest.mark.req("SEC-1")
def test_a_changed_byte_or_another_password_does_not_open_it() -> None:
    """The seal covers every byte of the cipher text and needs the right password."""
    data = bytearray(encrypt(b"K=v\n" * 50, PASSWORD))
    with pytest.raises(WrongPasswordError):
        decrypt(bytes(data), b"another")
    data[-10] ^= 1
    with pytest.raises((WrongPasswordError, VaultFormatError)):
        decrypt(bytes(data), PASSWORD)


def test_the_wrong_password_says_so_and_changes_nothing(tmp_path: Path) -> None:
    """A sync with the wrong password does not start a second cache over the first."""
    path = tmp_path / "vault"
    cache_at(path).update(lambda _: b"K=v\n")
    before = path.read_bytes()

    with pytest.raises(SecretsError, match="does not open it"):
        AnsibleVaultCache(path, lambda: b"another").update(lambda _: b"N=1\n")
    assert path.read_bytes() == before


@pytest.mark.req("SEC-2", "ROOT-5")
@pytest.mark.fault(21)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_writer_killed_at_any_boundary_leaves_one_whole_document(tmp_path: Path, boundary: str) -> None:
    """Old or new, never torn; nothing in the clear on disk; the next writer is not kept waiting."""
    path = tmp_path / "vault" / "cache"
    cache_at(path).update(lambda _: b"K=old-c4nary\n")
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from hyops.adapters.secret_cache_ansible_vault import AnsibleVaultCache\n"
        f"die = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == {boundary!r} else None\n"
        f"cache = AnsibleVaultCache(Path({str(path)!r}), lambda: {PASSWORD!r}, at_boundary=die)\n"
        "cache.update(lambda text: b'K=new-c4nary\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)

    assert done.returncode == -signal.SIGKILL
    assert cache_at(path).read() == (b"K=new-c4nary\n" if boundary == "renamed" else b"K=old-c4nary\n")
    assert not [f for f in path.parent.iterdir() if b"c4nary" in f.read_bytes()]
    cache_at(path, lock_wait_s=1.0).update(lambda text: text + b"N=1\n")
    assert cache_at(path).read().endswith(b"N=1\n")
    assert {f.name for f in path.parent.iterdir()} == {"cache", ".cache.lock"}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.req("SEC-2", "ROOT-5")
def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Two processes and two threads add keys of their own to one cache: all of them are there."""
    path = tmp_path / "cache"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hyops.adapters.secret_cache_ansible_vault import AnsibleVaultCache\n"
        f"cache = AnsibleVaultCache(Path({str(path)!r}), lambda: {PASSWORD!r})\n"
        "sys.stdin.readline()\n"
        "for n in range(10):\n"
        "    cache.update(lambda text: text + f'{sys.argv[1]}{n}=v\\n'.encode())\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, name], stdin=subprocess.PIPE) for name in ("A", "B")]

    def add(name: str) -> None:
        for n in range(10):
            cache_at(path).update(lambda text, n=n: text + f"{name}{n}=v\n".encode())  # type: ignore[misc]

    threads = [threading.Thread(target=add, args=(name,)) for name in ("C", "D")]
    for other in others:
        assert other.stdin is not None
        other.stdin.write(b"go\n")
        other.stdin.close()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [other.wait() for other in others] == [0, 0]
    assert sorted(cache_at(path).read().decode().split()) == sorted(f"{k}{n}=v" for k in "ABCD" for n in range(10))


@pytest.mark.req("SEC-2", "ROOT-5")
def test_an_editor_that_knows_no_lock_is_not_overwritten(tmp_path: Path) -> None:
    """Somebody saved with `ansible-vault edit` while we made our change: ours is made again on theirs."""
    path, turns = tmp_path / "cache", []
    cache_at(path).update(lambda _: b"K=v\n")

    def change(text: bytes) -> bytes:
        turns.append(text)
        if len(turns) == 1:
            (tmp_path / "edited").write_bytes(encrypt(b"K=v\nTHEIRS=1\n", PASSWORD))
            (tmp_path / "edited").rename(path)
        return text + b"OURS=1\n"

    cache_at(path).update(change)

    assert cache_at(path).read() == b"K=v\nTHEIRS=1\nOURS=1\n"
    assert len(turns) == 2


def test_an_editor_that_never_ends_is_an_error(tmp_path: Path) -> None:
    """The number of attempts has a limit, and theirs stands."""
    path = tmp_path / "cache"

    def change(text: bytes) -> bytes:
        (tmp_path / "edited").write_bytes(encrypt(b"THEIRS=1\n", PASSWORD))
        (tmp_path / "edited").rename(path)
        return text + b"OURS=1\n"

    with pytest.raises(SecretsError, match="keeps writing"):
        cache_at(path).update(change)
    assert cache_at(path).read() == b"THEIRS=1\n"


def test_a_writer_that_hangs_does_not_hang_the_others_for_ever(tmp_path: Path) -> None:
    """The wait for the lock has a limit, and the error says what to do."""
    path = tmp_path / "cache"
    entered, release = threading.Event(), threading.Event()

    def change(text: bytes) -> bytes:
        entered.set()
        release.wait(30)
        return b"K=v\n"

    thread = threading.Thread(target=lambda: cache_at(path).update(change))
    thread.start()
    assert entered.wait(30)
    with pytest.raises(SecretsError, match="another writer") as caught:
        cache_at(path, lock_wait_s=0.05).update(lambda text: text + b"N=1\n")
    release.set()
    thread.join()

    assert caught.value.effect is Effect.NONE
    assert cache_at(path).read() == b"K=v\n"


def test_what_a_change_raises_leaves_all_as_it_was(tmp_path: Path) -> None:
    """A refused merge writes nothing and lets the next writer in."""
    path = tmp_path / "cache"
    cache_at(path).update(lambda _: b"K=v\n")
    before = path.read_bytes()

    def refuse(text: bytes) -> bytes:
        raise SecretsError("no")

    with pytest.raises(SecretsError, match="no"):
        cache_at(path).update(refuse)
    assert path.read_bytes() == before
    cache_at(path, lock_wait_s=0.0).update(lambda text: text)
    assert path.read_bytes() == before  # nothing to change: nothing is written


def test_a_cache_in_a_folder_where_others_write_is_refused(tmp_path: Path) -> None:
    """Somebody else could put another cache, or a link, in its place."""
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault").chmod(0o777)

    with pytest.raises(PrerequisiteError, match="others can write"):
        cache_at(tmp_path / "vault" / "cache").update(lambda _: b"K=v\n")


def test_a_link_or_a_pipe_is_not_a_cache(tmp_path: Path) -> None:
    """A link is not followed and a pipe does not hang the reader."""
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")

    for name in ("link", "pipe"):
        with pytest.raises(PrerequisiteError):
            cache_at(tmp_path / name).read()


def test_a_full_disk_leaves_the_old_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the partial file: an error, the old document, no left-over."""
    path = tmp_path / "cache"
    cache_at(path).update(lambda _: b"K=v\n")

    def full(name: str) -> None:
        if name == "half-written":
            raise OSError(28, "No space left on device")

    with pytest.raises(PrerequisiteError, match="No space left"):
        cache_at(path, at_boundary=full).update(lambda _: b"K=w\n")
    assert cache_at(path).read() == b"K=v\n"
    assert {f.name for f in tmp_path.iterdir()} == {"cache", ".cache.lock"}


def test_the_real_ansible_vault_is_there() -> None:
    """The comparison with the real tool is never skipped in silence."""
    assert shutil.which(str(ANSIBLE_VAULT))
