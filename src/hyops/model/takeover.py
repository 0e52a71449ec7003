"""A standby order: what a surviving runner may run when every control host is gone, if enough people say so (INV-9)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyops.model import canonical
from hyops.model.base import Part
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunSpec


class StandbyOrder(Part):
    """The signed decision and request of one switch, with the plan that the request names and what was known.

    It says nothing of its own: every byte is covered by the signature of a stage, or by a digest in what one signed.
    """

    schema_: Literal["hyops/standby-order/v1"] = Field(default="hyops/standby-order/v1", alias="schema")
    decision: Decision
    inputs: DecisionInputs
    request: DispatchRequest
    plan: Plan

    @property
    def order_id(self) -> str:
        """The request's id: people approve the request."""
        return self.request.dispatch_id

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return canonical.encode(self.body()) + b"\n"

    def digest(self) -> str:
        """`sha256:<hex>` over the file's bytes."""
        return canonical.digest_bytes(self.encoded())


class TakenOver(Part):
    """What a takeover ran, with what was known when its order was sealed: from it any control host learns of the run.

    It is durable on the runner before anything starts, so that a takeover that is begun again finds the same run.
    """

    schema_: Literal["hyops/taken-over/v1"] = Field(default="hyops/taken-over/v1", alias="schema")
    spec: RunSpec
    inputs: DecisionInputs

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return canonical.encode(self.body()) + b"\n"
