"""Drivers for tests and benches: one that changes nothing, one that does what a script says and counts its effects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyops.model.base import Part
from hyops.ports.driver import Driver, Reconciled, StepContext, StepResult


class NoInputs(Part):
    """A module without inputs."""


class AnyInputs(Part):
    """A module that takes one word, to show that inputs are checked."""

    word: str | None = None


class Noop:
    """Changes nothing and reports it as such."""

    inputs: type[Part] = NoInputs

    async def preflight(self, context: StepContext) -> list[str]:
        """Nothing can stop it."""
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Do nothing."""
        return StepResult(changed=False)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Doing nothing again is harmless."""
        return Reconciled.NOT_DONE, None


Act = Callable[[StepContext], Awaitable[StepResult] | StepResult]


@dataclass
class Scripted:
    """Does what `acts` says for a step id, and writes every effect down where a crash does not reach it.

    `effects` outlives the engine under test (or is a file, for real processes). `verdicts` overrides what the probe
    says; without one it tells the truth: done, if the effect stands.
    """

    effects: list[str] = field(default_factory=list)
    file: Path | None = None
    acts: Mapping[str, Act] = field(default_factory=dict)
    outputs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: Mapping[str, Reconciled] = field(default_factory=dict)
    faults: Mapping[str, list[str]] = field(default_factory=dict)
    inputs: type[Part] = AnyInputs

    def done(self) -> list[str]:
        """Every effect so far, in order."""
        return self.file.read_text().split() if self.file and self.file.exists() else list(self.effects)

    async def preflight(self, context: StepContext) -> list[str]:
        """What the script says."""
        return self.faults.get(context.step_id, [])

    async def apply(self, context: StepContext) -> StepResult:
        """Make the effect, then what the script adds."""
        if (act := self.acts.get(context.step_id)) is not None:
            result = act(context)
            return result if isinstance(result, StepResult) else await result
        return self.effect(context)

    def effect(self, context: StepContext) -> StepResult:
        """Write the effect down."""
        self.effects.append(context.step_id)
        if self.file is not None:
            with self.file.open("a") as out:
                out.write(context.step_id + "\n")
        return StepResult(outputs=self.outputs.get(context.step_id, {}))

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Look at what was written down."""
        verdict = self.verdicts.get(context.step_id)
        if verdict is None:
            verdict = Reconciled.DONE if context.step_id in self.done() else Reconciled.NOT_DONE
        result = StepResult(outputs=self.outputs.get(context.step_id, {})) if verdict is Reconciled.DONE else None
        return verdict, result


async def never(context: StepContext) -> StepResult:
    """An act that does not end by itself."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def drivers(scripted: Scripted) -> dict[str, Driver]:
    """`native/noop`, and `test/step` (and the names of the real switch) for the scripted one."""
    names = ("test/step", "native/fence", "native/postgresql-promote", "native/verify-write", "native/dns-cutover")
    return {"native/noop": Noop(), **dict.fromkeys(names, scripted)}
