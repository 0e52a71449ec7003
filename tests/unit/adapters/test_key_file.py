"""Private key files: one rule for every kind of key, and a refusal that names the file and its mend."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hyops.adapters import key_file
from hyops.adapters.sealer_hpke import SealKey
from hyops.adapters.signer_ed25519 import Ed25519Signer
from hyops.errors import ConfigError, HyopsError, PrerequisiteError

pytestmark = [pytest.mark.req("LOOP-2", "SEC-3", "INV-10")]
KINDS = [pytest.param(Ed25519Signer, id="signer"), pytest.param(SealKey, id="sealer")]
UNBLOCK_S = 5.0  # how long a load that waits for a pipe's other end is given before it is let go


def refusal(load: Callable[[], Any]) -> HyopsError:
    """What a load raises; one that waits for somebody is a failure."""
    raised: list[HyopsError] = []

    def run() -> None:
        try:
            load()
        except HyopsError as exc:
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(UNBLOCK_S)
    assert not thread.is_alive(), "the load waits"
    assert raised, "the key was taken"
    return raised[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_key_of_its_owner_alone_is_loaded(tmp_path: Path, kind: Any, mode: int) -> None:
    """Whatever its owner may do with it."""
    made = kind.create(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)

    assert kind.load(tmp_path / "key.pem").public == made.public


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_key_with_any_right_for_others_is_refused(tmp_path: Path, kind: Any, bit: int) -> None:
    """Group or world; read, write or execute: each alone is enough, and the hint is the command that mends it."""
    path = tmp_path / "key.pem"
    kind.create(path)
    path.chmod(0o600 | bit)

    found = refusal(lambda: kind.load(path))
    assert isinstance(found, ConfigError)
    assert "others may read or change it" in str(found)
    assert found.hint == f"chmod 600 {path}"


def acl(*entries: tuple[int, int, int], group: int = 0, other: int = 0, mask: int = 4) -> bytes:
    """An access ACL as the kernel keeps it; an entry is a tag (2 user, 8 group), its rights and its id."""
    none = 0xFFFFFFFF
    rows = [(1, 4, none), *entries, (4, group, none), (16, mask, none), (32, other, none)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in sorted(rows))


def with_acl(path: Path, data: bytes) -> None:
    """Set it, or skip where this file system has none."""
    try:
        os.setxattr(path, "system.posix_acl_access", data)
    except OSError as exc:
        pytest.skip(f"no ACLs in {path.parent}: {exc.strerror}")


OURS, OTHERS = os.geteuid(), 54321


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entries", [[(2, 4, OURS)], [(2, 4, OURS), (2, 4, 0)], [(2, 6, OURS)]], ids=str)
def test_a_key_that_an_acl_gives_to_us_alone_is_loaded(
    tmp_path: Path, kind: Any, entries: list[tuple[int, int, int]]
) -> None:
    """As systemd hands a credential over: it shows as 0440, and no group may read it."""
    made = kind.create(tmp_path / "key.pem")
    with_acl(tmp_path / "key.pem", acl(*dict.fromkeys(entries), mask=entries[0][1]))

    assert (tmp_path / "key.pem").stat().st_mode & 0o070
    assert kind.load(tmp_path / "key.pem").public == made.public


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(acl((2, 4, OURS), (2, 4, OTHERS)), id="another user"),
        pytest.param(acl((2, 4, OURS), (2, 0, OTHERS)), id="another user, later"),
        pytest.param(acl((2, 4, OURS), (8, 4, OTHERS)), id="a group"),
        pytest.param(acl((2, 4, OURS), (8, 4, 0)), id="root's group"),
        pytest.param(acl((2, 4, OURS), group=4), id="the file's group"),
        pytest.param(acl((2, 4, OURS), group=2, mask=4), id="the file's group, masked"),
        pytest.param(acl((2, 4, OURS), other=4), id="the world"),
    ],
)
def test_a_key_that_an_acl_gives_to_anybody_else_is_refused(tmp_path: Path, kind: Any, data: bytes) -> None:
    """Each entry that is not for us or root is enough, also one that the mask closes today."""
    kind.create(tmp_path / "key.pem")
    with_acl(tmp_path / "key.pem", data)

    assert "others may read or change it" in str(refusal(lambda: kind.load(tmp_path / "key.pem")))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away, which only root can")
def test_a_key_of_somebody_else_with_an_acl_for_us_is_refused(tmp_path: Path) -> None:
    """Its owner may change it whenever he likes."""
    Ed25519Signer.create(tmp_path / "key.pem")
    with_acl(tmp_path / "key.pem", acl((2, 4, OURS)))
    os.chown(tmp_path / "key.pem", OTHERS, 0)

    assert "others may read or change it" in str(refusal(lambda: Ed25519Signer.load(tmp_path / "key.pem")))


@pytest.mark.parametrize(
    "data", [b"", b"\2\0\0", b"\2\0\0\0", acl((2, 4, OURS))[:-1], b"\3\0\0\0" + acl((2, 4, OURS))[4:]], ids=repr
)
def test_an_acl_that_cannot_be_read_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """Empty, torn, or of a version that nobody knows: the group's rights count as they show."""
    Ed25519Signer.create(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o440)
    monkeypatch.setattr(os, "getxattr", lambda *_: data)

    assert "others may read or change it" in str(refusal(lambda: Ed25519Signer.load(tmp_path / "key.pem")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_in_place_of_a_key_is_refused_and_not_waited_for(tmp_path: Path, kind: Any) -> None:
    """Nobody writes into it: a daemon that waited would hang at its start, without a word."""
    os.mkfifo(tmp_path / "key.pem", 0o600)

    found = refusal(lambda: kind.load(tmp_path / "key.pem"))
    assert isinstance(found, ConfigError)
    assert "not a file" in str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_place_of_a_key_is_refused(tmp_path: Path, kind: Any) -> None:
    """Also one that its owner alone may enter."""
    (tmp_path / "key.pem").mkdir(mode=0o700)

    found = refusal(lambda: kind.load(tmp_path / "key.pem"))
    assert isinstance(found, ConfigError)
    assert "not a file" in str(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["real.pem", "nowhere.pem"])
def test_a_link_is_not_followed(tmp_path: Path, kind: Any, target: str) -> None:
    """Who may change the link would choose the key; a good key behind it changes nothing."""
    kind.create(tmp_path / "real.pem")
    (tmp_path / "key.pem").symlink_to(target)

    found = refusal(lambda: kind.load(tmp_path / "key.pem"))
    assert isinstance(found, PrerequisiteError)
    assert "a link" in str(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "empty"),
        (b"key", "not an unencrypted PKCS8 PEM key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not an unencrypted PKCS8 PEM key"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, kind: Any, text: bytes, why: str) -> None:
    """Empty, another text, a torn key: each by its name."""
    path = tmp_path / "key.pem"
    path.write_bytes(text)
    path.chmod(0o600)

    found = refusal(lambda: kind.load(path))
    assert isinstance(found, ConfigError)
    assert str(found).startswith(f"key {path}: {why}")


@pytest.mark.parametrize("kind", KINDS)
def test_an_encrypted_key_is_refused(tmp_path: Path, kind: Any) -> None:
    """A daemon has nobody to ask for a pass phrase."""
    path = tmp_path / "key.pem"
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    path.chmod(0o600)

    assert "not an unencrypted" in str(refusal(lambda: kind.load(path)))


@pytest.mark.parametrize(
    ("made", "loaded", "why"),
    [(Ed25519Signer, SealKey, "not an X25519 key"), (SealKey, Ed25519Signer, "not an Ed25519 key")],
)
def test_a_key_of_another_kind_is_refused(tmp_path: Path, made: Any, loaded: Any, why: str) -> None:
    """A runner's signing key does not open its seals, and its seal key signs nothing."""
    made.create(tmp_path / "key.pem")

    assert why in str(refusal(lambda: loaded.load(tmp_path / "key.pem")))


@pytest.mark.parametrize(("kind", "hint"), [(Ed25519Signer, "openssl genpkey"), (SealKey, "hyops secrets seal-key")])
def test_a_missing_key_is_refused_with_how_to_make_one(tmp_path: Path, kind: Any, hint: str) -> None:
    """Also below a folder that is not there, or that is a file."""
    (tmp_path / "file").touch()

    for path, why in {"key.pem": "missing", "no/key.pem": "missing", "file/key.pem": "Not a directory"}.items():
        found = refusal(partial(kind.load, tmp_path / path))
        assert isinstance(found, PrerequisiteError)
        assert why in str(found)
        assert hint in (found.hint or "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_cannot_be_made_is_said(tmp_path: Path, kind: Any) -> None:
    """A file where its folder should be; nothing is left behind."""
    (tmp_path / "file").touch()

    assert "key " in str(refusal(lambda: kind.create(tmp_path / "file" / "key.pem")))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_key_is_made_over_no_other(tmp_path: Path) -> None:
    """The second to make one gets the first one's; nothing lies beside it."""
    first = Ed25519PrivateKey.generate()
    key_file.create(tmp_path / "key.pem", first)
    key_file.create(tmp_path / "key.pem", Ed25519PrivateKey.generate())

    kept = key_file.load(tmp_path / "key.pem", Ed25519PrivateKey, "")
    assert kept.public_key().public_bytes_raw() == first.public_key().public_bytes_raw()
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]
