"""No secret gets through the redactor: not encoded, not over lines, not cut by the chunks of a stream (SEC-2)."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import string
import subprocess
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyops.engine.redact import MASK, Redactor

CANARY = "c4nary/+'\"$ \\pä&<word>"
KEY = "-----BEGIN PRIVATE KEY-----\n" + "\n".join(
    base64.b64encode(f"line {n} of a private key, some forty-eight bytes".encode()).decode()[:64] for n in range(6)
)

FORMS: dict[str, Callable[[str], str]] = {
    "raw": lambda v: v,
    "json": lambda v: json.dumps({"k": v}),
    "json-utf8": lambda v: json.dumps({"k": v}, ensure_ascii=False),
    "json-in-json": lambda v: json.dumps({"line": json.dumps({"k": v})}),
    "url": lambda v: quote(v, safe=""),
    "url-path": quote,
    "url-lower": lambda v: re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), quote(v, safe="")),
    "form": quote_plus,
    "shell": shlex.quote,
    "argv": lambda v: shlex.join(["psql", "--password", v]),
    "python": repr,
    "bytes": lambda v: repr(v.encode()),
    "url-in-url": lambda v: quote("https://h/?k=" + quote(v, safe=""), safe=""),
    "form-in-url": lambda v: quote(quote_plus(v), safe=""),
    "html": html.escape,
    "hex": lambda v: v.encode().hex(),
    "base64": lambda v: base64.b64encode(v.encode()).decode(),
    "base64-url": lambda v: base64.urlsafe_b64encode(v.encode()).decode().rstrip("="),
    "base64+1": lambda v: base64.b64encode(b":" + v.encode() + b"tail").decode(),
    "base64+2": lambda v: base64.b64encode(b"u:" + v.encode() + b"tail").decode(),
    "basic-auth": lambda v: "Authorization: Basic " + base64.b64encode(f"operator:{v}".encode()).decode(),
}


def rests(value: str, shown: str) -> list[str]:
    """Pieces of the secret's own characters, or of its base64, that can still be read."""
    left = [value[n : n + 6] for n in range(len(value) - 5) if value[n : n + 6] in shown]
    for before in range(3):
        core = base64.b64encode(b"\0" * before + value.encode()).decode()[4:-4]
        left += [core[n : n + 8] for n in range(len(core) - 7) if core[n : n + 8] in shown]
    return left


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [CANARY, "hunter2-hunter2"])
def test_a_secret_is_found_in_every_usual_encoding(form: str, value: str) -> None:
    """Raw, JSON, URL, shell, HTML, hex, base64 at each alignment: only the mask stays."""
    shown = Redactor({"K": value}).text(f"before {FORMS[form](value)} after")

    assert rests(value, shown) == []
    assert MASK in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("value", ["it's", 'a "b" $c `d` \\e', "two\nlines of it\tand a tab"])
@pytest.mark.parametrize("template", ["printf '%q' \"$V\"", "printf '%s' \"${V@Q}\"", 'set -x; : "$V"'])
def test_what_a_real_shell_makes_of_a_secret_is_found(value: str, template: str) -> None:
    """Bash's own quoting of a value, in `%q`, `@Q` and a trace, is known."""
    done = subprocess.run(["bash", "-c", template], env={"V": value, "LC_ALL": "C.UTF-8"}, capture_output=True)
    shown = Redactor({"K": value}).data(done.stdout + done.stderr).decode()

    for line in value.splitlines():
        assert rests(line, shown) == [] or len(line) < 6
    assert MASK in shown


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bash_hides_no_printable_character_of_a_secret(locale: str) -> None:
    """Each at the beginning, in the middle and at the end: bash quotes `,`, and `~` and `#` in some places only."""
    odd = [c for c in string.printable if c.isprintable() and not c.isalnum()] + ["\u00e4"]
    values = [f"{a}Geheim{b}{a}-{c}wort{a}" for a in odd for b, c in ((a, ":"), ("=", "="), ("~", ":~"), (" ", "#"))]
    quoting = [
        "bash",
        "--norc",
        "-c",
        'for v in "$@"; do printf "%q\\n" "$v"; printf "K=%q\\n" "$v"; done',
        "_",
        *values,
    ]
    done = subprocess.run(quoting, env={"LC_ALL": locale, "PATH": "/usr/bin:/bin"}, capture_output=True, check=True)

    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(values)
    for number, line in enumerate(lines):
        clean = Redactor({"k": values[number // 2]}).data(line)
        assert MASK.encode() in clean, line
        assert not [word for word in (b"Geheim", b"wort") if word in clean], (line, clean)


@pytest.mark.req("SEC-2")
def test_each_line_of_a_key_is_guarded_and_its_armour_is_not() -> None:
    """A log that cuts at line ends shows no line of the key, and still says that a key stood there."""
    redactor = Redactor({"K": KEY})
    shown = "\n".join(redactor.text(f"03:00 {line}") for line in KEY.splitlines())

    assert [line for line in KEY.splitlines()[1:] if line in shown] == []
    assert "-----BEGIN PRIVATE KEY-----" in shown


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("size", [1, 7, 64, 76, 77, 4096])
@pytest.mark.parametrize("lead", range(0, 90, 7))
def test_base64_that_is_broken_over_lines_is_found(size: int, lead: int) -> None:
    """As `base64` prints it, 76 columns a line, in chunks of any size, the secret anywhere in the text."""
    value = "correct horse battery staple / correct horse battery staple / and a long tail that fills the line"
    text = base64.encodebytes(b"x" * lead + value.encode() + b"y" * 40)
    stream = Redactor({"K": value}).stream()
    shown = b"".join(stream.feed(text[at : at + size]) for at in range(0, len(text), size)) + stream.end()

    assert rests(value, shown.replace(b"\n", b"").decode()) == []


def test_overlapping_secrets_leave_no_rest() -> None:
    """Where two secrets share a middle, both go, not one and a half."""
    assert Redactor({"A": "abcdefgh", "B": "efghijkl"}).text("<abcdefghijkl>") == f"<{MASK}>"


def test_what_is_too_short_to_be_told_from_text_stays() -> None:
    """Three characters would blank out half of every sentence; a value of spaces would blank out all of them."""
    assert Redactor({"A": "the", "B": "      "}).text("the site      is lost") == "the site      is lost"


SECRETS = st.lists(st.text("ab=/\n", min_size=4, max_size=9), min_size=1, max_size=3)


@pytest.mark.req("SEC-2")
@settings(max_examples=500)
@example(values=["=a=="], text="=a==a", cuts=[1])  # the end of a secret that may begin the next one stays covered
@given(values=SECRETS, text=st.text("ab=/\n", max_size=60), cuts=st.lists(st.integers(1, 9), min_size=1))
def test_a_stream_gives_what_the_whole_gives(values: list[str], text: str, cuts: list[int]) -> None:
    """However the chunks are cut, the same bytes come out; secrets that overlap themselves included."""
    redactor = Redactor(dict(zip("ABC", values, strict=False)))
    whole, stream = redactor.data(text.encode()), redactor.stream()
    got, at, turn = b"", 0, 0
    while at < len(text):
        size = cuts[turn % len(cuts)]
        got += stream.feed(text[at : at + size].encode())
        at, turn = at + size, turn + 1

    assert got + stream.end() == whole
    assert not any(value.strip() in whole.decode() for value in values if len(value.strip()) >= 4 and "*" not in value)


@pytest.mark.req("SEC-2")
def test_a_stream_holds_back_only_what_may_become_a_secret() -> None:
    """A line without the beginning of a secret is given at once; a split character costs nothing."""
    stream = Redactor({"K": "geheimnis-ä"}).stream()

    assert stream.feed(b"promoted pg-gcp\n") == b"promoted pg-gcp\n"
    assert stream.feed(b"parole geheim") == b"parole "
    assert stream.feed(b"er\n") == b"geheimer\n"
    assert stream.feed("geheimnis-ä".encode()[:-1]) == b""
    assert stream.feed("ä".encode()[1:] + b"!") == b"***!"


def test_an_endless_secret_does_not_fill_the_memory() -> None:
    """A stream that repeats a secret that overlaps itself is masked once and not kept."""
    stream = Redactor({"K": "aaaaaaaa"}).stream()
    shown = [stream.feed(b"a" * 1000) for _ in range(100)]

    assert b"".join(shown) + stream.end() == b"***"
    assert len(stream._held) < 100


UNTOLD = {
    "header": ("> Authorization: Bearer c4nary-0123456789", "c4nary-0123456789"),
    "basic": ('"authorization": "Basic dXNlcjpjNG5hcnk="', "dXNlcjpjNG5hcnk="),
    "url": ("connecting to postgres://repl:c4nary@pg-gcp:5432/app", "c4nary"),
    "env": ("+ PGPASSWORD=c4nary psql", "c4nary"),
    "yaml": ("  client_secret: c4nary", "c4nary"),
    "json": ('{"api_key":"c4nary","x":1}', "c4nary"),
    "vault": ("token hvs.c4naryc4naryc4nary", "hvs.c4naryc4naryc4nary"),
    "jwt": ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJjNG5hcnkifQ.c2lnbmF0dXJl", "eyJzdWIiOiJjNG5hcnkifQ"),
    "pem": ("-----BEGIN RSA PRIVATE KEY-----\nc4nary\nc4nary\n-----END RSA PRIVATE KEY-----", "c4nary"),
}


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize("kind", UNTOLD)
@pytest.mark.parametrize("size", [1, 5, 4096])
def test_what_looks_like_a_secret_is_masked_untold(kind: str, size: int) -> None:
    """Headers, URLs, assignments, tokens and keys in another program's output, in chunks of any size."""
    text, secret = UNTOLD[kind]
    data, stream = f"03:00 {text}\nnext line\n".encode(), Redactor({}).stream()
    shown = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size)) + stream.end()

    assert secret not in shown.decode()
    assert shown.startswith(b"03:00 ")
    assert shown.endswith(b"next line\n")


@pytest.mark.req("SEC-2")
@pytest.mark.parametrize(
    "text",
    [
        "fencing token: 7, lease token=12",
        "password authentication failed for user repl",
        "see https://runbooks.example/pg and http://[::1]:9090/",
        "bearer of bad news; basic authentication",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_a_reader_needs_is_not_taken_for_a_secret(text: str) -> None:
    """Fencing tokens, error messages, links and certificates stay."""
    assert Redactor({}).text(text) == text


@pytest.mark.req("SEC-2")
def test_a_value_under_a_telling_key_is_masked() -> None:
    """In records, whatever the value looks like."""
    shown = Redactor({}).value({"password": "x", "outputs": [{"API_KEY": "y", "token": "7"}]})

    assert shown == {"password": MASK, "outputs": [{"API_KEY": MASK, "token": "7"}]}


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    """What may become a pattern is waited for up to a limit."""
    stream = Redactor({}).stream()
    for _ in range(100):
        stream.feed(b"password " + b"x" * 1000)

    assert len(stream._held) <= 17 * 1024


PIECES = ["pass", "word", "=", "hunter2", "\n", " ", "://", "u:", "hunter2@", "h", "auth", "orization: ", "Bearer "]
PIECES += ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "hunter2hunter2"]


@pytest.mark.req("SEC-2")
@example(parts=["-----BEGIN PRIVATE KEY-----", "hunter2", "\n", "-----BEGIN PRIVATE KEY-----"], cuts=[1])
@given(parts=st.lists(st.sampled_from(PIECES), max_size=14), cuts=st.lists(st.integers(1, 30), min_size=1))
def test_a_stream_shows_no_more_of_what_looks_like_a_secret_than_the_whole(parts: list[str], cuts: list[int]) -> None:
    """However patterns are cut, nested and left open, what is masked in the whole is masked in the stream."""
    data, stream = "".join(parts).encode(), Redactor({}).stream()
    got, at, turn = b"", 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        got += stream.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    got += stream.end()

    assert got.count(b"hunter2") <= Redactor({}).data(data).count(b"hunter2")


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize(
    "value",
    ["p\u00e4ssw\u00f6rd-Geheim", "it's\x1b[1m p\u00e4ss\a\b\v\f\x01\x7f end", "plain 'quoted' \\ word\tand tab"],
)
def test_what_bash_writes_of_a_secret_is_masked(value: str, locale: str) -> None:
    """`printf %q` and `set -x` write odd characters as `$'...'`: in octal, and with letters for some controls."""
    shown = subprocess.run(
        ["bash", "--norc", "-c", 'printf "%q\\n" "$X"; set -x; : "$X"'],
        env={"X": value, "LC_ALL": locale, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    for said in (shown.stdout, shown.stderr):
        clean = Redactor({"k": value}).data(said)
        assert MASK.encode() in clean, said
        assert not [word for word in (b"ssw", b"Geheim", b"quoted", b"end", b"tab") if word in clean], clean
