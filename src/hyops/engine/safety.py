"""The static check of a plan: what could never be safe is refused before anybody is asked (BP-3, GATE-2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hyops.errors import UnsafePlanError
from hyops.model.plan import OF_MODULES, Plan, Step
from hyops.model.vocabulary import CutoverMode, ExecutionPlane, Phase

FENCES = frozenset({"native/fence"})
PROMOTES = frozenset({"native/postgresql-promote"})
VERIFIES = frozenset({"native/verify-write"})
CUTOVERS = frozenset({"native/dns-cutover"})
VERIFIES_TRAFFIC = frozenset({"native/verify-traffic"})
SECOND_COPIES = frozenset({"native/second-copy"})
OF_A_SWITCH = FENCES | PROMOTES | VERIFIES | CUTOVERS | VERIFIES_TRAFFIC | {"native/postgresql-follow"}
"""Each is right only before or after the others: a fence alone leaves no primary, a promotion alone leaves two."""
MANUAL_GATES = frozenset({"core/shared/manual-gate"})
_ORDER = {phase: number for number, phase in enumerate(Phase)}


def check(plan: Plan, known_modules: Collection[str]) -> None:
    """Return when the plan may be shown to an approver.

    Raises:
        UnsafePlanError: names every fault with its step.
    """
    faults = [
        *_unknown(plan.steps, known_modules),
        *_phases(plan.steps),
        *_needs(plan.steps, PROMOTES, FENCES, "promotes without a fence before it"),
        *_needs(plan.steps, CUTOVERS, VERIFIES, "cuts traffic over before the target is verified"),
        *_cutover_after_promotion(plan.steps),
        *_public(plan),
        *_wishes(plan),
        *_alone(plan),
    ]
    if faults:
        raise UnsafePlanError(f"{plan.blueprint_ref}: " + "; ".join(faults))


def refuse_alone(module_ref: str) -> None:
    """Return when a module may be all of a plan.

    Raises:
        UnsafePlanError: it is a part of a switch (INV-2).
    """
    if module_ref in OF_A_SWITCH:
        raise UnsafePlanError(
            f"{module_ref} {_A_PART}",
            hint="set target_kind: blueprint, and target_ref to one whose steps have the whole order",
        )


_A_PART = (
    "is a part of a switch and never runs alone, because the fence before it and the proofs after it would be missing: "
    "route to a blueprint that has them, such as dr/postgresql-warm-promote@v1"
)


def _alone(plan: Plan) -> list[str]:
    """What goes by the name of a single module is that module's one step, and no part of a switch."""
    if not plan.blueprint_ref.startswith(OF_MODULES):
        return []
    module_ref = plan.blueprint_ref.removeprefix(OF_MODULES).rpartition("@")[0]
    if [step.module_ref for step in plan.steps] != [module_ref]:
        named = ", ".join(step.module_ref for step in plan.steps)
        return [f"a plan by this name is one step of {module_ref}, and this one has {named or 'none'}"]
    return [f"{module_ref} {_A_PART}"] if module_ref in OF_A_SWITCH else []


def _wishes(plan: Plan) -> list[str]:
    """What the decision asked for, kept by the steps: a verified second copy before anything changes, traffic moved as
    its policy says (DEC-1a)."""
    faults = []
    if plan.secondary_backup_copy_required:
        changes = FENCES | PROMOTES
        faults += _needs(plan.steps, changes, SECOND_COPIES, "changes something before a second copy is verified")
        if not any(step.module_ref in SECOND_COPIES for step in plan.steps):
            faults.append("secondary_backup_copy_required, and no step verifies a second copy (native/second-copy)")
    if plan.cutover is None:
        return faults
    moves = [step.id for step in plan.steps if step.module_ref in CUTOVERS]
    if plan.cutover.mode is CutoverMode.NONE and moves:
        faults.append(f"step {moves[0]} moves traffic, and cutover mode none leaves it where it is")
    if plan.cutover.mode is CutoverMode.MANUAL_GATE:
        faults += _needs(plan.steps, CUTOVERS, MANUAL_GATES, "moves traffic without a manual gate before it")
    return faults


def _public(plan: Plan) -> list[str]:
    """A way in over a public address has an occasion, a source and an end that people approve (ACC-1)."""
    public = plan.execution_plane is ExecutionPlane.PUBLIC_EPHEMERAL
    if public and plan.access is None:
        return [
            "execution plane public-ephemeral is for a drill or a broken glass only, and the plan says neither: give "
            "the route `access` with occasion (drill or break-glass), source_ranges and expires_after_s, or another "
            "execution_plane"
        ]
    if plan.access is not None and not public:
        return [f"`access` opens a way over a public address, and the execution plane is {plan.execution_plane}"]
    return []


def before(steps: Sequence[Step], step: Step) -> list[Step]:
    """Every step that has certainly succeeded when `step` starts: what it requires, and what those require."""
    by_id: Mapping[str, Step] = {s.id: s for s in steps}
    found: dict[str, Step] = {}
    todo = list(step.requires)
    while todo:
        need = by_id.get(todo.pop())
        if need is not None and need.id not in found:
            found[need.id] = need
            todo.extend(need.requires)
    return list(found.values())


def _unknown(steps: Sequence[Step], known: Collection[str]) -> list[str]:
    return [f"step {s.id}: no module {s.module_ref}" for s in steps if s.module_ref not in known]


def _phases(steps: Sequence[Step]) -> list[str]:
    faults, seen = [], set()
    latest = 0
    for step in steps:
        if step.id in seen:
            faults.append(f"step {step.id} stands twice")
        if missing := [need for need in step.requires if need not in seen]:
            faults.append(f"step {step.id} requires {', '.join(missing)}, which stands nowhere before it")
        if _ORDER[step.phase] < latest:
            faults.append(f"step {step.id}: phase {step.phase} comes after a later one")
        latest = max(latest, _ORDER[step.phase])
        seen.add(step.id)
    return faults


def _needs(steps: Sequence[Step], kinds: frozenset[str], needed: frozenset[str], fault: str) -> list[str]:
    return [
        f"step {s.id} {fault}"
        for s in steps
        if s.module_ref in kinds and not any(b.module_ref in needed and not b.optional for b in before(steps, s))
    ]


def _cutover_after_promotion(steps: Sequence[Step]) -> list[str]:
    """In a plan that promotes, traffic follows the promotion, never leads it."""
    if not any(s.module_ref in PROMOTES for s in steps):
        return []
    return [
        f"step {s.id} cuts traffic over without requiring the promotion"
        for s in steps
        if s.module_ref in CUTOVERS and not any(b.module_ref in PROMOTES for b in before(steps, s))
    ]
