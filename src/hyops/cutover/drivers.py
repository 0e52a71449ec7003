"""`native/dns-cutover` and `native/verify-traffic`: clients find the new primary, and only there (DNS-1 to DNS-3).

Rules kept here: the authority refuses a stale or replayed update by itself (the prerequisite on the generation); after
an update every authority is asked; a switch that fails here never takes a promotion back (fault 27); traffic counts as
moved when the new address commits a write and the old one does not acknowledge any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from hyops.errors import DeadlineError, Effect, HyopsError, NotVerifiedError, StaleGenerationError, TargetError
from hyops.model.base import Name, Part
from hyops.model.policy import Endpoint, Member
from hyops.ports.clock import Clock
from hyops.ports.dns import DnsAuthority, EndpointRecord
from hyops.ports.driver import Driver, Reconciled, StepContext, StepResult, Unanswered
from hyops.ports.probe import WriteProbe, WriteVerdict

LOOK_AGAIN_S = 0.05  # secondaries have no event to wait for
UPDATE_ATTEMPTS = 3


@dataclass(frozen=True)
class CutoverPorts:
    """What the drivers of this package need from outside."""

    dns: DnsAuthority
    probe: WriteProbe
    clock: Clock


class CutoverInputs(Part):
    """The endpoint and the two members it moves between."""

    source: Name
    target: Name
    members: list[Member] = Field(min_length=2)
    endpoint: Endpoint
    authorities_limit_s: float = Field(default=5.0, gt=0, le=300)

    @model_validator(mode="after")
    def _known(self) -> CutoverInputs:
        if self.source == self.target or not {self.source, self.target} <= {member.host for member in self.members}:
            raise ValueError("source and target are two different members")
        return self

    def member(self, host: str) -> Member:
        """The member on `host`."""
        return next(member for member in self.members if member.host == host)


class DnsCutoverDriver:
    """`native/dns-cutover`: one atomic update, then every authority is asked."""

    inputs: type[Part] = CutoverInputs

    def __init__(self, ports: CutoverPorts) -> None:
        self._ports = ports

    async def preflight(self, context: StepContext) -> list[str]:
        """The first authority answers and is not ahead of this run.

        It may be behind: a run that ended between fence and promotion has raised the generation and left DNS alone.
        """
        inputs = _inputs(context)
        try:
            record = await self._ports.dns.ask(inputs.endpoint, inputs.endpoint.authorities[0])
        except HyopsError as exc:
            return [Unanswered(f"the authority does not answer: {exc.message}")]
        generation = context.spec.generation
        if record.generation is not None and record.generation <= generation + 1:
            return []
        return [f"{inputs.endpoint.name} is at generation {record.generation} in DNS, not {generation}"]

    async def apply(self, context: StepContext) -> StepResult:
        """Switch; returns the endpoint contract (DNS-1)."""
        inputs, generation = _inputs(context), context.spec.generation
        address = inputs.member(inputs.target).address
        changed = False
        try:
            found = await self._ports.dns.ask(inputs.endpoint, inputs.endpoint.authorities[0])
            if (found.generation, found.addresses) != (generation + 1, (address,)):
                changed = await self._switch(inputs, address, _expected(found, generation), generation)
            records = await everywhere(self._ports, inputs, address, generation + 1)
        except HyopsError as exc:
            raise _not_switched(inputs, address, generation, context.spec.run_id, exc) from exc
        return StepResult(_endpoint(inputs, address, records), changed=changed)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """The authority that takes updates knows whether it took this one."""
        inputs, generation = _inputs(context), context.spec.generation
        address = inputs.member(inputs.target).address
        try:
            record = await self._ports.dns.ask(inputs.endpoint, inputs.endpoint.authorities[0])
        except HyopsError:
            return Reconciled.UNKNOWN, None
        if record.generation is not None and record.generation <= generation:
            return Reconciled.NOT_DONE, None
        if record.generation == generation + 1 and record.addresses == (address,):
            return Reconciled.NOT_DONE, None  # `apply` finds it done and still asks every authority
        return Reconciled.UNKNOWN, None

    async def _is_done(self, inputs: CutoverInputs, address: str, generation: int) -> bool:
        record = await self._ports.dns.ask(inputs.endpoint, inputs.endpoint.authorities[0])
        return record.generation == generation and record.addresses == (address,)

    async def _switch(self, inputs: CutoverInputs, address: str, expected: int, generation: int) -> bool:
        """Send the update for whoever finds DNS at `expected`; when its answer is lost, ask before sending it again."""
        for attempt in range(1, UPDATE_ATTEMPTS + 1):
            try:
                await self._ports.dns.switch(
                    inputs.endpoint, address=address, expected=expected, generation=generation + 1
                )
                return True
            except (DeadlineError, StaleGenerationError) as exc:
                if await self._is_done(inputs, address, generation + 1):
                    return True
                if isinstance(exc, StaleGenerationError) or attempt == UPDATE_ATTEMPTS:
                    raise
        return False


class VerifyTrafficDriver:
    """`native/verify-traffic`: the name leads to a write on the new address, and the old one is silent."""

    inputs: type[Part] = CutoverInputs

    def __init__(self, ports: CutoverPorts) -> None:
        self._ports = ports

    async def preflight(self, context: StepContext) -> list[str]:
        """Nothing to look at before the cutover."""
        _inputs(context)
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Changes nothing but a probe row."""
        inputs, generation = _inputs(context), context.spec.generation + 1
        new, old = inputs.member(inputs.target), inputs.member(inputs.source)
        records = await everywhere(self._ports, inputs, new.address, generation)
        through_name = records[0].addresses[0]
        write = await self._ports.probe.try_write(
            address=through_name, port=new.port, generation=generation, timeout_s=3.0
        )
        if write.verdict is not WriteVerdict.ACCEPTED:
            raise NotVerifiedError(f"a write through {inputs.endpoint.name} was {write.verdict}: {write.saw}")
        silent = await self._ports.probe.try_write(
            address=old.address, port=old.port, generation=context.spec.generation, timeout_s=1.0
        )
        if silent.verdict is WriteVerdict.ACCEPTED:
            raise NotVerifiedError(
                f"the old address {old.address} still acknowledges writes",
                hint="two places take writes: power the old one off now",
                effect=Effect.UNKNOWN,
            )
        outputs = {"written_s": write.elapsed_s, "old_address": str(silent.verdict), "old_address_saw": silent.saw}
        return StepResult(_endpoint(inputs, new.address, records) | outputs, changed=False)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Looking again does no harm."""
        return Reconciled.NOT_DONE, None


def cutover_drivers(ports: CutoverPorts) -> dict[str, Driver]:
    """The native modules of this package, by module reference."""
    return {"native/dns-cutover": DnsCutoverDriver(ports), "native/verify-traffic": VerifyTrafficDriver(ports)}


async def everywhere(
    ports: CutoverPorts, inputs: CutoverInputs, address: str, generation: int
) -> Sequence[EndpointRecord]:
    """What every authority answers, once all of them answer this.

    Raises:
        NotVerifiedError: one does not, at the limit.
    """
    end = ports.clock.monotonic() + inputs.authorities_limit_s
    records: dict[str, EndpointRecord] = {}
    while True:
        wrong = []
        for authority in inputs.endpoint.authorities:
            if authority in records:
                continue
            try:
                record = await ports.dns.ask(inputs.endpoint, authority)
            except (TargetError, DeadlineError) as exc:
                wrong.append(f"{authority}: {exc.message}")
                continue
            if record.addresses == (address,) and record.generation == generation:
                records[authority] = record
            else:
                wrong.append(f"{authority} answers {record.addresses} at generation {record.generation}")
        if not wrong:
            return [records[authority] for authority in inputs.endpoint.authorities]
        if ports.clock.monotonic() >= end:
            raise NotVerifiedError(f"not every authority answers {address}: " + "; ".join(wrong))
        await ports.clock.sleep(LOOK_AGAIN_S)


def _inputs(context: StepContext) -> CutoverInputs:
    return CutoverInputs.of(dict(context.inputs), source=f"step {context.step_id}")


def _endpoint(inputs: CutoverInputs, address: str, records: Sequence[EndpointRecord]) -> dict[str, Any]:
    contract = {
        "endpoint_dns_name": inputs.endpoint.name,
        "endpoint_target": address,
        "endpoint_target_type": "host",
        "endpoint_host": inputs.target,
        "endpoint_port": inputs.member(inputs.target).port,
        "endpoint_cutover_required": True,
        "authorities": {record.authority: list(record.addresses) for record in records},
    }
    return {"endpoint": contract}


def _expected(found: EndpointRecord, generation: int) -> int:
    """What the update requires DNS to stand at: what it showed, if that is not later than this run's generation."""
    return generation if found.generation is None else min(found.generation, generation)


def _not_switched(inputs: CutoverInputs, address: str, generation: int, run_id: str, why: HyopsError) -> TargetError:
    name = inputs.endpoint.name
    return TargetError(
        f"promoted, not switched: {inputs.target} is the primary, but {name} could not be moved to {address}: "
        f"{why.message}",
        hint=(
            f"nothing was un-promoted. Continue in one of two ways: (1) mend the authority and `hyops run resume "
            f"{run_id}`, which repeats the update; (2) set {name} to {address} and _gen.{name} to {generation + 1} "
            f"there by hand, then `hyops run resume {run_id}`, which then only verifies"
        ),
        cause=type(why).__name__,
    )
