"""A run that is followed as a person does it: what `attach` adds to a line, and how soon it is back after a cut link.

The job talks to its log; `hyops runner attach` follows it through a proxy on loopback. The same lines in a plain file,
followed by `tail -f` over OpenSSH at the same time, are the baseline of a line; a cold `ssh host true` that of the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import talker
from bench.control import HYOPS, Control, plain_ssh, quiet
from bench.dispatch import Runner, listening
from bench.measure import Row, Table, series, timed
from bench.proxy import Proxy
from bench.stages import RUNNER
from hyops.model.plan import Plan
from hyops.model.run import RunSpec

LINES_A_RUN = 10
OUTAGE_S = (1.0, 4.0)
ADDED_S, BACK_S = 0.050, 1.0
SILENCE_LIMIT_S = 60.0
TALK_LIMIT_S = 3600.0
TICK = re.compile(r"tick (\d+)")


def run(table: Table, count: int) -> None:
    """Both on one run, which talks for as long as it is listened to."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        stages, talk = Control(Path(folder)), Path(folder) / "talk"
        talk.mkdir()
        stages.plan = _long(stages.plan)
        approval = stages.stand()
        job = {"job_command": [sys.executable, talker.__file__], "options": {"folder": str(talk)}}
        with listening(stages, job) as runner, Proxy(runner.port).listening() as link:
            spec = stages.spec(approval, "talk", epoch=1)
            asyncio.run(_start(runner, spec))
            try:
                config = str(stages.dials(runner, link.port))
                attach = [HYOPS, "runner", "attach", spec.run_id, "--json", "--config", config]
                tail = plain_ssh(runner, link.port, "tail", "-n", "1", "-f", str(talk / talker.PLAIN))
                table.add(_lines(count * LINES_A_RUN, attach, tail))
                table.add(_back(count, attach, link, plain_ssh(runner, link.port, "true")))
            finally:
                (talk / talker.ENOUGH).touch()
                asyncio.run(_end(runner, spec))


def _long(plan: Plan) -> Plan:
    """The same, but its steps may take as long as the bench does."""
    steps = [step.model_copy(update={"timeout_s": TALK_LIMIT_S}) for step in plan.steps]
    return plan.model_copy(update={"steps": steps})


async def _start(runner: Runner, spec: RunSpec) -> None:
    async with runner.transport.connect(RUNNER) as session:
        await session.start(spec, {})


async def _end(runner: Runner, spec: RunSpec) -> None:
    """When it has said its last word, nothing of it is left."""
    async with runner.transport.connect(RUNNER) as session:
        async for _ in session.attach(spec.run_id):
            pass


def _lines(count: int, attach: list[str], tail: list[str]) -> Row:
    """How old a line is when it comes out, by one clock: writer and readers are on one host."""
    with _heard(attach) as ours, _heard(tail) as theirs:
        for heard in (ours, theirs):
            _fresh(heard)
        pairs = [(_age(ours), _age(theirs)) for _ in range(count)]
    followed, plain = series([a for a, _ in pairs]), series([b for _, b in pairs])
    added = followed.p50 - plain.p50
    return Row(
        "a log line, from the job to `attach`'s output",
        followed,
        baseline=plain,
        baseline_name="`tail -f` over ssh",
        goal=f"<= {ADDED_S * 1000:g} ms added",
        reached=added <= ADDED_S,
        note=f"{added * 1000:.1f} ms added at the median",
    )


def _back(count: int, attach: list[str], link: Proxy, plain: list[str]) -> Row:
    """From the moment when new connections get through again to the first line that was written while none did."""
    found, cold = [], []
    with _heard(attach) as heard:
        for _ in range(count):
            _fresh(heard)
            link.cut()
            time.sleep(random.uniform(*OUTAGE_S))
            _drain(heard)
            healed = time.monotonic_ns()
            link.heal()
            came, _ = _next(heard)
            found.append((came - healed) / 1e9)
            cold.append(timed(quiet(plain)))
    back = series(found)
    return Row(
        "a followed run, from a healed link to its next line",
        back,
        baseline=series(cold),
        baseline_name="cold `ssh host true`",
        goal=f"<= {BACK_S:g} s",
        reached=back.p95 <= BACK_S,
        note=f"broken for {OUTAGE_S[0]:g} to {OUTAGE_S[1]:g} s; every connection is reset meanwhile",
    )


Heard = queue.Queue[tuple[int, int]]


@contextlib.contextmanager
def _heard(argv: list[str]) -> Iterator[Heard]:
    """When each tick came out of a program, and when it was written, by the monotonic clock, in nanoseconds."""
    ticks: Heard = queue.Queue()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                if (found := TICK.search(line)) is not None:
                    ticks.put((time.monotonic_ns(), int(found[1])))

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        try:
            yield ticks
        finally:
            process.terminate()
            process.wait()
            reading.join()


def _next(heard: Heard) -> tuple[int, int]:
    return heard.get(timeout=SILENCE_LIMIT_S)


def _fresh(heard: Heard) -> None:
    """Return when what comes is of now: something came, and then something that was written later than that."""
    began, _ = _next(heard)
    while _next(heard)[1] < began:
        pass


def _age(heard: Heard) -> float:
    came, written = _next(heard)
    return (came - written) / 1e9


def _drain(heard: Heard) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            heard.get_nowait()
