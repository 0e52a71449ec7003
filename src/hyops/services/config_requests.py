"""The configuration of the two stages between decision and execution, apart from the others': a daemon builds every
model that it loads, and the decision service, which idles beside a database, needs neither routes nor approvals.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model.approval import ApprovalPolicy
from hyops.model.base import Name
from hyops.model.routes import Routes
from hyops.services.config import PathText, StageConfig


class DispatchConfig(StageConfig):
    """`decision-dispatcher`."""

    kind: Literal["DecisionDispatcher"]
    routes: Routes
    services: list[Name] = Field(min_length=1)
    catalogs: list[PathText] = Field(default_factory=list)
    runtime_root: PathText | None = None
    shared_root: PathText | None = None
    max_age_s: Annotated[float, Field(gt=0, le=30 * 86400)] = Field(
        default=3600.0, description="how long a request waits for approval, and how old a decision may come; 30 days"
    )


class ApprovalConfig(StageConfig):
    """`decision-consumer`."""

    kind: Literal["DecisionConsumer"]
    policy: ApprovalPolicy
    allowed_signers: PathText
    approvers: PathText
    revoked_signers: PathText | None = None
