"""How a secret looks after somebody encoded it: in JSON, in a URL, for a shell, in base64 at any alignment (SEC-2).

Pure: a text in, byte strings out. A value of several lines is also looked for line by line, because logs cut at line
ends; the armour of a PEM block is no secret, and is left alone.
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

LENGTH_MIN = 4  # a shorter value would blank out half of every sentence
LINE_MIN = 8  # one line of a longer value: short lines ("}", "true") are everybody's
CORE_MIN = 4  # characters of base64 that depend on nothing but the secret
EDGE = 3  # so many characters of a core may stand on another line and it is still found
ARMOUR = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]+-----")
URL_SAFE = ("", "/", "!'()*~", ";,/?:@&=+$-_.!~*'()#")  # quote, quote of a path, encodeURIComponent, encodeURI
ANSI_C = dict(zip(b"\a\b\t\n\v\f\r\x1b\\'", (rf"\{c}" for c in "abtnvfrE\\'"), strict=True))
SHELL_SPECIAL = (re.compile(r"[^\w@%+=:,./-]", re.ASCII), re.compile(r"[^\w@%+=:,./\x80-\U0010ffff-]", re.ASCII))
BASH_SPECIAL = re.compile(r"""[ \t|&;()<>!{}*\[\]?^$"'`\\,]|(?<=[=:])~""")
UNPRINTABLE = {"Cc", "Cn", "Cs", "Zl", "Zp"}  # to glibc, and so to bash


def literals(value: str) -> set[bytes]:
    """Every form that is found as it stands, longest needles and single lines alike."""
    found: set[bytes] = set()
    for text in _texts(value):
        found |= {form.encode("utf-8", "surrogatepass") for form in _escaped(text)}
        raw = text.encode("utf-8", "surrogatepass")
        found |= {raw.hex().encode(), raw.hex().upper().encode(), repr(raw)[2:-1].encode()}
        found |= {form for form in _base64(raw) if len(form) >= CORE_MIN}
    return {form for form in found if len(form) >= LENGTH_MIN}


def wrapped(value: str) -> set[bytes]:
    """Base64 long enough to be broken over lines; what is left of it when a line end cut off its edges stands alone."""
    raw = value.strip().encode("utf-8", "surrogatepass")
    long = [form for form in _base64(raw) if len(form) >= 16 + 4 * EDGE]
    return {form[EDGE:-EDGE] for form in long} | {form[2 * EDGE + 1 : -EDGE] for form in long}


def _texts(value: str) -> Iterator[str]:
    """The value, and its lines where it has several."""
    whole = value.strip()
    if len(whole) < LENGTH_MIN:
        return
    yield whole
    lines = whole.splitlines()
    if len(lines) > 1:
        yield "\r\n".join(lines)
        yield "\n".join(lines)
        for line in lines:
            if len(line.strip()) >= LINE_MIN and not ARMOUR.fullmatch(line.strip()):
                yield line.strip()


def _escaped(text: str) -> Iterator[str]:
    yield text
    for ascii_only in (True, False):
        in_json = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield in_json
        yield in_json.replace("/", "\\/")
        yield in_json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")  # as Go writes it
        yield json.dumps(in_json, ensure_ascii=ascii_only)[1:-1]  # a log line in JSON that quotes JSON
    raw = text.encode("utf-8", "surrogatepass")
    for safe in URL_SAFE:
        for form in (quote(raw, safe=safe), quote_plus(raw, safe=safe)):
            for often in (form, quote(form, safe=safe)):  # once, and as a parameter of a URL within a URL
                yield often
                yield re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), often)
    yield text.replace("'", "'\"'\"'")  # shlex.quote
    yield re.sub("'+", r"""'"\g<0>"'""", text).removesuffix("'")  # dash: a run of them at once, and no '' at the end
    yield text.replace("'", "'\\''")  # by hand, and bash's %q of old
    yield re.sub(r'([\\"$`])', r"\\\1", text)  # within double quotes
    for special in SHELL_SPECIAL:
        yield special.sub(r"\\\g<0>", text)  # whatever is not plain
    # printf %q of bash. It also escapes a # or ~ that begins the word: this is found behind that, and in `--key=#...`
    yield BASH_SPECIAL.sub(r"\\\g<0>", text)
    yield _ansi_c(text, wide=False)
    yield _ansi_c(text, wide=True)
    yield repr(text)[1:-1]
    yield text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    yield html.escape(text, quote=False)
    yield html.escape(text)
    yield html.escape(text).replace("&#x27;", "&#39;")
    yield html.escape(text).replace("&#x27;", "&apos;").replace("&#34;", "&quot;")


def _ansi_c(text: str, *, wide: bool) -> str:
    """Within bash's `$'...'`, as `printf %q` and `set -x` write it: in octal what the locale cannot print."""
    return "".join(c if wide and c > "\x7f" and unicodedata.category(c) not in UNPRINTABLE else _octal(c) for c in text)


def _octal(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return "".join(ANSI_C.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}") for byte in raw)


def _base64(raw: bytes) -> Iterator[bytes]:
    """Whole, and the part that is the same whatever stands before and after it, at each of the three alignments."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(raw)
        yield whole
        yield whole.rstrip(b"=")
        for before in range(3):
            first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
            yield encode(b"\0" * before + raw)[first:last]
