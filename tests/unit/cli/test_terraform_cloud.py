"""`hyops init terraform-cloud` and `hyops tfc` against a server, with canaries in place of tokens."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyops import compose_operator
from hyops.adapters.tfc_http import TfcApi
from hyops.adapters.tfrc_file import TfrcFile
from hyops.cli.main import main
from hyops.testing.tfc import ORGANIZATION
from tfc_server import TOKEN, TfcServer

Run = Callable[..., tuple[int, str, str]]
HOST = "app.terraform.io"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TfcServer]:
    """A server that the commands take for the host, whatever its name; `asked` notes the names."""
    made = TfcServer(2)
    with made.serve() as url:
        monkeypatch.setattr(compose_operator, "terraform_cloud", lambda host, token, ca_file: TfcApi(url, token))
        yield made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """One command on a root of its own: exit code, stdout, stderr. The canary is in neither."""
    for name in ("HYOPS_ENV", "HYOPS_RUNTIME_ROOT", "TF_CLOUD_ORGANIZATION"):
        monkeypatch.delenv(name, raising=False)

    def called(*words: object, root: Path | None = tmp_path / "root") -> tuple[int, str, str]:
        where = [] if root is None else ["--root", str(root)]
        code = main([*(str(word) for word in words), *where])
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return code, said.out, said.err

    return called


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """The good token in a file."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def stored(root: Path) -> dict[str, str]:
    """What the root keeps."""
    return {host: entry.token for host, entry in TfrcFile(root).read().credentials.items()}


@pytest.mark.req("RUN-10", "SEC-2")
def test_a_token_from_a_file_is_checked_and_stored(
    server: TfcServer, run: Run, token_file: Path, tmp_path: Path
) -> None:
    """Asked whose it is, then kept; the answer names the account, the file and the variable, not the token."""
    code, out, _ = run("init", "terraform-cloud", "--token-file", token_file, "--json")

    assert (code, server.seen) == (0, ["GET /api/v2/account/details"])
    assert json.loads(out) == {
        "host": HOST,
        "account": "ada",
        "file": str(tmp_path / "root/credentials/credentials.tfrc.json"),
        "variable": "TF_TOKEN_app_terraform_io",
    }
    assert stored(tmp_path / "root") == {HOST: TOKEN}


@pytest.mark.req("RUN-10", "SEC-2")
def test_a_token_from_a_command_is_stored(server: TfcServer, run: Run, token_file: Path, tmp_path: Path) -> None:
    """The command's words are not a shell's: nothing in them is expanded or run besides it."""
    code, _, _ = run("init", "terraform-cloud", "--token-command", f"cat '{token_file}'")
    odd, _, _ = run("init", "terraform-cloud", "--token-command", f"cat {token_file}; touch {tmp_path}/planted")

    assert code == 0
    assert odd == 12
    assert not (tmp_path / "planted").exists()
    assert stored(tmp_path / "root") == {HOST: TOKEN}


@pytest.mark.req("RUN-10", "GATE-1")
def test_a_token_that_is_not_accepted_is_not_stored(
    server: TfcServer, run: Run, token_file: Path, tmp_path: Path
) -> None:
    """The old one stays; `--unchecked` is a decision, and says so."""
    run("init", "terraform-cloud", "--token-file", token_file)
    other = tmp_path / "other"
    other.write_text("wrong0canary")

    code, _, err = run("init", "terraform-cloud", "--token-file", other)
    assert (code, "401" in err) == (12, True)
    assert stored(tmp_path / "root") == {HOST: TOKEN}
    code, out, _ = run("init", "terraform-cloud", "--token-file", other, "--unchecked")
    assert (code, "unchecked" in out) == (0, True)
    assert stored(tmp_path / "root") == {HOST: "wrong0canary"}


@pytest.mark.req("RUN-10", "UX-1", "INV-10")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--token-file", "missing"], 12),
        (["--token-file", "{broken}"], 11),
        (["--token-file", "{empty}"], 11),
        (["--token-file", "{spaces}"], 11),
        (["--token-command", "false"], 12),
        (["--token-command", "no-such-program"], 12),
        (["--token-command", "'"], 2),
        (["--token-command", ""], 2),
        (["--token-file", "{good}", "--token-command", "true"], 2),
        (["--token-file", "{good}", "--host", "app.terraform.io:1"], 2),
        (["--token-file", "{good}", "--host", "../x"], 2),
        (["--token", "x"], 2),
    ],
)
def test_what_gives_no_token_stores_none(
    server: TfcServer, run: Run, tmp_path: Path, words: list[str], code: int
) -> None:
    """Missing, broken, empty, two sources, and never as an argument: refused, nothing asked, nothing stored."""
    files: dict[str, bytes] = {"good": b"good0token", "broken": b"canary\xff", "empty": b"\n", "spaces": b"canary a b"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    given = [word.format(**{name: tmp_path / name for name in files}) for word in words]

    found, out, err = run("init", "terraform-cloud", *given)

    assert found == code
    assert "canary" not in out + err
    assert (server.seen, (tmp_path / "root").exists()) == ([], False)


@pytest.mark.req("RUN-10", "APR-3")
def test_without_a_terminal_nothing_is_asked(server: TfcServer, run: Run, tmp_path: Path) -> None:
    """No prompt that nobody sees, and no root that was not selected."""
    assert run("init", "terraform-cloud")[0] == 12
    assert run("init", "terraform-cloud", "--token-command", "true", root=None)[0] == 2
    assert not (tmp_path / "root").exists()


@pytest.mark.req("RUN-10", "INV-10")
def test_a_terminal_is_asked_without_echo(tmp_path: Path) -> None:
    """What is typed at the prompt is stored, and the terminal never shows it."""
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "hyops", "init", "terraform-cloud", "--unchecked", "--root", str(tmp_path)]
    job = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    typed = False
    while True:
        try:
            piece = os.read(mine, 4096)
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        shown += piece
        if b"Token for" in shown and not typed:
            typed = True
            os.write(mine, f"{TOKEN}\n".encode())
    os.close(mine)

    assert job.wait(30) == 0
    assert stored(tmp_path) == {HOST: TOKEN}
    assert (TOKEN.encode() in shown, b"stored unchecked" in shown) == (False, True)


@pytest.fixture
def ready(run: Run, token_file: Path) -> Run:
    """The command line with a stored token."""
    run("init", "terraform-cloud", "--token-file", token_file, "--unchecked")
    return run


@pytest.mark.req("RUN-10", "UX-2")
def test_workspaces_are_listed_with_where_they_run(server: TfcServer, ready: Run) -> None:
    """For people and for programs."""
    server.add(ORGANIZATION, "state", **{"execution-mode": "local"})
    _, text, _ = ready("tfc", "workspace", "list", "--organization", ORGANIZATION)
    _, said, _ = ready("tfc", "workspace", "list", "--organization", ORGANIZATION, "--json")

    assert "remote (inherited)" in text
    assert {one["name"]: one["execution_mode"] for one in json.loads(said)} == {
        "state": "local",
        "ws-0000": "remote",
        "ws-0001": "remote",
    }


@pytest.mark.req("RUN-10", "GATE-1")
def test_a_workspace_is_refused_then_set_then_kept(server: TfcServer, ready: Run) -> None:
    """12 for a remote one; `--set-local` changes it once; from then on it is kept."""

    def ensure(*more: str) -> tuple[int, Any]:
        code, out, _ = ready("tfc", "workspace", "ensure", "ws-0000", "--organization", ORGANIZATION, "--json", *more)
        return code, json.loads(out)

    code, said = ensure()
    assert (code, said["effect"], "--set-local" in said["hint"]) == (12, "none", True)
    assert ensure("--set-local")[1]["done"] == "set-local"
    assert ensure("--set-local")[1]["done"] == "kept"
    assert len(server.bodies) == 1


@pytest.mark.req("RUN-10")
def test_a_missing_workspace_is_made_when_told_so(server: TfcServer, ready: Run) -> None:
    """12, then 0, local from the start."""
    words = ("tfc", "workspace", "ensure", "core", "--organization", ORGANIZATION)

    assert ready(*words)[0] == 12
    assert ready(*words, "--create")[1] == f"{ORGANIZATION}/core: local (created)\n"
    assert ready(*words)[0] == 0


@pytest.mark.req("RUN-10", "GATE-1")
def test_without_a_stored_token_nothing_is_asked(server: TfcServer, run: Run) -> None:
    """12, with the command that mends it; another host's token is not taken instead."""
    code, _, err = run("tfc", "workspace", "list", "--organization", ORGANIZATION, "--host", "tfe.example.org")

    assert (code, "hyops init terraform-cloud --host tfe.example.org" in err) == (12, True)
    assert server.seen == []
