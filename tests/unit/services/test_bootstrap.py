"""What is asked of a host before it is made a runner, and what is sent: refusals of both sides (RUN-2, RUN-3)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.signer_ed25519 import TrustedKeys, TrustedVerifier
from hyops.errors import ConfigError, Effect, NotVerifiedError, PrerequisiteError, TargetError
from hyops.model.words import shown
from hyops.ports.admin import Said
from hyops.ports.transport import RunnerHello
from hyops.services.bootstrap import Bootstrap, RunnerFile, Wanted, executors, wanted

pytestmark = pytest.mark.req("RUN-2")

HERE = "3.11 x86_64"
TRUSTED = json.dumps({"keys": [{"public": "ours", "roles": ["execution"]}]}).encode()
KEPT = {"what": "user hyops", "state": "kept"}
NEW = {"what": "hyops 1", "state": "to make"}


@dataclass
class Host:
    """Answers as it is told to; `heard` is every plan, `sent` how many bytes came behind it."""

    user: str = "ada"
    python: Said = field(default_factory=lambda: Said(0, HERE.encode() + b"\n", b""))
    sudo: int = 0
    answers: list[dict[str, Any] | bytes] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Host]:
        """Logged in."""
        yield self

    async def run(self, command: str, data: bytes = b"") -> Said:
        """One command."""
        self.commands.append(command)
        if command == "sudo -n true":
            return Said(self.sudo, b"", b"sudo: a password is required")
        if not data:
            return self.python
        length, _, rest = data.partition(b"\n")
        plan, _, archive = rest[int(length) :].partition(b"\n")
        self.heard.append(json.loads(plan))
        self.sent.append(len(archive))
        answer = self.answers.pop(0)
        return Said(1, answer, b"boom") if isinstance(answer, bytes) else Said(0, json.dumps(answer).encode(), b"")


class Release:
    """A small one."""

    version, release_id, size = "1", "1-abc", 10

    def packed(self) -> bytes:
        """Ten bytes."""
        return b"0123456789"


def said(*items: dict[str, str], **more: Any) -> dict[str, Any]:
    """A good answer."""
    changes = sum(item["state"] != "kept" for item in items)
    return {"ok": True, "items": list(items), "changes": changes, "public": None, "also": [], "touched": False, **more}


def files(folder: Path, **change: Any) -> dict[str, RunnerFile]:
    """The folder of a runner's files."""
    body = {
        "runner_ref": "edge-runner",
        "site": "edge",
        "root": "/var/lib/hyops/runner",
        "signing_key": "/etc/hyops/runner.pem",
        "trusted_keys": "/etc/hyops/trusted_keys.json",
        "allowed_signers": "/etc/hyops/allowed_signers",
        **change,
    }
    (folder / "runner.json").write_text(json.dumps(body))
    names = {"runner.json": json.dumps(body).encode(), "trusted_keys.json": TRUSTED, "allowed_signers": b"a"}
    return {name: RunnerFile(name, data, private=False) for name, data in names.items()}


def want(folder: Path, **change: Any) -> Wanted:
    """What those make of a host."""
    return wanted("edge-runner", folder, files(folder, **change), {"ours"}, "ssh-ed25519 AAAA")


def bootstrap(folder: Path, host: Host, site: str = "edge") -> Bootstrap:
    """One, whose dispatcher is answered from `site`."""

    async def dial() -> RunnerHello:
        return RunnerHello("edge-runner", site, "1", 1, 1, 1)

    return Bootstrap(want(folder), host, Release(), HERE, b"setup text\n", dial)


def test_a_host_on_which_all_stands_is_only_looked_at(tmp_path: Path) -> None:
    """One look, no release sent, nothing applied; then entered as the dispatcher."""
    host = Host(answers=[said(KEPT)])

    report = asyncio.run(bootstrap(tmp_path, host).make())

    assert [plan["apply"] for plan in host.heard] == [False]
    assert (report.changes, report.hello is not None) == (0, True)


@pytest.mark.parametrize(("item", "sent"), [(NEW, 10), ({"what": "file x", "state": "to change"}, 0)])
def test_only_what_is_wanting_is_sent(tmp_path: Path, item: dict[str, str], sent: int) -> None:
    """The packages travel when they are not there, and not for a changed file."""
    host = Host(answers=[said(KEPT, item), said(KEPT, {**item, "state": "made"})])

    asyncio.run(bootstrap(tmp_path, host).make())

    assert [plan["apply"] for plan in host.heard] == [False, True]
    assert host.sent == [0, sent]


def test_a_look_applies_nothing(tmp_path: Path) -> None:
    """Not even with everything wanting."""
    host = Host(answers=[said(NEW)])

    report = asyncio.run(bootstrap(tmp_path, host).look())

    assert ([plan["apply"] for plan in host.heard], report.changes, report.hello) == ([False], 1, None)


def test_root_needs_no_sudo_and_others_do(tmp_path: Path) -> None:
    """The work is done as root either way; nothing secret stands in a command."""
    for user, first in (("root", "/usr/bin/python3"), ("ada", "sudo")):
        host = Host(user=user, answers=[said(KEPT)])
        asyncio.run(bootstrap(tmp_path, host).make())
        assert host.commands[-1].split()[0] == first
        assert "setup text" not in host.commands[-1]


@pytest.mark.parametrize(
    ("host", "says"),
    [
        (Host(python=Said(127, b"", b"sh: 1: /usr/bin/python3: not found")), "does not run there"),
        (Host(python=Said(0, b"3.9 x86_64", b"")), "its Python is 3.9 x86_64"),
        (Host(python=Said(0, b"3.11 aarch64", b"")), "its Python is 3.11 aarch64"),
        (Host(sudo=1), "ada may not become root there: sudo: a password is required"),
        (Host(answers=[{"ok": False, "message": "full", "hint": "x", "touched": False}]), "full"),
    ],
)
def test_what_the_host_refuses_is_a_refusal_and_nothing_is_sent(tmp_path: Path, host: Host, says: str) -> None:
    """Before any change: exit 12."""
    with pytest.raises(PrerequisiteError, match=says.replace(".", r"\.")) as caught:
        asyncio.run(bootstrap(tmp_path, host).make())

    assert caught.value.effect is Effect.NONE
    assert not any(plan["apply"] for plan in host.heard)


def test_the_entrance_names_its_key(tmp_path: Path) -> None:
    """So that the host knows which other lines are about the same one."""
    host = Host(answers=[said(KEPT)])

    asyncio.run(bootstrap(tmp_path, host).look())

    entrance = host.heard[0]["entrance"]
    assert entrance["key"] == "AAAA"
    assert entrance["line"].startswith("restrict,command=")
    assert entrance["line"].endswith(" ssh-ed25519 AAAA")
    assert entrance["alone"] is False


def test_only_this_key_is_asked_for_and_what_went_is_told(tmp_path: Path) -> None:
    """The look and the change ask alike; what the host says that it removed is in the report."""
    stolen = "let in until now: AAAA stolen"
    host = Host(answers=[said({"what": stolen, "state": "to remove"}), said({"what": stolen, "state": "removed"})])
    made = bootstrap(tmp_path, host)

    report = asyncio.run(replace(made, want=replace(made.want, only_this_key=True)).make())

    assert [plan["entrance"]["alone"] for plan in host.heard] == [True, True]
    assert report.items == [{"what": stolen, "state": "removed"}]


def test_a_host_does_not_choose_what_its_key_speaks_for(tmp_path: Path) -> None:
    """Of what it says of its key, the key is taken; whose it is, is known here (RUN-2, INV-8)."""
    public = base64.b64encode(bytes(32)).decode()
    claims = {"public": public, "roles": ["decision", "execution", "runner:cloud-runner"], "name": "control"}
    host = Host(answers=[said(KEPT, public=json.dumps(claims))])

    report = asyncio.run(bootstrap(tmp_path, host).make())

    assert report.trusted_key == {"public": public, "roles": ["runner:edge-runner"], "name": "edge-runner"}
    TrustedVerifier(TrustedKeys.of({"keys": [report.trusted_key]}))


@pytest.mark.parametrize(
    "public",
    [
        "",
        "torn",
        "[]",
        "[" * 5000,
        "null",
        json.dumps({"roles": ["runner:edge-runner"]}),
        json.dumps({"public": 7}),
        json.dumps({"public": base64.b64encode(bytes(31)).decode()}),
        json.dumps({"public": base64.b64encode(bytes(33)).decode()}),
        json.dumps({"public": base64.b64encode(bytes(32)).decode() + "\n"}),
    ],
)
def test_what_is_no_key_is_not_handed_on(tmp_path: Path, public: str) -> None:
    """All stands, and nobody is told to trust it."""
    with pytest.raises(NotVerifiedError, match="no public key of 32 bytes"):
        asyncio.run(bootstrap(tmp_path, Host(answers=[said(KEPT, public=public)])).make())


ODD = "\x1b[2Kall is well\u202e"


@pytest.mark.parametrize("change", [
    {"items": [{"what": "user hyops", "state": "fine"}]},
    {"items": [{"what": "user hyops"}]},
    {"items": [{**KEPT, "more": 1}]},
    {"items": [[]]},
    {"items": {}},
    {"changes": "1"},
    {"public": {"public": "k"}},
    {"also": "all"},
    {"also": [1]},
    {"ok": "yes"},
    {"ok": False},
])  # fmt: skip
def test_an_answer_of_another_shape_is_no_answer(tmp_path: Path, change: dict[str, Any]) -> None:
    """An error of that host, and no crash here; in a look nothing was touched."""
    with pytest.raises(TargetError, match="it ended 0") as caught:
        asyncio.run(bootstrap(tmp_path, Host(answers=[{**said(KEPT), **change}])).look())

    assert caught.value.effect is Effect.NONE


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"7", b"null", b'{"ok": true, "ok": true}', b"\xff", b'"\\ud800"'])
def test_bytes_that_are_no_answer_are_none(tmp_path: Path, raw: bytes) -> None:
    """Nested without end, of another type, ambiguous, no text."""
    with pytest.raises(TargetError, match="boom"):
        asyncio.run(bootstrap(tmp_path, Host(answers=[raw])).look())


def test_what_a_host_says_is_shown_without_its_controls(tmp_path: Path) -> None:
    """What stands there, who else is let in, and why it refuses: a terminal obeys none of it."""
    good = Host(answers=[said({"what": ODD, "state": "kept"}, also=[ODD])])
    report = asyncio.run(bootstrap(tmp_path, good).look())
    assert (report.items[0]["what"], report.also_let_in[0]) == (shown(ODD), shown(ODD))
    assert "\x1b" not in report.items[0]["what"]

    refusing = {"ok": False, "message": ODD, "hint": ODD}
    for host in (
        Host(answers=[{**refusing, "touched": False}]),
        Host(answers=[{**refusing, "touched": True}]),
        Host(python=Said(127, b"", ODD.encode())),
        Host(python=Said(0, ODD.encode(), b"")),
    ):
        with pytest.raises((PrerequisiteError, TargetError)) as caught:
            asyncio.run(bootstrap(tmp_path, host).look())
        assert shown(ODD) in caught.value.message
        assert (caught.value.message + caught.value.hint).isprintable()


def test_how_much_is_wanting_is_counted_here(tmp_path: Path) -> None:
    """Not taken from the host: it cannot have itself passed over, nor be sent anything when all stands."""
    host = Host(answers=[{**said(KEPT, NEW), "changes": 0}, said(KEPT, {**NEW, "state": "made"})])

    assert asyncio.run(bootstrap(tmp_path, host).make()).changes == 1
    assert [plan["apply"] for plan in host.heard] == [False, True]


@pytest.mark.parametrize("end", [b"", b"Traceback\n", {"ok": False, "message": "m", "hint": "h", "touched": True}])
def test_one_that_stops_half_way_says_so(tmp_path: Path, end: Any) -> None:
    """Partly done, and what ends it."""
    host = Host(answers=[said(NEW), end])

    with pytest.raises(TargetError) as caught:
        asyncio.run(bootstrap(tmp_path, host).make())

    assert caught.value.effect is Effect.PARTIAL


def test_another_runner_that_answers_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """What answers at the end must be who was made."""
    with pytest.raises(NotVerifiedError, match="in cloud"):
        asyncio.run(bootstrap(tmp_path, Host(answers=[said(KEPT)]), site="cloud").make())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"runner_ref": "other"}, "it is for other"),
        ({"launcher": "fork"}, "launcher"),
        ({"root": "/srv/runner"}, "not below /var/lib/hyops"),
        ({"options": {"tsig": [{"secret_file": "/etc/hyops/tsig"}]}}, "has no tsig, which"),
        ({"trusted_keys": "/srv/keys.json"}, "trusted_keys: it must be a file of"),
        ({"root": "/var/lib/hyops"}, "root: .* is not below"),
        ({"root": "/var/lib/hyops/../../../etc"}, "root: .* is not below"),
        ({"root": "/var/lib/hyops/runner /etc"}, "root: .* is not below"),
        ({"root": "/var/lib/hyops/runner\nExecStartPre=/bin/sh"}, "root: .* is not below"),
        ({"root": "/var/lib/hyops/runner\n"}, "root: .* is not below"),
        ({"root": "/var/lib/hyops/%h"}, "root: .* is not below"),
        ({"signing_key": "/var/lib/hyops/runner/runner.pem"}, "signing_key: .* is not /etc/hyops/NAME"),
        ({"signing_key": "/etc/hyops/keys/runner.pem"}, "signing_key: .* is not /etc/hyops/NAME"),
        ({"signing_key": "/etc/hyops/../shadow"}, "signing_key: .* is not /etc/hyops/NAME"),
        ({"signing_key": "/etc/hyops/.."}, "signing_key: .* is not /etc/hyops/NAME"),
        ({"secrets_dir": "/var/lib/hyops/secrets"}, "secrets_dir: .* is not /run/hyops/secrets"),
    ],
)
def test_a_folder_that_makes_no_runner_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Here, before anybody is dialled."""
    with pytest.raises(ConfigError, match=says):
        want(tmp_path, **change)


def test_files_of_another_control_are_refused(tmp_path: Path) -> None:
    """They would make a runner that does not take this control's runs."""
    with pytest.raises(ConfigError, match="no executor in common"):
        wanted("edge-runner", tmp_path, files(tmp_path), {"theirs"}, None)


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"keys": [{}]}'])
def test_trusted_keys_that_are_none_are_named(damaged: bytes) -> None:
    """With the file."""
    with pytest.raises(ConfigError, match="files: trusted keys"):
        executors(damaged, "files")


def test_whose_runner_it_is_is_written_first_and_the_key_stays_there(tmp_path: Path) -> None:
    """The claim before all else; the signing key is made there, unless the folder brings one."""
    made: Callable[[Wanted], dict[str, Any]] = lambda one: Bootstrap(  # noqa: E731
        one, Host(), Release(), HERE, b"", bootstrap(tmp_path, Host()).dial
    )._plan(b"")
    first = want(tmp_path)
    assert made(first)["files"][0]["path"] == "/etc/hyops/trusted_keys.json"
    assert made(first)["signing_key"] == "/etc/hyops/runner.pem"

    kept = {**files(tmp_path), "runner.pem": RunnerFile("runner.pem", b"key", private=True)}
    plan = made(wanted("edge-runner", tmp_path, kept, {"ours"}, None))
    assert (plan["signing_key"], plan["entrance"]) == (None, None)
    (brought,) = [file for file in plan["files"] if file["path"] == "/etc/hyops/runner.pem"]
    assert (brought["owner"], brought["mode"]) == ("hyops", 0o600)


@pytest.mark.req("INV-8", "RUN-2")
def test_what_says_whom_a_runner_believes_is_never_its_users_own(tmp_path: Path) -> None:
    """A folder in which all is 0600: the user reads it there and can rewrite nothing of it; a secret alone is his."""
    closed = {name: RunnerFile(name, file.data, private=True) for name, file in files(tmp_path).items()}
    closed["target_key"] = RunnerFile("target_key", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", private=True)
    one = wanted("edge-runner", tmp_path, closed, {"ours"}, None)
    plan = Bootstrap(one, Host(), Release(), HERE, b"", bootstrap(tmp_path, Host()).dial)._plan(b"")

    whose = {file["path"]: (file["owner"], file["mode"]) for file in plan["files"] if "/etc/hyops/" in file["path"]}
    assert whose.pop("/etc/hyops/target_key") == ("hyops", 0o600)
    assert {"/etc/hyops/runner.json", "/etc/hyops/trusted_keys.json"} <= whose.keys()
    assert set(whose.values()) == {("root:hyops", 0o640)}


KEYS: list[dict[str, Any]] = [
    {"signing_key": "/etc/hyops/secret"},
    {"seal_key": "/etc/hyops/secret"},
    {"options": {"targets": {"key_file": "/etc/hyops/secret"}}},
    {"options": {"tsig": [{"secret_file": "/etc/hyops/secret"}]}},
    {"options": {"database": {"passfile": "/etc/hyops/secret"}}},
    {"options": {"power": {"token_file": "/etc/hyops/secret"}}},
    {"options": {"authority": {"federated_token_file": "/etc/hyops/secret"}}},
    {"options": {"vault": {"password_file": ["/etc/hyops/secret"]}}},
]


@pytest.mark.req("INV-8")
@pytest.mark.parametrize("change", KEYS)
def test_a_secret_that_others_may_read_here_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """It would be 0644 there; closed here, it is the runner's alone there."""
    given = files(tmp_path, **change)
    with pytest.raises(ConfigError, match="secret: a secret of the runner that others may read") as caught:
        wanted("edge-runner", tmp_path, {**given, "secret": RunnerFile("secret", b"s", private=False)}, {"ours"}, None)
    assert caught.value.hint == f"chmod 600 {tmp_path / 'secret'}"

    closed = {**given, "secret": RunnerFile("secret", b"s", private=True)}
    assert wanted("edge-runner", tmp_path, closed, {"ours"}, None).files["/etc/hyops/secret"].private


@pytest.mark.req("INV-8")
def test_a_private_key_under_any_name_is_a_secret(tmp_path: Path) -> None:
    """Whatever the configuration calls it, also when it names it nowhere."""
    key = RunnerFile("notes", b"-----BEGIN OPENSSH PRIVATE KEY-----\nx", private=False)
    with pytest.raises(ConfigError, match="notes: a secret of the runner"):
        wanted("edge-runner", tmp_path, {**files(tmp_path), "notes": key}, {"ours"}, None)
