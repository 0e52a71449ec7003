"""Applies a module to a host and takes it away: intent on disk, the driver's work, outcome on disk (LOOP-4, MOD-2).

A second one of the same module waits for nothing and is refused while the first works; its driver's processes keep the
lock open, so that this holds too when only they are left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyops.errors import (
    ConfigError,
    Effect,
    HyopsError,
    NotVerifiedError,
    PrerequisiteError,
    RunnerUnreachableError,
    TargetError,
    foreign,
)
from hyops.model.module_spec import ModuleSpec
from hyops.model.module_state import ModuleState
from hyops.model.words import shown
from hyops.ports.plays import Play, PlayDriver, PlayResult, PlayStatus
from hyops.services.module_state import ModuleBook

AGAIN = "mend it, then run the same command again: it goes on where this one stopped"
SAID_MAX = 3000


@dataclass(frozen=True)
class Done:
    """What was found, and what became of it; `state` is None in a dry run."""

    items: list[dict[str, str]]
    changed: bool
    outputs: dict[str, Any]
    state: ModuleState | None


@dataclass
class ModuleDesk:
    """One module on one host. `published` makes its outputs of the driver's answer; `lock` yields the open lock."""

    spec: ModuleSpec
    driver: PlayDriver
    book: ModuleBook
    play: Callable[[str, bool, tuple[int, ...]], Play]
    published: Callable[[Mapping[str, Any]], dict[str, Any]]
    lock: Callable[[], contextlib.AbstractContextManager[int]]
    contract: Mapping[str, Any]
    facts: Mapping[str, Any]
    tell: Callable[[str], None] = field(default=lambda line: None)

    async def look(self, action: str) -> Done:
        """What `apply` or `destroy` would do. Nothing is changed, here or there.

        Raises:
            PrerequisiteError, HostKeyError, RunnerUnreachableError, ConfigError: nothing was touched.
        """
        with foreign():
            result = await self.driver.run(self.play(action, True, ()), self.tell)
        if result.status not in (PlayStatus.OK, PlayStatus.CHANGED):
            raise _error(result, touched=False)
        return Done(_items(result), bool(result.answer.get("wanting")), {}, None)

    async def apply(self) -> Done:
        """Have it stand.

        Raises:
            RefusedError: nothing was touched, and the state is what it was. FailedError: the state says `error` or
            `unknown`. NotVerifiedError: it stands, and does not say what it is.
        """
        return await self._do("apply", "ok")

    async def destroy(self) -> Done:
        """Have it gone."""
        return await self._do("destroy", "destroyed")

    async def _do(self, action: str, end: Any) -> Done:
        with foreign():
            version = await self.driver.version()
        with self.lock() as held:
            before = self.book.settle()
            execution = {**self.facts, "action": action, "tool_version": version}
            running = self.book.write(
                "running", before, outputs=before.outputs if before else {}, execution=execution, contract=self.contract
            )
            with self._ended(before, running, execution):
                with foreign():
                    result = await self.driver.run(self.play(action, False, (held,)), self.tell)
                if result.status not in (PlayStatus.OK, PlayStatus.CHANGED):
                    raise _error(result, touched=result.reached)
                outputs = self.published(result.answer) if action == "apply" else {}
                self._whole(outputs, action)
            changed = result.status is PlayStatus.CHANGED
            execution |= {"changed": changed, "items": len(_items(result))}
            try:
                state = self.book.write(end, running, outputs=outputs, execution=execution, contract=self.contract)
            except HyopsError as exc:
                hint = "mend what it names, then run the same command again: it changes nothing more on the host"
                raise NotVerifiedError(
                    f"it is done on the host, and not written down: {exc.message}", hint=hint
                ) from exc
        return Done(_items(result), changed, outputs, state)

    def _whole(self, outputs: Mapping[str, Any], action: str) -> None:
        unknown, lacking = outputs.keys() - set(self.spec.outputs), set(self.spec.outputs) - outputs.keys()
        if action == "apply" and (unknown or lacking):
            raise NotVerifiedError(
                f"{self.spec.module_ref}: its outputs are not those of its spec: "
                f"lacking {', '.join(sorted(lacking)) or 'none'}, unknown {', '.join(sorted(unknown)) or 'none'}",
                hint="see that the catalogue and hyops are of one release",
            )

    @contextlib.contextmanager
    def _ended(self, before: ModuleState | None, running: ModuleState, execution: Mapping[str, Any]) -> Iterator[None]:
        """Write how it ended when it did not end well; a refusal that touched nothing leaves what was there."""
        try:
            yield
        except HyopsError as exc:
            told = {**execution, "error": shown(exc.message, SAID_MAX), "exit_code": exc.exit_code}
            if exc.effect is Effect.NONE:
                stood = before is not None and before.status in ("ok", "destroyed", "unknown")
                status: Any = before.status if before is not None and stood else "error"
                contract = before.input_contract if before is not None else self.contract
                outputs = before.outputs if before is not None else {}
                self.book.write(status, running, outputs=outputs, execution=told, contract=contract)
            else:
                status = "unknown" if exc.effect is Effect.UNKNOWN else "error"
                self.book.write(status, running, outputs=running.outputs, execution=told)
            raise
        except (asyncio.CancelledError, KeyboardInterrupt) as exc:
            told = {**execution, "error": f"it was cancelled ({type(exc).__name__})"}
            self.book.write("unknown", running, outputs=running.outputs, execution=told)
            raise


def _items(result: PlayResult) -> list[dict[str, str]]:
    items = result.answer.get("items", [])
    return [{"what": shown(str(one.get("what")), 300), "state": shown(str(one.get("state")), 20)} for one in items]


def _error(result: PlayResult, *, touched: bool) -> HyopsError:
    """How it failed. What the host itself says of what it touched counts more than how far the play came."""
    message = shown(result.message, SAID_MAX)
    told = result.answer if result.answer.get("ok") is False else {}
    hint = shown(str(told.get("hint") or AGAIN), SAID_MAX)
    if result.status is PlayStatus.UNREACHABLE:
        effect = Effect.UNKNOWN if result.reached else Effect.NONE
        return RunnerUnreachableError(
            message, hint="see that the host is up, then run the same command again", effect=effect
        )
    if result.status is PlayStatus.UNKNOWN:
        return TargetError(message, hint=AGAIN, effect=Effect.UNKNOWN if touched else Effect.NONE)
    if told and not told.get("touched"):
        kind = ConfigError if told.get("config") else PrerequisiteError
        return kind(message, hint=hint)
    return TargetError(message, hint=hint, effect=Effect.PARTIAL)
