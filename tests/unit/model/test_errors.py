"""What is not ours raises what it likes, and one kind of error comes out."""

from __future__ import annotations

import asyncio

import pytest

from hyops.errors import Effect, HyopsError, TargetError, foreign


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("raised", [ValueError("x"), OSError(5, "x"), TimeoutError(), AssertionError("x"), EOFError()])
def test_an_error_that_no_port_knows_is_named(raised: Exception) -> None:
    """A bug of somebody's, exit code 30, with its effect unknown and the cause kept for the traceback."""
    with pytest.raises(HyopsError, match=f"^{type(raised).__name__}: ") as caught, foreign():
        raise raised

    assert type(caught.value) is HyopsError
    assert (caught.value.exit_code, caught.value.effect) == (30, Effect.UNKNOWN)
    assert caught.value.__cause__ is raised


@pytest.mark.req("UX-1")
def test_an_error_of_the_tree_passes_as_it_is() -> None:
    """Its facts and its effect are not lost on the way."""
    raised = TargetError("no", effect=Effect.NONE, host="db")

    with pytest.raises(TargetError) as caught, foreign():
        raise raised

    assert caught.value is raised


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_ends_a_process_or_a_task_passes(kind: type[BaseException]) -> None:
    """To be cancelled is no error: it is never turned into one that somebody handles."""
    with pytest.raises(kind), foreign():
        raise kind()
