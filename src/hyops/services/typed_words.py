"""What a person types for others to read and to be signed: there, not endless, and text."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from hyops.errors import UsageError
from hyops.model.base import Name

NAME: TypeAdapter[str] = TypeAdapter(Name)
TEXT_MAX, WHO_MAX = 4096, 256


def refuse_unwritable(option: str, text: str, most: int) -> None:
    """Return when it can stand in a signed record: 1 to `most` characters, not only blanks, in UTF-8.

    Raises:
        UsageError: it cannot; names the option.
    """
    if not text.strip() or len(text) > most:
        raise UsageError(f"{option}: {len(text)} characters; 1 to {most} are needed, for whoever reads it at 03:00")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(
            f"{option}: character {exc.start + 1} is no UTF-8, so it cannot be signed",
            hint="type it anew without that character, or set the terminal to UTF-8",
        ) from exc


def refuse_unsayable(*, who: str, note: str | None, **more: str | None) -> None:
    """Return when what a person signs can be written: `who` signs, and why; `more` by option. None: not given.

    Raises:
        UsageError: it cannot; names the option.
    """
    refuse_unwritable("--approver", who, WHO_MAX)
    for option, text in {"note": note, **more}.items():
        if text is not None:
            refuse_unwritable(f"--{option.replace('_', '-')}", text, TEXT_MAX)


def refuse_unnamed(option: str, text: str) -> None:
    """Return when it can be the name of a service, a record or a place; UsageError names the option otherwise."""
    try:
        NAME.validate_python(text)
    except ValidationError as exc:
        raise UsageError(
            f"{option} {text[:80]!r} is no name: up to 64 letters, digits, '.', '-' or '_', a letter or digit first"
        ) from exc
