"""Tokens lie in one private file of the root; others' tokens are kept, and what others could read is refused."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from hyops.adapters.tfrc_file import TfrcFile
from hyops.errors import ConfigError, HyopsError, PrerequisiteError, RecordError

TOKEN = "canary0token.atlasv1.5f1c"


@pytest.mark.req("RUN-10", "SEC-2")
def test_a_token_is_stored_privately_in_terraforms_format(tmp_path: Path) -> None:
    """0600 in 0700, whatever the umask; read back; the same shape that `terraform login` writes."""
    before = os.umask(0)
    try:
        kept = TfrcFile(tmp_path / "root")
        kept.store("APP.terraform.io", TOKEN)
    finally:
        os.umask(before)

    assert kept.path == tmp_path / "root" / "credentials" / "credentials.tfrc.json"
    assert (kept.path.stat().st_mode & 0o777, kept.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(kept.path.read_text()) == {"credentials": {"app.terraform.io": {"token": TOKEN}}}
    assert kept.read().credentials["app.terraform.io"].token == TOKEN
    assert os.listdir(kept.path.parent) == [kept.path.name]


@pytest.mark.req("RUN-10", "SEC-2")
def test_other_hosts_are_kept_and_writers_lose_nothing(tmp_path: Path) -> None:
    """Many writers at once, each with a host of its own; then one token is replaced."""
    hosts = [f"tfe-{number}.example.org" for number in range(8)]
    together = threading.Barrier(len(hosts))

    def write(host: str) -> None:
        together.wait(10)
        TfrcFile(tmp_path).store(host, f"{TOKEN}-{host}")

    threads = [threading.Thread(target=write, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    TfrcFile(tmp_path).store(hosts[0], "replaced0token")

    tokens = {host: entry.token for host, entry in TfrcFile(tmp_path).read().credentials.items()}
    assert tokens == {host: f"{TOKEN}-{host}" for host in hosts} | {hosts[0]: "replaced0token"}


@pytest.mark.req("SEC-2", "INV-10")
def test_what_others_could_read_or_planted_is_refused(tmp_path: Path) -> None:
    """An open file, an open folder, a link: neither read nor written through."""
    kept = TfrcFile(tmp_path)
    kept.store("app.terraform.io", TOKEN)
    kept.path.chmod(0o640)
    with pytest.raises(ConfigError, match="640"):
        kept.read()
    kept.path.chmod(0o600)
    kept.path.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="755"):
        kept.store("app.terraform.io", TOKEN)
    kept.path.parent.chmod(0o700)
    kept.path.rename(tmp_path / "elsewhere")
    kept.path.symlink_to(tmp_path / "elsewhere")
    for call in (kept.read, lambda: kept.store("app.terraform.io", "other0token")):
        with pytest.raises(ConfigError, match="link"):
            call()
    assert TOKEN in (tmp_path / "elsewhere").read_text()


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"credentials": {"app.terraform.io": "canary0token"}}', b"\xff"]
)
def test_a_damaged_file_is_neither_read_nor_written_over(tmp_path: Path, content: bytes) -> None:
    """It is left as it is, named, and not quoted."""
    kept = TfrcFile(tmp_path)
    kept.store("app.terraform.io", TOKEN)
    kept.path.write_bytes(content)
    for call in (kept.read, lambda: kept.store("app.terraform.io", TOKEN)):
        with pytest.raises(RecordError) as caught:
            call()
        assert str(kept.path) in caught.value.message
        assert "canary" not in str(caught.value.as_json()).replace(str(kept.path), "")
    assert kept.path.read_bytes() == content


@pytest.mark.req("UX-1")
def test_no_room_for_the_file_is_a_refusal(tmp_path: Path) -> None:
    """A root that cannot be made; nothing stored: nothing known."""
    (tmp_path / "root").write_text("a file")

    with pytest.raises(PrerequisiteError):
        TfrcFile(tmp_path / "root").store("app.terraform.io", TOKEN)
    with pytest.raises(HyopsError):
        TfrcFile(tmp_path / "root").read()
    assert TfrcFile(tmp_path / "other").read().credentials == {}
