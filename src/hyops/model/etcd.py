"""How an etcd cluster is reached: mutual TLS, and etcd's own users on top (LOOP-3).

Its JSON gateway takes no client certificate that has a common name, so the certificate lets a host in and the user says
which stage it is (ADR 0010).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hyops.model.base import Name, Part

FileName = Annotated[str, Field(pattern=r"^/", max_length=512)]
Endpoint = Annotated[str, Field(pattern=r"^https?://[^/ ]+/?$", max_length=256)]
LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")


class EtcdAccess(Part):
    """Files and user that a client of etcd shows; none of them: an open cluster over plain HTTP."""

    ca_file: FileName | None = None
    cert_file: FileName | None = None
    key_file: FileName | None = None
    user: Name | None = None
    password_file: FileName | None = None

    @model_validator(mode="after")
    def _whole(self) -> EtcdAccess:
        for one, other in (("cert_file", "key_file"), ("user", "password_file")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} come together")
        return self


class EtcdStore(EtcdAccess):
    """Where the records of one control loop are, when several hosts serve it."""

    endpoints: Annotated[list[Endpoint], Field(min_length=1, max_length=9)]
    env: Annotated[Name, Field(description="the loop's name in etcd: its keys begin with /hyops/<env>/")]
    dial_ttl_s: Annotated[
        int, Field(ge=2, le=60, description="a dead executor's work is taken over after this; etcd goes no lower")
    ] = 2

    @model_validator(mode="after")
    def _private(self) -> EtcdStore:
        for url in self.endpoints:
            if url.startswith("http://") and not url.startswith(LOOPBACK):
                raise ValueError(f"endpoints: {url}: plain HTTP leaves this host; use https:// with ca_file")
            if url.startswith("https://") and self.ca_file is None:
                raise ValueError(f"ca_file: {url} needs the CA that signed its certificate")
            if url.startswith("http://") and (self.user or self.cert_file or self.ca_file):
                raise ValueError(f"endpoints: {url}: neither a password nor a certificate goes over plain HTTP")
        return self


class Store(Part):
    """Where a stage's records are; without it: in directories below its home."""

    etcd: EtcdStore
