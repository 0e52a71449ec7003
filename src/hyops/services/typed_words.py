"""What a person types for others to read and to be signed: there, not endless, and text."""

from __future__ import annotations

from hyops.errors import UsageError


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
