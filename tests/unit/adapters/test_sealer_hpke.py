"""Sealed secrets open on one runner, in one environment, for a while, and nowhere else (SEC-3)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyops.adapters.sealer_hpke import SealKey, public_key, seal
from hyops.errors import ConfigError, Effect, PrerequisiteError, RecordError, SecretsError
from hyops.model.sealed import Sealed
from hyops.model.secret import Secret

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
CANARY = "c4nary-sealed"


@pytest.fixture
def key(tmp_path: Path) -> SealKey:
    """A runner's own key."""
    return SealKey.create(tmp_path / "runner" / "seal.pem")


def sealed_to(key: SealKey) -> Sealed:
    """Two secrets for it."""
    values = {"DB_PASSWORD": Secret(CANARY), "API_KEY": Secret("ä\nb")}
    return seal(values, public_key(key.public), env="prod", runner_ref="gcp-ops-runner", at=AT, valid_s=3600)


def opened(key: SealKey, sealed: Sealed, **other: object) -> dict[str, Secret]:
    """Opened where it belongs, or not."""
    where = {"env": "prod", "runner_ref": "gcp-ops-runner", "now": AT + timedelta(minutes=5), **other}
    return key.open(sealed, **where)  # type: ignore[arg-type]


@pytest.mark.req("SEC-3", "INV-10")
def test_the_runner_opens_what_control_carries_and_cannot_read(key: SealKey) -> None:
    """What travels holds names and no value, in no encoding; the runner gets the very values."""
    travels = sealed_to(key).encoded()

    assert CANARY.encode() not in travels
    assert base64.b64encode(CANARY.encode())[:-2] not in travels
    values = opened(key, Sealed.read(travels))
    assert {name: value.reveal() for name, value in values.items()} == {"DB_PASSWORD": CANARY, "API_KEY": "ä\nb"}


@pytest.mark.req("SEC-3")
def test_two_seals_of_one_value_do_not_look_alike(key: SealKey) -> None:
    """Who carries them does not learn that a password stayed the same."""
    assert sealed_to(key).box != sealed_to(key).box


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"env": "dev"}, "environment"),
        ({"runner_ref": "aws-ops-runner"}, "runner"),
        ({"now": AT + timedelta(hours=1)}, "expired"),
        ({"now": AT - timedelta(hours=1)}, "future"),
    ],
)
def test_elsewhere_or_later_they_stay_closed(key: SealKey, other: dict[str, object], why: str) -> None:
    """Another environment, another runner, too late, or a clock that is far behind."""
    with pytest.raises(SecretsError, match=why) as caught:
        opened(key, sealed_to(key), **other)

    assert (caught.value.exit_code, caught.value.effect) == (21, Effect.NONE)


@pytest.mark.req("SEC-3")
def test_another_runners_key_does_not_open_them(key: SealKey, tmp_path: Path) -> None:
    """Neither as it is, nor with the id in the header changed to its own."""
    other, sealed = SealKey.create(tmp_path / "other.pem"), sealed_to(key)
    with pytest.raises(SecretsError, match="key"):
        opened(other, sealed)
    theirs = sealed_to(other).key_id
    with pytest.raises(SecretsError, match="changed on their way"):
        opened(other, sealed.model_copy(update={"key_id": theirs}))


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"env": "dev"},
        lambda s: {"runner_ref": "aws-ops-runner"},
        lambda s: {"expires_at": s.expires_at + timedelta(days=1)},
        lambda s: {"sealed_at": s.sealed_at + timedelta(seconds=1)},
        lambda s: {"keys": ["API_KEY", "OTHER"]},
        lambda s: {"box": s.box[:-8] + "AAAAAAA="},
        lambda s: {"box": s.box[: len(s.box) // 2]},
        lambda s: {"box": ""},
        lambda s: {"box": "***"},
    ],
)
def test_whoever_carries_them_can_change_nothing(key: SealKey, change: Callable[[Sealed], dict[str, object]]) -> None:
    """Each field is bound into the seal: a changed one does not open, even where the check itself would pass."""
    sealed = sealed_to(key)
    forged = sealed.model_copy(update=change(sealed))

    with pytest.raises(SecretsError, match="changed on their way") as caught:
        opened(key, forged, env=forged.env, runner_ref=forged.runner_ref)
    assert CANARY not in repr(caught.value.__dict__)


@pytest.mark.req("SEC-3")
def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    """Made again it is the same; others' rights, a link or another kind of file are refused."""
    path = tmp_path / "seal.pem"
    first = SealKey.create(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert SealKey.create(path).public == first.public
    assert {f.name for f in tmp_path.iterdir()} == {"seal.pem"}
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        SealKey.load(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(PrerequisiteError):
        SealKey.load(tmp_path / "link")


@pytest.mark.parametrize("text", ["", "not a key", base64.b64encode(b"x" * 31).decode()])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    """Public or private."""
    with pytest.raises(ConfigError):
        public_key(text)
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError):
        SealKey.load(tmp_path / "key")


def test_another_kind_of_private_key_is_refused(tmp_path: Path) -> None:
    """The runner's signing key is not its seal key."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer

    Ed25519Signer.create(tmp_path / "sign.pem")
    with pytest.raises(ConfigError, match="not an X25519 key"):
        SealKey.load(tmp_path / "sign.pem")


def test_a_sealed_file_with_an_unknown_key_is_refused(key: SealKey) -> None:
    """Strict like every record."""
    with pytest.raises(RecordError):
        Sealed.read(sealed_to(key).encoded().replace(b'"env"', b'"extra":1,"env"'))
