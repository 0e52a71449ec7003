"""Mutual TLS and etcd's own users on a real etcd: each stage creates its own records and nobody else's (LOOP-3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etcd_kit import Identities, Records, mutual_tls
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_access import gateway_of, login_of, tls_of
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.adapters.etcd_presence import present, who_serves
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.cli.main import main
from hyops.compose import lease_store
from hyops.errors import PrerequisiteError
from hyops.model.etcd import EtcdAccess
from hyops.model.policy import Lease
from hyops.testing.contract_records import ONE
from loopback import missing

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
OWN = {"decision": "records", "dispatch": "requests", "approval": "executions", "execution": "attempts"}


class Secured:
    """One member with roles set up by the command; what each stage is given."""

    def __init__(self, folder: Path, url: str, identities: Identities) -> None:
        self.folder, self.url, self.identities = folder, url, identities
        (folder / "root.password").write_text("the root of it\n")
        self.config = folder / "control.json"
        store = {"endpoints": [url], "env": "lab", "user": "root", "password_file": str(folder / "root.password")}
        body = {"api_version": "hybridops/v1", "kind": "Control", "store": {"etcd": store | identities.access()}}
        self.config.write_text(json.dumps(body))

    def roles(self) -> int:
        """`hyops control etcd-roles`."""
        words = ["control", "etcd-roles", "--config", str(self.config), "--passwords", str(self.folder / "passwords")]
        return main([*words, "--json"])

    def access(self, user: str, cert: str = "client", **more: str) -> EtcdAccess:
        """What a stage's configuration has."""
        name = f"hyops-lab-{user}"
        file = str(self.folder / "passwords" / f"{name}.password")
        return EtcdAccess(**{**self.identities.access(cert), "user": name, "password_file": file, **more})

    def records(self, user: str, *, hasty: bool = False, **how: Any) -> Records:
        """A session of one stage's user."""
        access = self.access(user, **how)
        return Records([self.url], tls=tls_of(access), login=login_of(access), hasty=hasty)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """With users, roles and authentication on."""
    folder = tmp_path_factory.mktemp("secured")
    identities = Identities(folder / "pki")
    with mutual_tls(folder / "etcd", identities) as url:
        made = Secured(folder, url, identities)
        assert made.roles() == 0
        yield made


@pytest.mark.req("LOOP-3", "DEC-1")
@pytest.mark.parametrize("stage", sorted(OWN))
def test_a_stage_creates_its_own_records_and_no_other_ones(secured: Secured, stage: str) -> None:
    """The decision service's credentials create no request, the dispatcher's no execution, nobody's another's."""
    with secured.records(stage) as records:
        assert records.store(stage, OWN[stage]).create(f"{stage}-1", ONE, slot=f"slot-{stage}").made
        assert records.store(stage, OWN[stage]).ids() == [f"{stage}-1"]
        for other, kind in OWN.items():
            if other != stage:
                with pytest.raises(PrerequisiteError, match="permission denied") as refused:
                    records.store(other, kind).create("forged-1", ONE, slot="forged")
                assert "nothing was written" in refused.value.message
        with present(records.session, stage), pytest.raises(PrerequisiteError, match="permission denied"):
            records.session.do(lambda: records.session.gateway.call("/v3/kv/put", {"key": "Yg==", "value": "Yg=="}))
    with secured.records("control") as everybody:
        for other, kind in OWN.items():
            assert "forged-1" not in everybody.store(other, kind).ids()


@pytest.mark.req("LOOP-3")
def test_a_stage_reads_what_it_answers_and_follows_it(secured: Secured) -> None:
    """The dispatcher sees decisions as they come; the decision service cannot look at requests at all."""
    with secured.records("decision") as decision, secured.records("dispatch") as dispatch:
        seen = dispatch.store("decision", "records")
        seen.ids()
        decision.store("decision", "records").create("decision-9", ONE)
        assert "decision-9" in seen.ids()
        with pytest.raises(PrerequisiteError, match="permission denied"):
            decision.store("dispatch", "requests").ids()


@pytest.mark.req("LOOP-3")
def test_running_stages_show_themselves_and_go(secured: Secured) -> None:
    """By a key of its own that no other stage can write, gone when the stage ends."""
    with secured.records("control") as control, secured.records("dispatch") as dispatch:
        with present(dispatch.session, "dispatch"):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(_shown(control, "dispatch/"))
            loop.close()
        assert [who for who in who_serves(control.session) if who.startswith("dispatch/")] == []


async def _shown(control: Records, prefix: str) -> None:
    from waiting import until

    await until(lambda: any(who.startswith(prefix) for who in who_serves(control.session)), prefix, 60.0)


@pytest.mark.req("LOOP-3", "UX-1")
@pytest.mark.parametrize(
    ("how", "says", "mend"),
    [
        ({"cert": "named"}, "CommonName", "common name"),
        ({"cert": "other-client"}, "no quorum", "cert_file"),
        ({"ca_file": "other-ca.pem"}, "certificate verify failed", "ca_file"),
        ({"password_file": "root.password"}, "authentication failed", "etcd-roles"),
    ],
    ids=["a certificate with a name", "another CA's certificate", "an unknown CA", "another password"],
)
def test_who_is_not_let_in_hears_why(secured: Secured, how: dict[str, str], says: str, mend: str) -> None:
    """And nothing is written."""
    pki, folder = secured.identities.folder, secured.folder
    files = {"ca_file": pki, "password_file": folder}
    words = {key: str(files[key] / name) if key in files else name for key, name in how.items()}
    with secured.records("decision", hasty=True, **words) as records:
        with pytest.raises(PrerequisiteError, match=says) as refused:
            records.store("decision", "records").create("never", ONE)
        assert mend in refused.value.hint


@pytest.mark.req("LOOP-3")
def test_plain_http_and_no_user_are_not_let_in(secured: Secured) -> None:
    """Neither without TLS nor with a certificate alone."""
    plain = Records([secured.url.replace("https://", "http://")], hasty=True)
    access = EtcdAccess(**secured.identities.access())
    nobody = Records([secured.url], tls=tls_of(access))
    with plain, nobody:
        with pytest.raises(PrerequisiteError, match=r"no quorum|refused"):
            plain.store().create("never", ONE)
        with pytest.raises(PrerequisiteError, match="user name is empty"):
            nobody.store().create("never", ONE)


@pytest.mark.req("LOOP-3")
def test_a_token_that_etcd_has_forgotten_is_asked_for_anew(secured: Secured) -> None:
    """A member that was restarted, or five minutes: the next request goes on, and so does a watch."""
    with secured.records("dispatch") as records:
        store = records.store()
        store.ids()
        records.session.gateway._token = "gone.1"
        assert store.create("after-1", ONE).made
        records.session.gateway._token = "gone.2"
        assert "after-1" in store.ids()


@pytest.mark.req("LOOP-3")
def test_roles_set_up_again_change_nothing_and_mend_what_differs(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    """Idempotent; a permission too many is taken away, and running stages keep working."""
    capsys.readouterr()
    with secured.records("decision") as running:
        running.store("decision", "records").ids()
        assert secured.roles() == 0
        assert json.loads(capsys.readouterr().out)["changed"] == []

        async def too_much() -> None:
            root = EtcdAccess(
                **secured.identities.access(), user="root", password_file=str(secured.folder / "root.password")
            )
            etcd = gateway_of([secured.url], root, attempt_s=5.0, limit_s=20.0)
            permission = {"permType": "READWRITE", "key": "Lw==", "range_end": "MA=="}
            await etcd.call("/v3/auth/role/grant", {"name": "hyops-lab-decision", "perm": permission})
            await etcd.close()

        asyncio.run(too_much())
        assert running.store("dispatch", "requests").create("too-much", ONE).made
        assert secured.roles() == 0
        assert "no READWRITE of / any more" in capsys.readouterr().out
        with pytest.raises(PrerequisiteError, match="permission denied"):
            running.store("dispatch", "requests").create("too-much-2", ONE)


@pytest.mark.req("LOOP-3", "FEN-2")
def test_the_lease_store_works_with_tls_and_a_user(secured: Secured) -> None:
    """The fence agents' store over the same cluster, as its own user; that user writes no record."""
    access = secured.access("fence").body()

    async def scenario() -> None:
        store = lease_store(Lease(endpoints=[secured.url], **access))
        slow = EtcdLeaseStore(
            gateway_of([secured.url], EtcdAccess(**access), attempt_s=10.0, limit_s=30.0), SystemClock()
        )
        await slow.initialise("pg", 1, "a")
        grant = await slow.acquire("pg", "a", 1, 30.0)
        grant = await slow.renew("pg", "a", 1, grant, 30.0, guarded=True)
        assert (await slow.state("pg")).holder == "a"
        await slow.release("pg", "a", grant)
        await slow.close()
        await store.close()

    asyncio.run(scenario())
    with secured.records("fence") as fence, pytest.raises(PrerequisiteError, match="permission denied"):
        fence.store().create("never", ONE)


def test_a_gateway_shows_no_password() -> None:
    """Not in a representation, where it would get into a log."""
    from hyops.adapters.etcd_gateway import EtcdLogin

    assert "secret" not in repr(EtcdLogin("user", "secret"))
    assert "secret" not in repr(EtcdGateway(["http://127.0.0.1:1"], login=EtcdLogin("user", "secret")))


@pytest.mark.req("LOOP-3", "EXE-1", "DEC-1", "APR-1")
def test_only_the_execution_user_dials_notes_and_ends(secured: Secured) -> None:
    """With TLS and roles an executor does all of it; the decision service's credentials take no right. The approvers'
    desk sees what was sent, so that a withdrawal that comes too late is known as one; it marks nothing either."""
    with secured.records("execution") as records, secured.records("decision") as decision:
        starts = EtcdStarts(records.session, 20)
        with starts.dialling("attempt-1") as mine:
            assert mine
            assert starts.next_epoch() == 1
            starts.note("attempt-1")
            assert starts.create("attempt-1", records.store("execution", "outcomes"), "outcome-1", ONE).made
        asyncio.run(asyncio.wait_for(starts.freed("attempt-1"), 20.0))
        other = EtcdStarts(decision.session, 20)
        with pytest.raises(PrerequisiteError, match="permission denied"), other.dialling("attempt-1"):
            pytest.fail("it dials")
        with pytest.raises(PrerequisiteError, match="permission denied"):
            other.note("attempt-2")
        with pytest.raises(PrerequisiteError, match="permission denied"):
            other.maybe_sent("attempt-1")
        with secured.records("approval") as approval:
            desk = EtcdStarts(approval.session, 20)
            assert [desk.maybe_sent(name) for name in ("attempt-1", "attempt-2")] == [True, False]
            with pytest.raises(PrerequisiteError, match="permission denied"), desk.dialling("attempt-2"):
                pytest.fail("it dials")
            with pytest.raises(PrerequisiteError, match="permission denied"):
                desk.note("attempt-2")
