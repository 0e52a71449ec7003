"""What a secret looks like that nobody told us about: in logs of other programs, beside known values (SEC-2).

Only what is hardly ever anything else. A bare `token` is not on the list: a fencing token is a number that a reader
of a log needs. Source: the documented forms of the tokens (prefix of Vault's and OpenBao's, Google's OAuth, GitHub's,
GitLab's), RFC 7468 for PEM, RFC 6750 and 7617 for headers, RFC 3986 for user information in a URL.
"""

from __future__ import annotations

import re

NAMES = (
    "password",
    "passwd",
    "passphrase",
    "pgpassword",
    "client_secret",
    "secret_id",
    "secret_key",
    "secret_access_key",
    "api_key",
    "apikey",
    "access_token",
    "refresh_token",
    "id_token",
    "private_key",
)
PREFIXES = ("hvs.", "hvb.", "hvr.", "ya29.", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "eyj")
BEGIN = "-----begin"
TRIGGERS = tuple(word.encode() for word in (*NAMES, *PREFIXES, "authorization", "bearer", "://", BEGIN))
"""Where one may begin, in lower case: a stream waits for the end of the line from there on, or of the PEM block."""

PATTERNS = tuple(
    re.compile(text, re.IGNORECASE | re.DOTALL)
    for text in (
        rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(.*?)-----END",
        rb"authorization[\"']?[ \t]*[:=][ \t]*[\"']?(?:[a-z0-9-]+[ \t]+)?([^\s\"',]{8,})",
        rb"bearer[ \t]+([A-Za-z0-9._~+/=-]{20,})",
        rb"://[^\s/@:\"']*:([^\s/@\"']+)@",
        rb"(?:" + "|".join(NAMES).encode() + rb")[\"']?[ \t]*(?:=|:|=>)[ \t]*[\"']?([^\s\"',;&)}\]]{4,})",
        rb"\b((?:hv[sbr]\.|ya29\.)[A-Za-z0-9_.-]{16,})",
        rb"\b((?:gh[pos]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,})",
        rb"\b(eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})",
    )
)
"""The first group is what is masked."""

LINE_MAX = 16 * 1024  # so much is waited for: a longer line, or block, goes out as it comes


def spans(data: bytes) -> list[tuple[int, int]]:
    """Where they are."""
    return [found.span(1) for pattern in PATTERNS for found in pattern.finditer(data) if found[1]]


def begun(data: bytes) -> int:
    """From here on one may be under way; the length of the data where none is."""
    lower = data.lower()
    line = data.rfind(b"\n") + 1
    places = [lower.find(word, line) for word in TRIGGERS]
    places.append(lower.find(BEGIN.encode(), lower.rfind(b"-----end") + 1))  # a block that has no end yet
    first = min((at for at in places if at != -1), default=len(data))
    return first if len(data) - first <= LINE_MAX else len(data)
