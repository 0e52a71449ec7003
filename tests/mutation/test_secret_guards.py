"""Guards around secrets, taken away one by one: without each, a scenario that it defends breaks.

Every scenario passes with all guards in place (that is asserted too), so a mutant that survives means a dead guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.gsm import FakeGsm
from fakes.server import FakeServer, authority_files
from fakes.vault import FakeVault, Policy
from hyops.adapters import authority_gsm, authority_http, authority_vault, sealer_hpke, vault_password
from hyops.adapters import secret_cache_ansible_vault as vault_cache
from hyops.adapters.ansible_vault import encrypt
from hyops.adapters.clock_system import SystemClock
from hyops.engine import encodings, redact
from hyops.errors import HyopsError, PrerequisiteError, SecretsError
from hyops.model import sealed as sealed_model
from hyops.model.secret import Secret
from hyops.ports.authority import Answer, Authority, Refused, Trouble
from hyops.secretsync import plan
from hyops.secretsync.mapping import Row
from hyops.services import secrets as service
from hyops.testing.clock import FakeClock
from hyops.testing.secrets import MemoryAuthority, MemorySecretCache

Patch = pytest.MonkeyPatch
ROWS = [Row("db", key, key.lower()) for key in "ABCD"]
AT = datetime(2026, 3, 14, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Mutant:
    """A guard, a scenario that needs it, and how to remove it."""

    guard: str
    scenario: Callable[[], None]
    remove: Callable[[Patch], None]


def instead(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    """Put something else in a guard's place."""
    return lambda patch: patch.setattr(owner, name, value)


def synced() -> tuple[service.Secrets, MemoryAuthority]:
    """Four keys, here and upstream."""
    secrets, authority = (
        service.Secrets(MemorySecretCache(), FakeClock(AT)),
        MemoryAuthority(a="1", b="2", c="3", d="4"),
    )
    asyncio.run(secrets.sync(authority, ROWS))
    return secrets, authority


def keys_after(secrets: service.Secrets, authority: Authority) -> set[str]:
    """Who is left after one more sync, refused or not."""
    with contextlib.suppress(HyopsError):
        asyncio.run(secrets.sync(authority, ROWS))
    return set(secrets.cache().values())


def emptied_authority() -> None:
    """All secrets are gone at once."""
    secrets, authority = synced()
    authority.values.clear()
    assert keys_after(secrets, authority) == set("ABCD")


def another_authority() -> None:
    """Another Vault, that never had the secret."""
    secrets, authority = synced()
    authority.place = "https://other.example"
    del authority.values["a"]
    assert keys_after(secrets, authority) == set("ABCD")


def quicker_writer() -> None:
    """A person sets a key after the authority gave the older value."""
    secrets, authority = synced()
    turns = iter([lambda: secrets.put("A", Secret("newer")), *[lambda: False] * 5])

    def between() -> None:
        next(turns)()
        authority.values["a"] = "newest"

    authority.before_answer = between
    asyncio.run(secrets.sync(authority, ROWS))
    assert secrets.reveal("A").reveal() == "newest"


def nul_value() -> None:
    """A value with a NUL character."""
    secrets, authority = synced()
    authority.values["a"] = "x\0y"
    with pytest.raises(SecretsError):
        asyncio.run(secrets.sync(authority, ROWS))


def asked(server: FakeServer, make: Callable[[str], Authority], ref: str) -> Answer:
    """One answer over the wire."""
    with server.serve() as url:
        return asyncio.run(make(url).read([ref]))[ref]


def token_file() -> Path:
    """A login."""
    path = Path(tempfile.mkdtemp()) / "token"
    path.write_text("t")
    return path


def wrong_kv_version() -> None:
    """A kv 2 path on a kv 1 mount gets the answer of a missing secret."""
    fake = FakeVault(mounts={"secret": 1}, tokens={"t": Policy(("",))})
    login = authority_vault.TokenLogin(token_file())
    answer = asked(
        fake, lambda url: authority_vault.VaultAuthority(url, login, ca_file=authority_files()[0]), "secret/a#v"
    )
    assert isinstance(answer, Refused)
    assert answer.trouble is Trouble.MISPLACED


def of_google(**faults: bool) -> Answer:
    """One secret of a faulty Secret Manager."""
    fake = FakeGsm(tokens={"t"}, **faults)  # type: ignore[arg-type]
    fake.put("a", b"value")
    login = authority_http.TokenFile(token_file())
    ca = authority_files()[0]
    return asked(fake, lambda url: authority_gsm.GsmAuthority("dr-control", login, SystemClock(), url, ca), "a")


def damaged_value() -> None:
    """A bit was lost on the way."""
    assert isinstance(of_google(damaged=True), Refused)


def too_long_reply() -> None:
    """An answer without an end."""
    fake = FakeGsm(tokens={"t"})
    fake.put("a", b"x" * 2_000_000)
    login = authority_http.TokenFile(token_file())
    ca = authority_files()[0]
    answer = asked(fake, lambda url: authority_gsm.GsmAuthority("dr-control", login, SystemClock(), url, ca), "a")
    assert isinstance(answer, Refused)


def cache_at(folder: Path, **more: Any) -> vault_cache.AnsibleVaultCache:
    """A cache on disk."""
    return vault_cache.AnsibleVaultCache(folder / "cache", lambda: b"pw", **more)


def editor_without_lock() -> None:
    """`ansible-vault edit` saves between our read and our write."""
    folder, turns = Path(tempfile.mkdtemp()), [1]
    cache_at(folder).update(lambda _: b"K=v\n")

    def change(text: bytes) -> bytes:
        if turns:
            turns.pop()
            (folder / "edited").write_bytes(encrypt(b"THEIRS=1\n", b"pw"))
            (folder / "edited").rename(folder / "cache")
        return text + b"OURS=1\n"

    cache_at(folder).update(change)
    assert cache_at(folder).read() == b"THEIRS=1\nOURS=1\n"


def two_writers() -> None:
    """The second must not come in while the first is at work."""
    folder, inside, release = Path(tempfile.mkdtemp()), threading.Event(), threading.Event()

    def slow(_: bytes) -> bytes:
        inside.set()
        release.wait(30)
        return b"K=v\n"

    thread = threading.Thread(target=lambda: cache_at(folder).update(slow))
    thread.start()
    assert inside.wait(30)
    try:
        with pytest.raises(SecretsError):
            cache_at(folder, lock_wait_s=0.01).update(lambda _: b"N=1\n")
    except BaseException as exc:
        raise AssertionError("it came in") from exc
    finally:
        release.set()
        thread.join()


def readable_password() -> None:
    """A password file that others can read."""
    path = Path(tempfile.mkdtemp()) / "pw"
    path.write_text("pw")
    path.chmod(0o644)
    try:
        vault_password.from_file(path)
    except PrerequisiteError:
        return
    raise AssertionError("it was read")


def forged_seal() -> None:
    """Whoever carries a seal makes it last longer."""
    folder = Path(tempfile.mkdtemp())
    key = sealer_hpke.SealKey.create(folder / "key")
    where = {"env": "prod", "runner_ref": "r"}
    made = sealer_hpke.seal({"K": Secret("v")}, sealer_hpke.public_key(key.public), **where, at=AT, valid_s=60)
    forged = made.model_copy(update={"expires_at": AT + timedelta(days=9)})
    try:
        key.open(forged, **where, now=AT + timedelta(days=1))
    except SecretsError:
        return
    raise AssertionError("it opened")


def cut_stream() -> None:
    """A secret that two chunks share."""
    stream = redact.Redactor({"K": "c4nary-in-two"}).stream()
    assert b"nary" not in stream.feed(b"x c4nary") + stream.feed(b"-in-two y") + stream.end()


def overlap() -> None:
    """Two secrets share a middle."""
    assert redact.Redactor({"A": "abcdefgh", "B": "efghijkl"}).text("abcdefghijkl") == "***"


def shifted_base64() -> None:
    """A user name stands before the password."""
    import base64

    text = base64.b64encode(b"u:c4nary-behind-a-colon").decode()
    assert redact.Redactor({"K": "c4nary-behind-a-colon"}).text(text) != text


def escaped_by_bash() -> None:
    """`printf %q` leaves the `#` as it is."""
    assert redact.Redactor({"K": "Pa#ss|w0rd!"}).text(r"Pa#ss\|w0rd\!") == "***"


def one_line_of_a_key() -> None:
    """A log cuts at line ends."""
    shown = redact.Redactor({"K": "first line of it\nsecond line of it"}).text("03:00 second line of it")
    assert "second" not in shown


def no_wait(*_: Any) -> None:
    """Waits for no lock."""


def first_only(raw: bytes) -> Any:
    """Base64 of the value alone."""
    import base64

    yield base64.b64encode(raw)


async def believes(self: Any, client: Any, headers: Any, one: Any, said: Any) -> Refused:
    """Takes every 404 for a missing secret."""
    return Refused(Trouble.MISSING, "")


def whole_only(value: str) -> Any:
    """Looks for the whole value only."""
    yield value.strip()


def each_alone(spans: Any) -> Any:
    """The first of overlapping finds, and the rest of nothing."""
    kept: list[Any] = []
    for start, end in sorted(spans):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


MUTANTS = [
    Mutant("many keys do not go at once", emptied_authority, instead(plan, "too_many", lambda *_: False)),
    Mutant("only its own authority", another_authority, instead(plan, "came_from", lambda *_: True)),
    Mutant("overtaken syncs ask again", quicker_writer, instead(service, "overtaken", lambda *_: False)),
    Mutant("what no environment carries", nul_value, lambda patch: _no_value_check(patch)),
    Mutant("the mount is asked", wrong_kv_version, instead(authority_vault.VaultAuthority, "_missing", believes)),
    Mutant("the checksum", damaged_value, instead(authority_gsm, "crc32c", lambda _: FakeSum())),
    Mutant("bounded replies", too_long_reply, instead(authority_http, "REPLY_BYTES_MAX", 10**9)),
    Mutant("the file is still the same", editor_without_lock, instead(vault_cache, "_identity", lambda _: ())),
    Mutant("one writer at a time", two_writers, instead(vault_cache.AnsibleVaultCache, "_wait_for", no_wait)),
    Mutant(
        "nobody else reads the password", readable_password, instead(vault_password.stat, "S_ISREG", lambda _: False)
    ),
    Mutant("all fields are sealed", forged_seal, instead(sealed_model.Sealed, "bound", lambda _: b"")),
    Mutant("streams hold back", cut_stream, instead(redact.Redactor, "hold_from", lambda self, data: len(data))),
    Mutant("overlaps are merged", overlap, instead(redact, "_merged", each_alone)),
    Mutant("base64 at each alignment", shifted_base64, instead(encodings, "_base64", first_only)),
    Mutant("what bash escapes", escaped_by_bash, instead(encodings, "BASH_SPECIAL", encodings.SHELL_SPECIAL[0])),
    Mutant("line by line", one_line_of_a_key, instead(encodings, "_texts", whole_only)),
]


class FakeSum:
    """A checksum that fits everything."""

    def __str__(self) -> str:
        return Everything("")


class Everything(str):
    """Equal to all."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def _no_value_check(patch: Patch) -> None:
    from hyops.secretsync import document

    patch.setattr(plan, "check_value", lambda *_: None)
    patch.setattr(document, "check_value", lambda *_: None)


@pytest.mark.req("SEC-1", "SEC-2", "SEC-3")
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.guard for mutant in MUTANTS])
def test_a_scenario_needs_its_guard(mutant: Mutant, monkeypatch: Patch, tmp_path: Path) -> None:
    """With the guard the scenario holds; without it, it breaks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mutant.scenario()
    mutant.remove(monkeypatch)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        mutant.scenario()
