"""A runtime root is selected, in one order, or the command is refused (ROOT-1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyops.errors import UsageError
from hyops.services.root import select_root

HOME = Path("/h")
ENVS = HOME / ".hybridops" / "envs"


@pytest.mark.req("ROOT-1")
@pytest.mark.parametrize(
    ("root", "env", "environ", "chosen"),
    [
        ("/r", None, {"HYOPS_RUNTIME_ROOT": "/x", "HYOPS_ENV": "dev"}, Path("/r")),
        (None, None, {"HYOPS_RUNTIME_ROOT": "/x", "HYOPS_ENV": "dev"}, Path("/x")),
        (None, "prod", {"HYOPS_ENV": "dev"}, ENVS / "prod"),
        (None, None, {"HYOPS_ENV": "dev"}, ENVS / "dev"),
        (None, None, {"HYOPS_RUNTIME_ROOT": "", "HYOPS_ENV": "dev"}, ENVS / "dev"),
    ],
)
def test_the_first_selection_wins(root: str | None, env: str | None, environ: dict[str, str], chosen: Path) -> None:
    """`--root`, then HYOPS_RUNTIME_ROOT, then `--env`, then HYOPS_ENV."""
    assert select_root(Path(root) if root else None, env, environ, HOME) == chosen


@pytest.mark.req("ROOT-1")
def test_without_a_selection_nothing_is_guessed() -> None:
    """Neither the home folder nor the working directory."""
    with pytest.raises(UsageError):
        select_root(None, None, {"HOME": "/h"}, HOME)


@pytest.mark.req("ROOT-1")
@pytest.mark.parametrize(("root", "env"), [("/r", "dev"), (None, "../dev"), (None, "a" * 65), (None, ".hidden")])
def test_two_selections_and_odd_names_are_usage_errors(root: str | None, env: str | None) -> None:
    """`--root` with `--env`; a name that would leave its folder."""
    with pytest.raises(UsageError):
        select_root(Path(root) if root else None, env, {}, HOME)
