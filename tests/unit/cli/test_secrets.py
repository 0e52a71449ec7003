"""`hyops secrets` through the command line itself: what is refused, what is shown, and what never is."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyops.adapters.ansible_vault import decrypt
from hyops.cli.main import main

PASSWORD = "the vault's own"
CANARY = "c4nary-of-the-command-line"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A runtime root whose configuration names the password's file."""
    folder = tmp_path / "envs" / "prod"
    (folder / "config" / "secrets").mkdir(parents=True)
    (folder / "credentials").mkdir()
    (folder / "credentials" / "vault-password").write_text(PASSWORD + "\n")
    (folder / "credentials" / "vault-password").chmod(0o600)
    config = "api_version: hybridops/v1\nkind: Secrets\npassword: {file: credentials/vault-password}\n"
    (folder / "config" / "secrets" / "secrets.yml").write_text(config)
    return folder


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `hyops secrets` with a standard input; exit code, output, errors."""
    for name in ("HYOPS_RUNTIME_ROOT", "HYOPS_ENV"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str, stdin: str = "", at_root: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(["secrets", words[0], *(["--root", str(root)] if at_root else []), *words[1:]])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def hyops(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for verbs that become another command."""
    command = [sys.executable, "-m", "hyops", "secrets", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False)


@pytest.mark.req("SEC-1", "SEC-2")
def test_a_value_comes_in_over_standard_input_and_is_shown_only_when_asked(run: Run, root: Path) -> None:
    """`set`, `keys` and `show` print names, origin and age; `show --reveal` prints the value and nothing else."""
    assert run("set", "DB_PASSWORD", stdin=f"{CANARY}\n") == (0, "DB_PASSWORD: added\n", "")
    assert run("set", "DB_PASSWORD", stdin=CANARY)[1] == "DB_PASSWORD: replaced\n"
    for words in (["keys"], ["keys", "--json"], ["show", "DB_PASSWORD"], ["show", "DB_PASSWORD", "--json"]):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert "DB_PASSWORD" in out
        assert CANARY not in out
    assert json.loads(run("keys", "--json")[1]).keys() == {"key", "state", "authority", "at", "age_s"}
    assert run("show", "DB_PASSWORD", "--reveal") == (0, f"{CANARY}\n", "")
    text = decrypt((root / "vault" / "bootstrap.vault.env").read_bytes(), PASSWORD.encode())
    assert f"DB_PASSWORD={CANARY}\n".encode() in text


@pytest.mark.req("SEC-2")
def test_a_value_has_no_place_on_the_command_line(run: Run) -> None:
    """`set KEY VALUE` is a usage error that does not repeat the value as advice."""
    code, _, _ = run("set", "DB_PASSWORD", CANARY)

    assert code == 2
    assert run("keys") == (0, "", "")


@pytest.mark.req("SEC-1")
def test_a_value_of_several_lines_comes_from_a_file(run: Run, tmp_path: Path) -> None:
    """As it is, last line end included; standard input loses one."""
    (tmp_path / "key.pem").write_text("-----BEGIN\nabc\n-----END\n")
    run("set", "KEY", "--file", str(tmp_path / "key.pem"))

    assert run("show", "KEY", "--reveal", "--json")[1] == '{"key": "KEY", "value": "-----BEGIN\\nabc\\n-----END\\n"}\n'


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    ("words", "stdin", "code"),
    [
        (["set", "1BAD"], "x", 11),
        (["set", "GOOD"], "", 2),
        (["set", "GOOD"], "x" * 140_000, 2),
        (["set", "GOOD", "--file", "/nowhere"], "", 12),
        (["show", "ABSENT"], "", 21),
        (["show", "ABSENT", "--reveal"], "", 21),
        (["ensure", "ABSENT"], "", 21),
        (["ensure", "A", "--age-max", "soon"], "", 2),
        (["exec", "--key", "ABSENT", "--", "true"], "", 21),
        (["exec", "--", "true"], "", 2),
        (["vault-sync"], "", 12),
        (["vault-sync", "--map-file", "/nowhere"], "", 12),
        (["seal", "--key", "A", "--to", "/nowhere", "--runner-ref", "r", "-o", "/dev/null", "--valid", "8d"], "", 2),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_changes_nothing(
    run: Run, root: Path, words: list[str], stdin: str, code: int
) -> None:
    """Usage 2, config 11, prerequisite 12, secrets 21."""
    assert run(*words, stdin=stdin)[0] == code
    assert not (root / "vault" / "bootstrap.vault.env").exists()


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("name", ["vault", "gsm", "asm", "akv"])
def test_an_authority_without_a_section_is_a_config_error(run: Run, root: Path, name: str) -> None:
    """The error names the file and the key."""
    (root / "config" / "secrets" / name).mkdir()
    (root / "config" / "secrets" / name / "allowed.csv").write_text("db,DB_PASSWORD,ref\n")
    code, _, err = run(f"{name}-sync")

    assert code == 11
    assert f"secrets.yml: {name}: absent" in err


@pytest.mark.req("SEC-1", "UX-2")
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("password: {file: a, command: [b]}", "exactly one"),
        ("password: {}", "exactly one"),
        ("vault: {address: 'http://vault', token_file: t}", "vault.address"),
        ("vault: {address: 'https://vault', token_file: t, jwt: {role: r, jwt_file: j}}", "exactly one"),
        ("vault: {address: 'https://vault', tokn_file: t}", "tokn_file"),
        ("vault: {address: 'https://vault', token_file: t, mounts: {kv: 3}}", "vault.mounts.kv"),
        ("akv: {url: 'https://x', application: {tenant: t, client_id: c}}", "exactly one"),
        ("gsm: {project: 'Bad Project'}", "gsm.project"),
        ("asm: {region: 'eu west'}", "asm.region"),
    ],
)
def test_a_wrong_configuration_names_file_line_and_key(run: Run, root: Path, body: str, why: str) -> None:
    """Strict like every file that a person writes; a login in the clear is not possible."""
    path = root / "config" / "secrets" / "secrets.yml"
    path.write_text(f"api_version: hybridops/v1\nkind: Secrets\n{body}\n")
    code, _, err = run("set", "K", stdin="x")

    assert code == 11
    assert "secrets.yml:" in err
    assert why in err


@pytest.mark.req("SEC-1")
def test_a_password_from_the_command_line_beats_the_configured_one(run: Run, tmp_path: Path) -> None:
    """A file before a command before the configuration; a wrong one opens nothing."""
    run("set", "K", stdin="x")
    (tmp_path / "other").write_text("another")
    (tmp_path / "other").chmod(0o600)

    assert run("keys", "--vault-password-file", str(tmp_path / "other"))[0] == 21
    assert run("keys", "--vault-password-command", f'echo "{PASSWORD}"')[0] == 0
    assert run("keys", "--vault-password-command", "false")[0] == 12


@pytest.mark.req("ROOT-1")
def test_no_environment_is_ever_guessed(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing selected, both selected, a bad name, no such root; then each way to select."""
    monkeypatch.setenv("HOME", str(root.parents[1]))
    assert run("keys", at_root=False)[0] == 2
    assert run("keys", "--env", "prod")[0] == 2
    assert run("keys", "--env", "../prod", at_root=False)[0] == 2
    assert run("keys", "--env", "prod", at_root=False)[0] == 12
    monkeypatch.setenv("HYOPS_RUNTIME_ROOT", str(root))
    assert run("keys", at_root=False)[0] == 0
    monkeypatch.delenv("HYOPS_RUNTIME_ROOT")
    (root.parents[1] / ".hybridops").mkdir()
    (root.parents[1] / ".hybridops" / "envs").symlink_to(root.parent)
    monkeypatch.setenv("HYOPS_ENV", "prod")
    assert run("keys", at_root=False)[0] == 0


@pytest.mark.req("SEC-1")
def test_ensure_generates_once(run: Run) -> None:
    """A second call finds what the first one made."""
    assert run("ensure", "A", "--generate")[1] == "A: generated\n"
    assert run("ensure", "A", "--generate", "--age-max", "1h")[1] == "A: present\n"


@pytest.mark.req("SEC-2")
def test_exec_hands_over_the_named_keys_and_no_others(run: Run, root: Path) -> None:
    """The child's environment has one of the two; its exit code is ours; argv has no value."""
    run("set", "ONE", stdin=CANARY)
    run("set", "TWO", stdin="c4nary-two")
    child = "import os, sys; print(os.environ['ONE'], 'TWO' in os.environ, sys.argv[1:], end=''); sys.exit(7)"
    done = hyops("exec", "--root", str(root), "--key", "ONE", "--", sys.executable, "-c", child, "--key", "x")

    assert (done.returncode, done.stdout) == (7, f"{CANARY} False ['--key', 'x']")


def test_exec_of_a_command_that_is_not_there_is_a_prerequisite(run: Run, root: Path) -> None:
    """The error names the command and no value."""
    run("set", "ONE", stdin=CANARY)
    done = hyops("exec", "--root", str(root), "--key", "ONE", "--", "/nowhere/command", HYOPS_DEBUG="1")

    assert done.returncode == 12
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.req("SEC-3", "SEC-2")
def test_sealed_keys_travel_in_a_file_and_open_on_their_runner(run: Run, root: Path, tmp_path: Path) -> None:
    """Made on the runner, sealed where the cache is, opened on the runner; another runner's name does not open it."""
    _, public, _ = run("seal-key", str(tmp_path / "seal.pem"), at_root=False)
    (tmp_path / "runner.pub").write_text(public)
    run("set", "ONE", stdin=CANARY)
    words = ["seal", "--key", "ONE", "--to", str(tmp_path / "runner.pub"), "--runner-ref", "gcp-ops-runner"]
    code, out, _ = run(*words, "-o", str(tmp_path / "sealed.json"))
    assert code == 0
    assert CANARY not in out + (tmp_path / "sealed.json").read_text()
    assert run(*words, "-o", str(tmp_path / "sealed.json"))[0] == 12  # never over another one

    at = ["--sealed", str(tmp_path / "sealed.json"), "--seal-key", str(tmp_path / "seal.pem"), "--env", "prod"]
    child = [sys.executable, "-c", "import os; print(os.environ['ONE'], end='')"]
    assert hyops("unseal", *at, "--runner-ref", "gcp-ops-runner", "--", *child).stdout == CANARY
    refused = hyops("unseal", *at, "--runner-ref", "aws-ops-runner", "--", *child)
    assert (refused.returncode, refused.stdout) == (21, "")


@pytest.mark.req("SEC-2")
def test_a_person_types_a_value_twice_and_does_not_see_it(root: Path) -> None:
    """On a terminal of its own: the prompt hides what is typed, and two different values are asked for again."""
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", "--wait", sys.executable, "-m", "hyops", "secrets", "set", "K", "--root", str(root)]
    started = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, typed = b"", [CANARY, "another", CANARY, CANARY]
    while True:
        try:
            shown += (piece := os.read(ours, 4096))
        except OSError:  # the other side has ended
            break
        if piece.rstrip().endswith(b":") and typed and shown.count(b": ") > 4 - len(typed) + shown.count(b"Error: "):
            os.write(ours, f"{typed.pop(0)}\n".encode())
    os.close(ours)

    assert started.wait(60) == 0
    assert typed == []
    assert CANARY.encode() not in shown
    assert b"K: added" in shown
