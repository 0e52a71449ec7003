"""Stage keys: files that only their owner reads, and trust that is written down (LOOP-2)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedKeys, TrustedVerifier
from hyops.errors import ConfigError, RecordError


@pytest.mark.req("LOOP-2")
def test_a_key_signs_and_its_public_part_verifies(tmp_path: Path) -> None:
    """Made once with mode 0600, loaded again as the same key, trusted with its roles."""
    key = Ed25519Signer.create(tmp_path / "keys" / "stage.pem")
    again = Ed25519Signer.create(tmp_path / "keys" / "stage.pem")
    verifier = TrustedVerifier(TrustedKeys(keys=[key.trusted("decision", "runner:cloud-runner")]))

    verifier.verify(key.keyid, b"x", again.sign(b"x"))
    assert verifier.roles(key.keyid) == {"decision", "runner:cloud-runner"}
    assert stat.S_IMODE((tmp_path / "keys" / "stage.pem").stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / "keys").iterdir()] == ["stage.pem"]


@pytest.mark.req("LOOP-2", "INV-4")
def test_other_bytes_and_other_keys_do_not_verify() -> None:
    """One byte changed; a key nobody listed, which also has no role."""
    key, stranger = Ed25519Signer.generate(), Ed25519Signer.generate()
    verifier = TrustedVerifier(TrustedKeys(keys=[key.trusted("decision")]))

    with pytest.raises(RecordError):
        verifier.verify(key.keyid, b"y", key.sign(b"x"))
    with pytest.raises(RecordError):
        verifier.verify(stranger.keyid, b"x", stranger.sign(b"x"))
    assert verifier.roles(stranger.keyid) == frozenset()


@pytest.mark.req("LOOP-2")
def test_a_trusted_keys_file_is_read_strictly() -> None:
    """A key twice, a role nobody has, no base64: refused."""
    entry = Ed25519Signer.generate().trusted("decision").body()
    for keys in ([entry, entry], [{**entry, "roles": ["root"]}], [{**entry, "public": "!"}]):
        with pytest.raises(ConfigError):
            TrustedVerifier(TrustedKeys.of({"keys": keys}))
