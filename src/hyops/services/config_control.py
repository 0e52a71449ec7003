"""What `hyops control` works with: the homes of the stages on this host, and the loop's place in etcd."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.errors import ConfigError
from hyops.model.base import Part
from hyops.model.etcd import EtcdStore, Store
from hyops.services.config import Homes


class ControlConfig(Part):
    """An administrator's file. Its etcd user is one that may write every stage's records: `root`, or `...-control`."""

    api_version: Literal["hybridops/v1"]
    kind: Literal["Control"]
    homes: Annotated[Homes, Field(default_factory=Homes)]
    store: Store | None = None

    @property
    def etcd(self) -> EtcdStore:
        """For what makes sense with etcd alone; ConfigError where the file names none."""
        if self.store is None:
            raise ConfigError("store: the file names none", hint="name the loop's place in etcd as `store.etcd`")
        return self.store.etcd
