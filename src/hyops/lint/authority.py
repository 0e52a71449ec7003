"""Rules about where facts come from: secrets, projects, addresses and buckets have one owner and no second copy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from hyops.lint.look import (
    Hit,
    Kind,
    Workspace,
    filled_in_later,
    holders,
    is_false,
    kind_of_document,
    name_of,
    steps_of,
    texts,
    word,
)
from hyops.ports.documents import Document, Node

ROLES = {
    "host": "host",
    "network": "host",
    "runner": "host",
    "control": "control",
    "secrets": "control",
    "secret": "control",
    "gsm": "control",
    "backup": "control",
    "backups": "control",
    "repo": "control",
    "workload": "workload",
    "workloads": "workload",
}
MODULE_ROLES = (
    (re.compile(r"platform-vm|ops-runner|(^|[/-])(wan|nat)(-|$)|network"), "host"),
    (re.compile(r"secret|object-repo|backup|gsm"), "control"),
    (re.compile(r"gke|cloudsql|workload|cluster"), "workload"),
)
LOCAL = {
    "disk",
    "env",
    "environment",
    "file",
    "local",
    "onprem",
    "on-prem",
    "runner",
    "runner-disk",
    "shell",
    "on_prem",
}
LOCAL_REF = re.compile(r"^(env|file|shell|runner|disk|local|onprem|on-prem):|^[~/.]|^\$")
SOURCE_KEYS = {"source", "sources", "authority", "authorities", "secret_source", "secret_sources", "secret_authority"}
SECRET_PARTS = {"secrets", "secret", "secret_source", "secret_sources", "secret_store", "secret_authority"}
BUCKET = re.compile(r"^(gs|s3|az|azblob)://\S+$")
ADDRESS_KEYS = re.compile(
    r"(^|_)(address|addresses|host|hosts|ip|ips|endpoint|target|targets|server|url|subnet|network)$"
)
BUCKET_KEYS = re.compile(r"(^|_)(bucket|bucket_name|repo_path|repo_uri|container)$")
PROJECT_KEYS = re.compile(r"(^|_)project(_id)?$")
SAME = {
    "bucket": "repo",
    "backup": "repo",
    "object": "repo",
    "pgbackrest": "repo",
    "repository": "repo",
    "db": "postgresql",
}


def one_project(document: Document, _: Workspace) -> Iterator[Hit]:
    """One project for what must not fall together: host and network, control, workload (CAT-2)."""
    root = document.root
    if root is None or kind_of_document(document) is Kind.CI:
        return
    seen: dict[str, str] = {}
    steps = {step.node.where: step.module_ref for step in steps_of(root)}
    for node in texts(root):
        role, text = _role(node, steps), (node.text or "").strip()
        if not role or not text or filled_in_later(text):
            continue
        if seen.setdefault(text, role) != role:
            yield Hit(node, f"project {text!r} is that of {seen[text]} already, and here of {role}")
    if kind_of_document(document) is Kind.CONFIG and not any(_role(node, steps) for node in texts(root)):
        for node in texts(root):
            gcp_only = name_of(node) in ("project_id", "gcp_project_id") and _of_environment(root, node)
            if gcp_only and (node.text or "").strip():
                yield Hit(node, "one project for host, control and workload")


def _role(node: Node, steps: dict[tuple[str | int, ...], str]) -> str:
    names = [part.lower() for part in node.where if isinstance(part, str)]
    if not names:
        return ""
    last = names[-1].replace("-", "_")
    if len(names) > 1 and names[-2] in ("projects", "gcp_projects", "project_ids"):
        return ROLES.get(last.removesuffix("_project_id").removesuffix("_project"), "")
    for suffix in ("_project_id", "_project"):
        if last.endswith(suffix):
            return ROLES.get(last.removesuffix(suffix).removeprefix("gcp_"), "")
    if last in ("project_id", "project") and (module := steps.get(node.where[:2])):
        return next((role for pattern, role in MODULE_ROLES if pattern.search(module)), "")
    return ROLES.get(names[-2], "") if last == "project_id" and len(names) > 1 else ""


def _of_environment(root: Node, node: Node) -> bool:
    """Whether the document is an environment's, and the key stands at its top or under `gcp`."""
    named = any(root.get(name) is not None for name in ("env", "environment", "runners", "gcp"))
    return named and node.where[:-1] in ((), ("gcp",))


def single_source(document: Document, _: Workspace) -> Iterator[Hit]:
    """A secret whose only source is the site, a shell or a disk that may be lost (SEC-1)."""
    if kind_of_document(document) is Kind.SECRET_MAP:
        kept = {row[:2] for _, row in document.rows if not _local_ref(row[2])}
        for line, row in document.rows:
            if row[:2] not in kept:
                node = Node(line, (row[1],), text=row[2], text_line=line)
                yield Hit(node, f"{row[1]} has {row[2] or 'nothing'!r} as its only source")
        return
    if document.root is None or kind_of_document(document) is Kind.CI:
        return
    for node in document.root.below():
        if _only_local(node):
            yield Hit(node, f"{node.key} is only on the site, in a shell or on a disk")
        elif name_of(node) == "load_vault_env" and is_false(node) and _wants_env(document.root, node):
            yield Hit(node, "required_env without the vault: the shell is the only source")


def _local_ref(ref: str) -> bool:
    return not ref or LOCAL_REF.match(ref) is not None


def _only_local(node: Node) -> bool:
    """A source, or a list of sources, of secrets: every one of them local, by its kind or by its site."""
    about_secrets = any(isinstance(p, str) and p.lower().replace("-", "_") in SECRET_PARTS for p in node.where)
    if not about_secrets or name_of(node) not in SOURCE_KEYS:
        return False
    sources = node.items if node.items is not None else (node,)
    return bool(sources) and all(_local_source(one) for one in sources)


def _local_source(node: Node) -> bool:
    said = {word(node), word(node, "kind"), word(node, "site")}
    return bool({one.lower() for one in said} & LOCAL)


def _wants_env(root: Node, node: Node) -> bool:
    wanted = holders(root, node)[-1].get("required_env")
    return wanted is not None and bool(wanted.items)


def hardcoded(document: Document, workspace: Workspace) -> Iterator[Hit]:
    """An address, bucket or project written out where a state ref could say it, or written out twice (BP-1a)."""
    kind, root = kind_of_document(document), document.root
    if root is None or kind not in (Kind.BLUEPRINT, Kind.CONFIG):
        return
    here = {name_of(node) for node in root.below() if name_of(node).endswith("_state_ref")}
    modules = {step.node.where: workspace.defaults_of(step.module_ref) for step in steps_of(root)}
    named = workspace.defaults_of(word(root, "module_ref"))
    seen: dict[tuple[str, str], Node] = {}
    for node in texts(root):
        what = _literal(node)
        if not what:
            continue
        defaults = modules.get(node.where[:2]) or named
        known = here | {name for name in (defaults.entries or {}) if name.endswith("_state_ref")} if defaults else here
        ref = next((name for name in sorted(known) if _speaks_of(name, node, what)), None)
        first = seen.setdefault((what, (node.text or "").strip()), node)
        if ref is not None:
            yield Hit(node, f"{what} {(node.text or '').strip()!r} is written out, though {ref} says it")
        elif kind is Kind.BLUEPRINT and what != "project" and first.where[:2] != node.where[:2]:
            yield Hit(
                node, f"{what} {(node.text or '').strip()!r} stands here a second time (first in line {first.line})"
            )


def _literal(node: Node) -> str:
    """`address`, `bucket` or `project`, for a value that is one and is written out."""
    text = (node.text or "").strip()
    name = name_of(node) or next((p.lower() for p in reversed(node.where) if isinstance(p, str)), "")
    if not text or filled_in_later(text) or name.endswith("_state_ref"):
        return ""
    if BUCKET.match(text) or (BUCKET_KEYS.search(name) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{2,}", text)):
        return "bucket"
    if PROJECT_KEYS.search(name):
        return "project"
    return "address" if ADDRESS_KEYS.search(name) and _is_address(text) else ""


def _is_address(text: str) -> bool:
    bare = re.sub(r"^[a-z]+://", "", text).split("/")[0]
    bare = bare.rpartition(":")[0] if re.fullmatch(r"[0-9.]+:\d+", bare) else bare
    try:
        found = ip_address(bare.strip("[]"))
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


def _speaks_of(ref: str, node: Node, what: str) -> bool:
    """Whether a state ref and a key are about the same thing: their first words are, or it is one of buckets."""
    name = name_of(node) or next((p.lower() for p in reversed(node.where) if isinstance(p, str)), "")
    one, other = ref.split("_")[0], name.split("_")[0]
    if SAME.get(one, one) == SAME.get(other, other):
        return True
    return what == "bucket" and SAME.get(one, one) == "repo"
