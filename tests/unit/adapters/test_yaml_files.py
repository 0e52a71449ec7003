"""What is wrong in a file is named by file, line, key and the nearest word (UX-2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyops.adapters.yaml_files import parse_yaml, read_yaml, with_lines
from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.routes import Routes

GOOD = b"""env: lab
dispatcher_routes:
  failover:
    target_ref: dr/x@v1
    target_env: lab
    execution_plane: runner-local
"""


@pytest.mark.req("UX-2")
def test_a_good_file_is_read() -> None:
    """Routes as a person writes them."""
    assert parse_yaml(GOOD, Routes, source="routes.yml").env == "lab"


@pytest.mark.req("UX-2", "MOD-1")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"target_env", b"target_evn", "routes.yml:5: .*target_evn: unknown key; did you mean 'target_env'"),
        (b"runner-local", b"runner-locl", "routes.yml:6: .*execution_plane.*did you mean 'runner-local'"),
        (b"env: lab\ndisp", b"env: [1]\ndisp", "routes.yml:1: env: "),
        (b"env: lab\ndisp", b"env: lab\nenv: lab\ndisp", "routes.yml:2: env: stands twice"),
        (b"env: lab\ndisp", b"env: !!python/name:os.system x\ndisp", "not allowed|could not determine"),
        (b"  failover:", b"  failover", "routes.yml:"),
        (b"env: lab\ndisp", b"1: lab\ndisp", "routes.yml:1: a key is not plain text"),
    ],
)
def test_a_fault_names_its_place(old: bytes, new: bytes, said: str) -> None:
    """Each fault is a ConfigError that a person can act on."""
    with pytest.raises(ConfigError, match=said):
        parse_yaml(GOOD.replace(old, new, 1), Routes, source="routes.yml")


@pytest.mark.req("UX-2")
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """Missing, and empty."""
    with pytest.raises(PrerequisiteError):
        read_yaml(tmp_path / "none.yml", Routes)
    (tmp_path / "empty.yml").write_text("")
    with pytest.raises(ConfigError, match="empty"):
        read_yaml(tmp_path / "empty.yml", Routes)


@pytest.mark.req("UX-2")
def test_a_short_file_cannot_unfold_into_a_huge_one() -> None:
    """Nested aliases are refused before they unfold."""
    line = b"%c: &%c [*%c, *%c, *%c]\n"
    bomb = b"a: &a [x, x]\n" + b"".join(line % (c, c, c - 1, c - 1, c - 1) for c in range(98, 122))
    with pytest.raises(ConfigError, match="alias"):
        parse_yaml(bomb, Routes, source="bomb.yml")


@pytest.mark.req("UX-1", "UX-2")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (".nan", "is no number to compare with"),
        ("-.inf", "is no number to compare with"),
        ("1.0e+400", "is no number to compare with"),
        ("9" * 400, "is no number to compare with"),
        ("0x" + "f" * 5000, "is no number to compare with"),
        ("9" * 5000, "cannot be read as int"),
        ("!!int a", "a cannot be read as int"),
        ("!!int ''", "cannot be read as int"),
        ("!!float x", "x cannot be read as float"),
        ("!!bool maybe", "maybe cannot be read as bool"),
        ("!!float x\u202e", "cannot be read as float"),
    ],
)
def test_a_value_that_cannot_be_read_names_its_key(value: str, said: str) -> None:
    """With its line, and the beginning of it, however many digits there are; nothing of it reaches the terminal raw."""
    with pytest.raises(ConfigError) as refused:
        with_lines(f"a: 1\nb:\n  - c: {value}\n".encode(), source="x.yml")

    message = refused.value.message
    assert message.startswith("x.yml:3: b.0.c: ")
    assert said in message
    assert len(message) < 200
    assert message.isprintable()


@pytest.mark.req("UX-2")
def test_every_other_number_is_read() -> None:
    """As it stands, however large; who takes it has limits of his own."""
    value, _ = with_lines(b"a: 9007199254740993\nb: -1.5e+300\nc: '99'\nd: true\n", source="x")

    assert value == {"a": 2**53 + 1, "b": -1.5e300, "c": "99", "d": True}


@pytest.mark.req("UX-2")
def test_bytes_are_no_value() -> None:
    """A tag whose value JSON has not."""
    with pytest.raises(ConfigError, match=r"x.yml:1: tag .*:binary is not allowed"):
        with_lines(b"a: !!binary aGVsbG8=\n", source="x.yml")


@pytest.mark.req("UX-1", "UX-2")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r'a: ["x", "\ud800"]', r"x.yml:1: a.1: \ud800 has half"),
        ('a:\n  b: 1\n  "q\\udfffz": 2', r"x.yml:3: a.q\udfffz: q\udfffz has half"),
        (r'a: "\ude00\ud83d"', r"x.yml:1: a: \ude00\ud83d has half"),
        (r'a: !!str "\uD83D"', r"x.yml:1: a: \ud83d has half"),
        (r'"\ud800": {"\ud800": 1}', r"x.yml:1: \ud800: \ud800 has half"),
    ],
)
def test_text_that_no_file_can_hold_names_its_key(text: str, said: str) -> None:
    """Half of a pair of surrogates: in a value, in a key, the wrong way round; nothing of it is printed raw."""
    with pytest.raises(ConfigError) as refused:
        with_lines(text.encode(), source="x.yml")

    assert refused.value.message.startswith(said)
    assert refused.value.message.encode().isascii()


@pytest.mark.req("UX-2")
def test_a_pair_of_escapes_is_the_character_that_json_means() -> None:
    """So that what `json.dumps` wrote is read as it was; keys too, which stand twice if they are the same."""
    value, lines = with_lines(rb'{"\ud83d\ude00": "\ud83d\ude00 \u00e4", "ordinary": "\u00e4"}', source="x")

    assert value == {"\U0001f600": "\U0001f600 \u00e4", "ordinary": "\u00e4"}
    assert lines[("\U0001f600",)] == 1
    with pytest.raises(ConfigError, match="stands twice"):
        with_lines(b'"\\ud83d\\ude00": 1\n"\xf0\x9f\x98\x80": 2', source="x")
