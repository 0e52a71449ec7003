"""What the rules look at: kinds of documents, steps, routes and words, read the same way by every rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hyops.model.routes import kind_of
from hyops.model.vocabulary import DecisionType
from hyops.ports.documents import Document, Node

CI_PLACE = re.compile(r"(^|/)(\.github|\.forgejo|\.gitea)/workflows/|(^|/)\.gitlab-ci\.ya?ml$|(^|/)gitlab-ci/")
TRUE = {"true", "yes", "on"}
CLOUDS = {"gcp", "gke", "azure", "aks", "aws", "ec2", "eks", "hetzner", "proxmox"}


class Kind(StrEnum):
    """What a document is for."""

    BLUEPRINT = "blueprint"
    MODULE = "module"
    CI = "ci"
    SECRET_MAP = "secret-map"  # noqa: S105  # a kind of file
    CONFIG = "config"
    """Environments, routes, module inputs: everything else that a person sets."""


@dataclass(frozen=True)
class Hit:
    """One place that a rule objects to."""

    node: Node
    message: str
    line: int | None = None


@dataclass(frozen=True)
class Step:
    """One step of a blueprint."""

    node: Node
    name: str
    module_ref: str
    inputs: Node | None


class Workspace:
    """All documents of one look: a step finds the spec of its module here."""

    def __init__(self, documents: Sequence[Document]) -> None:
        modules = [one.root for one in documents if kind_of_document(one) is Kind.MODULE]
        self._defaults = {word(root, "module_ref"): at(root, "inputs", "defaults") for root in modules}

    def defaults_of(self, module_ref: str) -> Node | None:
        """`inputs.defaults` of a module's spec; None when its spec was not looked at."""
        return self._defaults.get(module_ref)


def kind_of_document(document: Document) -> Kind:
    """By `kind`, by place, then by shape."""
    root = document.root
    if root is None:
        return Kind.SECRET_MAP
    said = word(root, "kind")
    if said == "BlueprintSpec":
        return Kind.BLUEPRINT
    if said == "ModuleSpec":
        return Kind.MODULE
    if CI_PLACE.search(document.path) or _forge(root) or _gitlab(root):
        return Kind.CI
    if word(root, "blueprint_ref") and at(root, "steps"):
        return Kind.BLUEPRINT
    return Kind.CONFIG


def _forge(root: Node) -> bool:
    """A workflow, or an action of several steps, of GitHub or Forgejo."""
    return (at(root, "on") is not None and at(root, "jobs") is not None) or at(root, "runs", "steps") is not None


def _gitlab(root: Node) -> bool:
    jobs = [node for node in (root.entries or {}).values() if node.get("script") is not None]
    return bool(jobs) and (root.get("stages") is not None or any(job.get("stage") for job in jobs))


def at(node: Node | None, *names: str) -> Node | None:
    """The node under a path of keys."""
    for name in names:
        node = node.get(name) if node is not None else None
    return node


def word(node: Node | None, *names: str) -> str:
    """The text under a path of keys, stripped; empty where there is none."""
    found = at(node, *names)
    return (found.text or "").strip() if found is not None else ""


def is_true(node: Node | None) -> bool:
    """Whether YAML or a person would say yes."""
    return node is not None and (node.text or "").strip().lower() in TRUE


def is_false(node: Node | None) -> bool:
    """Whether it says no in so many words."""
    return node is not None and (node.text or "").strip().lower() in {"false", "no", "off"}


def name_of(node: Node) -> str:
    """The key that a value stands under, with underscores; empty in a list."""
    last = node.where[-1] if node.where else ""
    return last.lower().replace("-", "_") if isinstance(last, str) else ""


def filled_in_later(text: str) -> bool:
    """Whether a value is a place for another one (`{{ x }}`, `${x}`, `CHANGE_ME_x`)."""
    return "{{" in text or "${" in text or text.startswith("CHANGE_ME")


def texts(node: Node | None) -> Iterator[Node]:
    """Every scalar below."""
    if node is not None:
        yield from (one for one in node.below() if one.text is not None)


def clouds_in(text: str) -> set[str]:
    """The providers that a name speaks of."""
    return set(re.split(r"[^a-z0-9]+", text.lower().replace("ec2", " ec2 "))) & CLOUDS


def steps_of(root: Node | None) -> Iterator[Step]:
    """The steps of a blueprint that are mappings."""
    steps = at(root, "steps")
    for node in (steps.items or ()) if steps is not None else ():
        if node.entries is not None:
            yield Step(node, word(node, "id"), word(node, "module_ref"), node.get("inputs"))


def routes_of(root: Node | None) -> Iterator[tuple[DecisionType, Node]]:
    """Every route below a `dispatcher_routes`, wherever that stands; words that are no decision type are left out."""
    for node in root.below() if root is not None else ():
        if name_of(node) != "dispatcher_routes":
            continue
        for name, entry in (node.entries or {}).items():
            try:
                kind = kind_of(name)
            except ValueError:
                continue
            for route in entry.items if entry.items is not None else (entry,):
                if route.entries is not None:
                    yield kind, route


def recovers(root: Node | None) -> bool:
    """Whether a blueprint is one of those that run while something is lost or overloaded."""
    reference = word(root, "blueprint_ref")
    return reference.startswith(("dr/", "burst/")) or re.search(r"failover|failback|burst", reference) is not None


def holders(root: Node | None, node: Node) -> list[Node]:
    """What a node stands in, from the root to the nearest."""
    found: list[Node] = []
    holder = root
    for part in node.where:
        if holder is None:
            break
        found.append(holder)
        holder = holder.items[part] if isinstance(part, int) and holder.items else holder.get(str(part))
    return found


def lines_of(node: Node) -> Iterator[tuple[int, str]]:
    """The lines of a text with their lines in the file; of a folded one as near as can be."""
    for number, line in enumerate((node.text or "").split("\n")):
        yield node.text_line + number, line
