"""What the steps of a switch are told by their plan (BP-1)."""

from __future__ import annotations

from pydantic import Field, model_validator

from hyops.model.base import Name, Part
from hyops.model.policy import Lease, Member
from hyops.model.vocabulary import ReceiptClass


class SwitchInputs(Part):
    """Who hands over to whom. The plan holds it all, so that it is approved byte for byte."""

    source: Name
    target: Name
    members: list[Member] = Field(min_length=2)

    @model_validator(mode="after")
    def _distinct(self) -> SwitchInputs:
        hosts = {member.host for member in self.members}
        if self.source == self.target or not {self.source, self.target} <= hosts:
            raise ValueError("source and target are two different members")
        return self

    def member(self, host: str) -> Member:
        """The member on `host`."""
        return next(member for member in self.members if member.host == host)


class FenceInputs(SwitchInputs):
    """With the lease that bounds the old primary and the receipt classes that suffice."""

    lease: Lease
    receipts: list[ReceiptClass] = Field(min_length=1)
