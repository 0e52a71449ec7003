"""The dispatcher's routes as a person writes them (DSP-1)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from hyops.model.base import EnvKey, Name, Part
from hyops.model.dispatch import ApprovalsRequired, Route
from hyops.model.vocabulary import SPELLINGS, DecisionType, SecretOrigin


class Routes(Part):
    """`dispatcher_routes`: decision type (either spelling) -> one route, or several narrowed by `when`."""

    env: Name
    drills: bool = Field(default=False, description="this environment is for drills: a route may open a way for one")
    dispatcher_require_approval: bool = True
    approvals_required: ApprovalsRequired = Field(
        default=1, description="how many people must say yes; the larger of this, the route's and the decision's counts"
    )
    workload_profiles: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, max_length=256, description="name -> sizes, which a blueprint takes as its input workload"
    )
    secret_sync_profiles: dict[Name, dict[EnvKey, SecretOrigin]] = Field(
        default_factory=dict, max_length=256, description="name -> keys that the secrets phase syncs, and from where"
    )
    dispatcher_routes: dict[str, Route | list[Route]] = Field(max_length=16)

    @model_validator(mode="after")
    def _unambiguous(self) -> Routes:
        seen: dict[DecisionType, str] = {}
        for word, entry in self.dispatcher_routes.items():
            kind = kind_of(word)
            if kind in seen:
                raise ValueError(f"dispatcher_routes.{word} and dispatcher_routes.{seen[kind]} are one type")
            seen[kind] = word
            several = entry if isinstance(entry, list) else [entry]
            conditions = [conditions_of(route) for route in several]
            for index, one in enumerate(conditions):
                for other in conditions[index + 1 :]:
                    if len(one) == len(other) and all(one[k] == other[k] for k in one.keys() & other.keys()):
                        raise ValueError(f"dispatcher_routes.{word}: two routes with equal claim: {one} and {other}")
        return self

    def of_type(self, kind: DecisionType) -> list[Route]:
        """The routes of one decision type."""
        for word, entry in self.dispatcher_routes.items():
            if kind_of(word) is kind:
                return entry if isinstance(entry, list) else [entry]
        return []


def kind_of(word: str) -> DecisionType:
    """The decision type of a word of today or of older files; ValueError for any other."""
    if word in SPELLINGS:
        return SPELLINGS[word]
    try:
        return DecisionType(word)
    except ValueError:
        raise ValueError(f"{word!r} is no decision type; known: {', '.join([*DecisionType, *SPELLINGS])}") from None


def conditions_of(route: Route) -> dict[str, str]:
    """What a route demands of a decision."""
    when = route.when.body() if route.when else {}
    return {key: str(value) for key, value in when.items()}
