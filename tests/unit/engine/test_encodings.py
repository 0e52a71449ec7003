"""What real shells write of a secret is known: seeded values, all of them through bash and dash (SEC-2)."""

from __future__ import annotations

import random
import subprocess

import pytest

from hyops.engine.redact import MASK, Redactor

SEED, VALUES = 2026, 300
PLAIN = "".join(map(chr, range(0x20, 0x7F)))
WIDE = "äöüßéñ£€漢😀\u00a0\u00ad\u0378\u2028"  # bash takes the last two for unprintable, and those alone
CONTROL = "\a\b\t\n\v\f\r\x1b\x01\x7f"
KNOWN = ["Pa#ss|w0rd!", "ab,cd*ef9Z", "x~y(z)longer", "ßye+GwHG6€*p3|xG", "#start|of it", "~start|of it", "a=~b:~c|d e"]
KNOWN += ["two ''quotes'' in it''", "''before and after'", " #behind|a blank", "p\u00e4ss\u00a0w\u00f6rd\u2028|9#"]
TRACE = '{ set -x; : "$V"; set +x; } 2>&1'
WRITES = {
    "bash %q": 'printf %q "$V"',
    "bash %q of an option": 'printf %q "--password=$V"',
    "bash @Q": 'printf %s "${V@Q}"',
    "bash declare": "declare -p V",
    "bash trace": TRACE,
    "dash export": "export V; export -p",
    "dash set": "set",
    "dash trace": TRACE,
}


def passwords() -> list[str]:
    """What people and generators take for passwords, and what they never should."""
    chance = random.Random(SEED)
    letters = (PLAIN, PLAIN + 3 * WIDE, PLAIN + 40 * "'", PLAIN + CONTROL)
    made = ["".join(chance.choices(letters[n % 4], k=chance.randint(12, 24))) for n in range(VALUES)]
    return KNOWN + made


def written(shell: str, locale: str, command: str, values: list[str]) -> list[bytes]:
    """What one process of the shell writes of each value, as `command` writes `$V`."""
    done = subprocess.run(
        [shell, "-c", f'for V; do {command}; printf "\\0"; done', shell, *values],
        env={"LC_ALL": locale, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_no_shell_writes_a_password_in_a_way_that_is_not_known(locale: str) -> None:
    """Quoted, escaped and traced, on its own and behind `--password=`: always masked, and no piece of it is left."""
    values = passwords()
    redactors = [Redactor({"K": value}) for value in values]
    readable = []
    for name, command in WRITES.items():
        said = written(name.split()[0], locale, command, values)
        assert len(said) == len(values)
        for value, redactor, data in zip(values, redactors, said, strict=True):
            secret, shown = value.strip().encode(), redactor.data(data)
            pieces = [secret[n : n + 5] for n in range(len(secret) - 4)]
            if MASK.encode() not in shown or any(piece in shown for piece in pieces):
                readable.append((name, value, shown[-60:]))

    assert readable == [], f"seed {SEED}"
