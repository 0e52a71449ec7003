"""What a job gets of what was handed over, and what becomes of a run whose secrets are gone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hyops.errors import Effect, HyopsError, PrerequisiteError, RecordError, SecretsError, UnsafePlanError
from hyops.model.vocabulary import SecretOrigin
from hyops.runner import offer
from hyops.services.clean_streams import CleanStreams
from hyops.services.execution_parts import no_secrets
from hyops.services.job_secrets import named_secrets
from hyops.testing.runs import noop_plan, spec_of

PLAN = noop_plan().model_copy(update={"sync_env": {"A": SecretOrigin.VAULT}})


def plain(handed: Mapping[str, str], env: str) -> Mapping[str, str]:
    """As they came."""
    return handed


def shut(handed: Mapping[str, str], env: str) -> Mapping[str, str]:
    """A seal that is too old."""
    raise SecretsError("they expired", effect=Effect.NONE)


@pytest.mark.req("RUN-8")
def test_a_job_gets_what_its_plan_names_and_no_more() -> None:
    """A value that nobody approved is dropped, also where it lies beside the others."""
    assert named_secrets(PLAN, {"A": "1", "B": "2"}, plain, fresh=True, cancelled=False) == {"A": "1"}


@pytest.mark.req("RUN-8", "RUN-5")
@pytest.mark.parametrize(
    ("handed", "opened", "fresh", "error"),
    [
        ({}, plain, True, SecretsError),
        ({}, plain, False, SecretsError),
        ({"A": "x"}, shut, True, PrerequisiteError),
        ({"A": "x"}, shut, False, SecretsError),
    ],
)
def test_without_its_secrets_a_run_makes_no_effect(
    handed: dict[str, str], opened: object, fresh: bool, error: type[HyopsError]
) -> None:
    """A fresh one is refused; one that was under way stays open for whoever has them."""
    with pytest.raises(error):
        named_secrets(PLAN, handed, opened, fresh=fresh, cancelled=False)  # type: ignore[arg-type]


@pytest.mark.req("RUN-5")
def test_a_run_without_its_secrets_can_still_be_cancelled() -> None:
    """Whoever cancels after a reboot needs none of them."""
    assert named_secrets(PLAN, {}, plain, fresh=False, cancelled=True) == {}
    assert named_secrets(PLAN, {"A": "x"}, shut, fresh=False, cancelled=True) == {}


@pytest.mark.req("RUN-8", "SEC-3", "GATE-3")
@pytest.mark.parametrize(
    ("handed", "sealed_only", "error"),
    [
        ({}, False, UnsafePlanError),
        ({"A": "x", "B": "y"}, False, UnsafePlanError),
        ({"B": "y"}, False, UnsafePlanError),
        ({"A": "x"}, True, PrerequisiteError),
        ({offer.SEALED: json.dumps({"keys": ["A"]})}, False, PrerequisiteError),
        ({offer.SEALED: json.dumps({"keys": ["A", "B"]})}, True, UnsafePlanError),
        ({offer.SEALED: json.dumps({"keys": []})}, True, UnsafePlanError),
        ({offer.SEALED: json.dumps({"keys": ["A"]}), "A": "x"}, True, RecordError),
        ({offer.SEALED: "x" * 9}, True, RecordError),
        ({offer.SEALED: json.dumps({"keys": "A"})}, True, RecordError),
    ],
)
def test_the_door_takes_the_named_secrets_only(
    handed: dict[str, str], sealed_only: bool, error: type[HyopsError]
) -> None:
    """Fewer, more, others, plain where sealed ones are due, a seal that is none: refused, and never quoted."""
    with pytest.raises(error) as refused:
        offer.fitting_secrets(spec_of(PLAN).body(), handed, sealed_only=sealed_only)
    assert "xxxxxxxxx" not in refused.value.message


@pytest.mark.req("RUN-8")
def test_the_door_takes_what_fits() -> None:
    """Plain ones, a seal, and nothing where nothing is named."""
    offer.fitting_secrets(spec_of(PLAN).body(), {"A": "x"}, sealed_only=False)
    offer.fitting_secrets(spec_of(PLAN).body(), {offer.SEALED: json.dumps({"keys": ["A"]})}, sealed_only=True)
    offer.fitting_secrets(spec_of(noop_plan()).body(), {}, sealed_only=True)


@pytest.mark.req("RUN-8")
def test_an_executor_without_secrets_leaves_the_run_to_who_has_them() -> None:
    """It is no refusal, which would close the attempt."""
    assert no_secrets(noop_plan()) == {}
    with pytest.raises(SecretsError) as said:
        no_secrets(PLAN)
    assert said.value.effect is Effect.NONE


STREAMS = """
import os, subprocess, sys
from hyops.engine.redact import Redactor
from hyops.services.clean_streams import CleanStreams
with CleanStreams() as streams:
    print("before")
    streams.guard(Redactor({"A": "canary-1234"}))
    print("canary-1234 out"); print("canary-1234 err", file=sys.stderr)
    sys.stdout.flush(); os.write(1, b"cana"); os.write(1, b"ry-1234 cut\\n")
    subprocess.run(["echo", "canary-1234 child"])
    if sys.argv[1:]:
        raise ValueError("canary-1234 broke it")
print("after")
"""


@pytest.mark.req("SEC-2", "INV-10")
@pytest.mark.fault(21)
@pytest.mark.parametrize("words", [[], ["raise"]])
def test_what_a_process_and_its_children_print_is_cleaned(tmp_path: Path, words: list[str]) -> None:
    """Both streams, a value cut in two, a child's output, a traceback: no value in the file, every line is there."""
    with (tmp_path / "said").open("wb") as said:
        done = subprocess.run([sys.executable, "-c", STREAMS, *words], stdout=subprocess.PIPE, stderr=said, check=False)
    text = (tmp_path / "said").read_text()
    assert b"canary-1234" not in done.stdout
    assert "canary-1234" not in text
    assert all(f"*** {word}" in text for word in ("out", "err", "cut", "child"))
    assert (done.returncode == 0, "ValueError: *** broke it" in text) == (not words, bool(words))


FULL = """
import os, subprocess
from hyops.services.clean_streams import CleanStreams
log = os.open("LOG", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
with CleanStreams():
    done = subprocess.run(["sh", "-c", "head -c 400000 /dev/zero | tr '\\\\0' x"])
    os.write(1, b"the last word")
os._exit(done.returncode)
"""


@pytest.mark.req("SEC-2", "RUN-5")
@pytest.mark.fault(12)
def test_a_child_that_prints_on_a_full_disk_ends(tmp_path: Path) -> None:
    """What cannot be written is dropped, never waited for; no thread dies of it, and none prints."""
    program = FULL.replace("LOG", "/dev/full")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.req("SEC-2")
def test_what_was_dropped_is_told_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says how much is not here and why; what comes after it is whole."""
    streams, written = CleanStreams(), bytearray()
    streams._out = 99
    full = [True]

    def write(fd: int, data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.extend(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    streams._pass_on(b"one\n")
    streams._pass_on(b"two\n")
    full[0] = False
    streams._pass_on(b"three\n")
    streams._pass_on(b"four\n")
    assert bytes(written) == b"\nhyops: 8 bytes of output are lost here: No space left on device\nthree\nfour\n"
