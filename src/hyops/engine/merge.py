"""Three-way merge of module state: what a run left, against the authority as it is now (RUN-6, ROOT-5). Pure.

A newer state is never overwritten. An output that only one side changed is that side's; where both changed it
differently, or the authority is behind what the run began with, or an `unknown` would replace an `ok`, nothing is
taken: a person decides, and then only about the keys that clash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hyops.model import canonical
from hyops.model.module_state import ModuleState

OUTPUT = "outputs."
_ABSENT = object()


@dataclass(frozen=True)
class Left:
    """What a run says of one state: it `publishes` these outputs and no others; `published` has those that it made."""

    status: str
    published: Mapping[str, Any]
    publishes: Sequence[str]

    def on(self, base: ModuleState | None) -> dict[str, Any]:
        """The outputs as the run knew them: those of its base, with what it published in their place."""
        outputs = dict(base.outputs) if base else {}
        if self.status != "ok":
            return outputs
        return {**{k: v for k, v in outputs.items() if k not in self.publishes}, **self.published}


@dataclass(frozen=True)
class Same:
    """The authority says so already."""


@dataclass(frozen=True)
class Take:
    """Write this as the next generation; `merged` when the authority had moved on and both sides stand in it."""

    status: str
    outputs: dict[str, Any]
    merged: bool


@dataclass(frozen=True)
class Clash:
    """Nothing may be written before a person has decided about these keys."""

    keys: list[str]
    reason: str


Merge = Same | Take | Clash


def three_way(
    base: ModuleState | None,
    ours: ModuleState | None,
    left: Left,
    *,
    prefer: Literal["ours", "theirs"] | None = None,
) -> Merge:
    """Merge what a run `left`, which began with `base`, into the authority's state `ours`.

    `prefer` decides every clash, and nothing else: what only one side changed stays that side's.
    """
    if prefer is None and _generation(ours) < _generation(base):
        reason = f"the authority is at generation {_shown(ours)}, behind {_shown(base)}, with which the run began"
        return Clash(["generation"], reason)
    moved = _generation(ours) != _generation(base)
    clashes = _status_clash(ours, left, moved)
    outputs: dict[str, Any] = {}
    theirs, before, now = left.on(base), base.outputs if base else {}, ours.outputs if ours else {}
    for key in sorted({*theirs, *before, *now}):
        sides = [side.get(key, _ABSENT) for side in (before, now, theirs)]
        if (value := _merged(*sides)) is None:
            clashes.append(OUTPUT + key)
            value = (sides[1] if prefer == "ours" else sides[2],)
        if value[0] is not _ABSENT:
            outputs[key] = value[0]
    if clashes and prefer is None:
        return Clash(clashes, _reason(ours, left, clashes))
    status = ours.status if ours and "status" in clashes and prefer == "ours" else left.status
    if ours is not None and ours.status == status and _equal(ours.outputs, outputs):
        return Same()
    return Take(status, outputs, moved)


def _status_clash(ours: ModuleState | None, left: Left, moved: bool) -> list[str]:
    """Two runs that ended differently cannot both be right, and what is not known replaces no proof (VOC-5)."""
    if ours is None or ours.status == left.status:
        return []
    return ["status"] if moved or (left.status, ours.status) == ("unknown", "ok") else []


def _merged(base: object, ours: object, theirs: object) -> tuple[object] | None:
    """The value that one side changed, or both alike; None when both changed it differently."""
    if _equal(ours, theirs) or _equal(base, theirs):
        return (ours,)
    return (theirs,) if _equal(base, ours) else None


def _equal(one: object, other: object) -> bool:
    """As JSON: `1` and `true` are two values."""
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return canonical.encode(one) == canonical.encode(other)


def _reason(ours: ModuleState | None, left: Left, clashes: list[str]) -> str:
    outputs = [key.removeprefix(OUTPUT) for key in clashes if key.startswith(OUTPUT)]
    said = [f"the authority says {ours.status}, the run {left.status}"] if ours and "status" in clashes else []
    said += [f"both sides changed {', '.join(outputs)[:1000]}"] if outputs else []
    return "; ".join(said)


def _generation(state: ModuleState | None) -> int:
    return -1 if state is None else state.generation


def _shown(state: ModuleState | None) -> str:
    return "none" if state is None else str(state.generation)
