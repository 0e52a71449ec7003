"""Rules about layers: runners stand before the incident, modules do one thing, dispatch is above them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hyops.lint.look import (
    Hit,
    Kind,
    Workspace,
    at,
    clouds_in,
    holders,
    is_true,
    kind_of_document,
    lines_of,
    name_of,
    recovers,
    routes_of,
    steps_of,
    texts,
    word,
)
from hyops.model.vocabulary import DecisionType
from hyops.ports.documents import Document, Node

RUNNER = re.compile(r"ops[-_]runner")
CLOUD_RUNNER = {"gcp", "azure", "aws", "hetzner"}
VERBS = "runner|blueprint|apply|deploy|run"
DISPATCH = re.compile(rf"\bhyops\s+(?:-\S+\s+(?:(?!(?:{VERBS})\b)[^-\s]\S*\s+)?)*({VERBS})\b")
DISPATCH_KEYS = {"dispatch_env", "runner_blueprint_cmd", "runner_job_root", "sync_env", "runner_state_ref"}
DISPATCH_REF = re.compile(r"(^|[/_-])dispatch(er)?([/_-]|$)")


def dr_creates_runner(document: Document, _: Workspace) -> Iterator[Hit]:
    """A recovery that builds the runner it runs on: in a blueprint, by its route, or in CI without a condition."""
    if recovers(document.root):
        for step in steps_of(document.root):
            named = next(
                (n for n in ("module_ref", "blueprint_ref", "state_instance") if RUNNER.search(word(step.node, n))), ""
            )
            present = word(step.inputs, "runner_state") != "absent"
            if named and present:
                yield Hit(step.node.entries[named], f"step {step.name!r} makes the runner in the middle of a recovery")  # type: ignore[index]
    for kind, route in routes_of(document.root):
        target = at(route, "target_ref")
        if kind is not DecisionType.HOLD and target is not None and RUNNER.search(target.text or ""):
            yield Hit(target, f"the route for {kind} begins by making a runner")
    if kind_of_document(document) is Kind.CI:
        yield from _ci_creates(document.root)


def _ci_creates(root: Node | None) -> Iterator[Hit]:
    shell = [node for node in texts(root) if name_of(node) in ("run", "script") or _in_script(node)]
    dispatches = any(re.search(r"\bdr/|failover|failback", line) for node in shell for _, line in lines_of(node))
    for node in shell if dispatches else ():
        for line, text in lines_of(node):
            if DISPATCH.search(text) and RUNNER.search(text) and "dr/" not in text and not _conditional(root, node):
                yield Hit(node, "the workflow makes a runner each time, not only when it is missing", line)


def _in_script(node: Node) -> bool:
    return len(node.where) > 1 and isinstance(node.where[-1], int) and node.where[-2] == "script"


def _conditional(root: Node | None, node: Node) -> bool:
    """Whether the step or its job has a condition."""
    return any(one.get("if") is not None or one.get("rules") is not None for one in holders(root, node))


def failback_through_cloud(document: Document, _: Workspace) -> Iterator[Hit]:
    """The way home that needs the place one wants to leave (RUN-2)."""
    for kind, route in routes_of(document.root):
        if kind is DecisionType.FAILBACK:
            yield from _through(route, "the route home")
    if "failback" in word(document.root, "blueprint_ref"):
        for step in steps_of(document.root):
            for holder in (step.node, step.inputs):
                if holder is not None:
                    yield from _through(holder, f"step {step.name!r}")


def _through(holder: Node, what: str) -> Iterator[Hit]:
    runner, plane = at(holder, "runner_ref"), at(holder, "execution_plane")
    if runner is not None and clouds_in(runner.text or "") & CLOUD_RUNNER:
        yield Hit(runner, f"{what} runs on {runner.text}, in the cloud")
    elif plane is not None and (plane.text or "").strip() == "gcp-iap":
        yield Hit(plane, f"{what} reaches the site through a cloud")


def provider_in_bootstrap(document: Document, _: Workspace) -> Iterator[Hit]:
    """`platform/linux/*` that knows a provider: egress and VM have their own layers (CAT-1)."""
    root = document.root
    if kind_of_document(document) is not Kind.MODULE or not word(root, "module_ref").startswith("platform/linux/"):
        return
    inputs = at(root, "inputs")
    for node in inputs.below() if inputs is not None else ():
        if clouds_in(name_of(node)):
            yield Hit(node, f"input {name_of(node)!r} is of {', '.join(sorted(clouds_in(name_of(node))))}")
    for place in (at(root, "execution"), at(root, "dependencies"), at(root, "requirements")):
        for node in texts(place):
            if found := clouds_in(node.text or ""):
                yield Hit(node, f"{node.text!r} is of {', '.join(sorted(found))}")


def dispatch_in_module(document: Document, _: Workspace) -> Iterator[Hit]:
    """A module, or a step's module, that starts runs itself; dispatch lives in the CLI and the executor."""
    kind, root = kind_of_document(document), document.root
    if kind is Kind.MODULE:
        reference = at(root, "module_ref")
        if (
            reference is not None
            and DISPATCH_REF.search(reference.text or "")
            and "decision-" not in (reference.text or "")
        ):
            yield Hit(reference, "a module for dispatch")
        for node in root.below() if root is not None else ():
            yield from _dispatches(node)
    elif kind is Kind.BLUEPRINT:
        for step in steps_of(root):
            if DISPATCH_REF.search(step.module_ref) and "decision-" not in step.module_ref:
                yield Hit(step.node.entries["module_ref"], f"step {step.name!r} dispatches from inside a run")  # type: ignore[index]
            for node in step.inputs.below() if step.inputs is not None else ():
                yield from _dispatches(node)
    elif kind is Kind.CONFIG:
        for node in texts(root):
            yield from _acts_by_itself(node)


def _dispatches(node: Node) -> Iterator[Hit]:
    if name_of(node) in DISPATCH_KEYS and (node.text is None or node.text.strip()):
        yield Hit(node, f"{name_of(node)!r} is a word of dispatch")
        return
    yield from _acts_by_itself(node)
    for line, text in lines_of(node) if node.text else ():
        if (found := DISPATCH.search(text)) is not None:
            yield Hit(node, f"`hyops {found[1]}` inside of a module", line)


def _acts_by_itself(node: Node) -> Iterator[Hit]:
    name, text = name_of(node), (node.text or "").strip()
    if name in ("decision_execution_mode", "execution_mode") and text == "local-hyops":
        yield Hit(node, "the decision service would run hyops itself")
    elif name == "decision_enable_actions" and is_true(node):
        yield Hit(node, "the decision service would act by itself")
