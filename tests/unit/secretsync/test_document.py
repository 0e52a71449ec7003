"""The cache as text: every value comes back, a shell reads the same, foreign files are read, errors quote nothing."""

from __future__ import annotations

import subprocess
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.errors import Effect, SecretsError
from hyops.model.secret import Secret
from hyops.secretsync.document import EXEC_BYTES_MAX, Cache, Entry, Origin, check_value, parse, render

AT = datetime(2026, 3, 14, 3, tzinfo=UTC)
VAULT = Origin("vault", "https://vault.example", "kv/db#password", "db", "7")
CANARY = "c4nary-of-the-cache"
VALUES = st.text(max_size=60).filter(lambda text: check_value("K", text) is None)
KEYS = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True)


def cache(**values: str) -> Cache:
    """A cache of its first revision."""
    return Cache().changed({key: Entry(Secret(value), VAULT, AT) for key, value in values.items()})


@pytest.mark.req("SEC-1")
@given(values=st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_value_comes_back_with_its_origin_and_age(values: dict[str, str]) -> None:
    """Quotes, line ends, blanks at the edges, comment signs: what was written is read."""
    back = parse(render(cache(**values)), source="cache")

    assert {key: secret.reveal() for key, secret in back.values().items()} == values
    assert {(e.origin, e.at, e.revision) for e in back.entries.values()} <= {(VAULT, AT, 1)}
    assert back.revision == 1


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    "value", ["plain", "it's", 'a "b" $c `d` \\e', "two\nlines\n", " edges ", "#no comment", "", "ä€"]
)
def test_a_shell_reads_the_same(tmp_path: Path, value: str) -> None:
    """Sourced by bash, each key has the very value."""
    (tmp_path / "env").write_bytes(render(cache(K=value, Z="last")))
    done = subprocess.run(
        ["bash", "-c", f'. {tmp_path}/env; printf "%s|%s" "$K" "$Z"'], capture_output=True, check=True
    )

    assert done.stdout.decode() == f"{value}|last"


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=a b # c", "a b # c"),
        ("export K=abc", "abc"),
        ('K="a \\"b\\" \\$c"  ', 'a "b" $c'),
        ("K='a'\\''b'", "a'b"),
        ("K='a'\"b\"c\r", "abc"),
        ("K=", ""),
    ],
)
def test_a_file_of_another_tool_is_read_with_an_unknown_origin(line: str, value: str) -> None:
    """Foreign lines keep their value; where they come from and how old they are is not made up."""
    entry = parse(f"# by hand\n\n{line}\n".encode(), source="cache").entries["K"]

    assert (entry.value, entry.origin.authority, entry.at) == (Secret(value), "unknown", None)


@pytest.mark.req("SEC-1")
def test_a_key_that_is_gone_upstream_is_remembered_without_a_value() -> None:
    """The mark outlives the file; the value does not."""
    gone = cache(K=CANARY).changed({"K": Entry(None, VAULT, AT)})
    text = render(gone)

    assert CANARY.encode() not in text
    assert parse(text, source="cache").entries["K"] == Entry(None, VAULT, AT, 2)


@pytest.mark.req("SEC-1", "SEC-2")
@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "text",
    [
        f"K={CANARY}\nK={CANARY}\n",
        f"{CANARY}\n",
        f"K='{CANARY}\n",
        f'K="{CANARY}\n',
        f"K='{CANARY}' {CANARY}\n",
        f"#hyops {CANARY}\nK=1\n",
        f'#hyops {{"authority": 7}}\nK={CANARY}\n',
        f'#hyops {{"at": "{CANARY}"}}\nK={CANARY}\n',
        f'#hyops {{"at": "2026-01-01T00:00:00"}}\nK={CANARY}\n',
        f"K={CANARY}\0\n",
        f"{'K' * 129}={CANARY}\n",
    ],
)
def test_a_damaged_text_is_refused_without_quoting_it(text: str) -> None:
    """The error names file and line; neither it nor its traceback shows what stands there."""
    with pytest.raises(SecretsError) as caught:
        parse(text.encode(), source="bootstrap.vault.env")

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.as_json())
    assert "bootstrap.vault.env: line " in caught.value.message
    assert CANARY not in shown
    assert (caught.value.exit_code, caught.value.effect) == (21, Effect.NONE)


def test_a_text_that_is_no_text_is_refused() -> None:
    """Bytes of another encoding are an error, not a guess."""
    with pytest.raises(SecretsError, match="not UTF-8"):
        parse(b"K=\xff\n", source="cache")


@pytest.mark.parametrize(
    ("key", "value"), [("1K", "v"), ("K-K", "v"), ("", "v"), ("K", "a\0b"), ("K", "x" * 200_000), ("K", "\ud800")]
)
def test_what_no_environment_can_carry_is_not_kept(key: str, value: str) -> None:
    """Names and values that could not be handed to a child are refused when they come in."""
    assert check_value(key, value) is not None


@pytest.mark.req("INV-10")
def test_a_secret_shows_nothing_of_itself() -> None:
    """Printed, formatted, in a container, compared or pickled: never its text."""
    import copy
    import json
    import pickle

    secret = Secret(CANARY)

    assert {str(secret), repr(secret), f"{secret}", f"{secret:>30}", repr([secret])[1:-1]} == {"***"}
    assert CANARY not in repr(cache(K=CANARY))
    assert secret == Secret(CANARY) != Secret("other")
    assert secret != CANARY
    for spill in (pickle.dumps, copy.copy, json.dumps):
        with pytest.raises(TypeError):
            spill(secret)


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize(
    "note", ['{"revision": "x"}', '{"revision": null}', '{"revision": 1e999}', '{"revision": true}', '{"revision": -1}']
)
@pytest.mark.parametrize("of", ["document", "entry"])
def test_a_damaged_revision_is_named_with_its_line(note: str, of: str) -> None:
    """Of the whole text or of one key: an error about the cache, never one of ours."""
    body = note if of == "document" else note.replace("{", '{"authority": "set", ')
    with pytest.raises(SecretsError, match=r"cache: line \d of its text: a comment of hyops has no valid revision"):
        parse(f"# head\n#hyops {body}\nK=v\n".encode(), source="cache")


@pytest.mark.req("SEC-1")
def test_a_comment_that_is_too_deep_is_a_damaged_one() -> None:
    """What the parser cannot descend into is damaged."""
    with pytest.raises(SecretsError, match="line 1 of its text: a comment of hyops is damaged"):
        parse(b"#hyops " + b"[" * 100_000 + b"\nK=v\n", source="cache")


@pytest.mark.req("SEC-1")
@pytest.mark.parametrize("character", ["x", "\u00e9", "\u2603", "\U0001f511"])
def test_the_longest_value_that_is_kept_is_the_longest_that_starts_a_program(character: str) -> None:
    """Linux counts bytes, with the name and the NUL at the end: what is kept can be handed over."""
    most = (EXEC_BYTES_MAX - len("KEY=") - 1) // len(character.encode())
    longest, longer = character * most, character * (most + 1)
    assert check_value("KEY", longest) is None
    assert "longer than" in str(check_value("KEY", longer))
    words = [sys.executable, "-c", "import os; print(len(os.environb[b'KEY']))"]
    done = subprocess.run(words, env={"KEY": longest}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(most * len(character.encode()))
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(words, env={"KEY": longer}, capture_output=True, check=False)
