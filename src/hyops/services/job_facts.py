"""What a job can say of its run and its host before anything else is known (INV-7)."""

from __future__ import annotations

from pathlib import Path

from hyops.engine.result import RunFacts
from hyops.errors import RecordError
from hyops.model import canonical
from hyops.runner.folders import SERVICE

NO_DIGEST = "sha256:" + "0" * 64


def bare_facts(spec_bytes: bytes, run_id: str, runner_ref: str) -> RunFacts:
    """What can be said of a run whose spec nobody could read yet."""
    service, generation = "unknown", 0
    try:
        value = canonical.parse(spec_bytes, source="spec")
        if isinstance(value, dict) and SERVICE.fullmatch(str(value.get("service"))):
            service = str(value["service"])
        if isinstance(value, dict) and type(value.get("generation")) is int and value["generation"] >= 0:
            generation = value["generation"]
    except RecordError:
        pass
    return RunFacts(run_id, runner_ref, service, generation, NO_DIGEST)


def boot_id() -> str:
    """Of this boot of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
