"""Each authority's adapter keeps the kit, and what only it can do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from contract.authority_kit import CANARY, LIMIT_S, AuthorityKit, Place
from fakes.akv import TENANT, FakeAkv
from fakes.asm import KEY_ID, FakeAsm
from fakes.gsm import FakeGsm
from fakes.server import FLOOD_BYTES, FakeServer, authority_files
from fakes.vault import FakeVault, Policy
from hyops.adapters.authority_akv import AkvAuthority, Application, ManagedIdentity
from hyops.adapters.authority_asm import THREAD, AsmAuthority, Limit, get
from hyops.adapters.authority_gsm import GsmAuthority, MetadataServer, ServiceAccount
from hyops.adapters.authority_http import TokenFile, TroubleError
from hyops.adapters.authority_vault import AppRoleLogin, JwtLogin, TokenLogin, VaultAuthority
from hyops.adapters.clock_system import SystemClock
from hyops.errors import ConfigError
from hyops.ports.authority import Answer, Authority, Fetched, Refused, Trouble

TOKEN = "c4nary-token-71ab"
SECRET_ID = "c4nary-login-5e0f"
AWS_SECRET = "c4nary+aws/access/key+that/nobody+has000"
CA = authority_files()[0]


def one(authority: Authority, ref: str) -> Answer:
    """The answer about one ref."""
    return asyncio.run(authority.read([ref]))[ref]


def value(answer: Answer) -> str:
    """Its value."""
    assert isinstance(answer, Fetched), answer
    return answer.value.reveal()


def trouble(answer: Answer) -> Trouble:
    """Its trouble."""
    assert isinstance(answer, Refused), answer
    return answer.trouble


class VaultPlace(Place):
    """A mount of a Vault; `login_kind`: token, approle or jwt."""

    def __init__(self, folder: Path, mount: str, kind: str, namespace: str | None) -> None:
        self.folder, self.mount, self.kind, self.namespace = folder, mount, kind, namespace
        self.server: FakeVault = FakeVault(namespace=namespace)
        prefixes = ("secret/", "team/kv/", "old/", "nowhere/")
        self.server.tokens[TOKEN] = Policy(prefixes, namespace)
        self.server.login_policy = Policy(prefixes)
        self.server.approle = {"dr-role": SECRET_ID}
        self.server.jwt = {"dr-role": SECRET_ID}

    def _path(self, name: str) -> str:
        return f"{self.mount}/dr/{name}"

    def ref(self, name: str) -> str:
        """See the kit."""
        return f"{self._path(name)}#value"

    def put(self, name: str, value: str) -> None:
        """See the kit."""
        self.server.put(self._path(name), {"value": value, "user": "replicator"})

    def put_bytes(self, name: str, value: bytes) -> None:
        """kv keeps JSON: what is no text there is a number or a list."""
        self.server.put(self._path(name), {"value": list(value)})

    def delete(self, name: str) -> None:
        """See the kit."""
        self.server.delete(self._path(name))

    def deny(self, name: str) -> None:
        """Only the other secret stays readable."""
        middle = "data/" if self.server.mounts[self.mount] == 2 else ""
        policy = Policy((f"{self.mount}/{middle}dr/alpha",), self.namespace)
        self.server.tokens[TOKEN] = self.server.login_policy = policy

    def authority(self, *, limit_s: float = LIMIT_S, ca: Path | None = None, login: str = "good") -> VaultAuthority:
        """See the kit."""
        file = self.folder / "login"
        file.unlink(missing_ok=True)
        good = TOKEN if self.kind == "token" else SECRET_ID
        if login != "absent":
            file.write_text((good if login == "good" else "hvs.wrong") + "\n")
        made: TokenLogin | AppRoleLogin | JwtLogin = TokenLogin(file)
        if self.kind == "approle":
            made = AppRoleLogin("dr-role", file)
        elif self.kind == "jwt":
            made = JwtLogin("dr-role", file)
        return VaultAuthority(self.server.url, made, self.namespace, {"old": 1, "team/kv": 2}, ca, limit_s)

    def own_secrets(self) -> list[str]:
        """See the kit."""
        return [TOKEN, SECRET_ID, *self.server.tokens]


class VaultKit(AuthorityKit):
    """What the kinds of Vault share."""

    mount, kind, namespace = "secret", "token", None
    bad_refs = (
        "secret",
        "secret/dr",
        "secret/dr#",
        "secret//dr#v",
        "secret/../dr#v",
        "/secret/dr#v",
        "secret/a?version=x#v",
    )
    misplaced_ref = "nowhere/dr/alpha#value"

    @contextmanager
    def opened(self, folder: Path, *, tls: bool = True) -> Iterator[VaultPlace]:
        """See the kit."""
        place = VaultPlace(folder, self.mount, self.kind, self.namespace)
        with place.server.serve(tls=tls):
            yield place


class TestVaultKv2(VaultKit):
    """A token, kv version 2."""


class TestVaultKv1(VaultKit):
    """A token, kv version 1."""

    mount = "old"
    has_versions = False


class TestVaultAppRole(VaultKit):
    """AppRole in a namespace, a mount with a slash in its name."""

    mount, kind, namespace = "team/kv", "approle", "dr/prod"


class TestVaultJwt(VaultKit):
    """A platform's token."""

    kind = "jwt"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[VaultPlace]:
    """A Vault with a token."""
    place = VaultPlace(tmp_path, "secret", "token", None)
    with place.server.serve():
        place.put("alpha", "v1")
        place.put("alpha", "v2")
        yield place


@pytest.mark.req("SEC-1")
def test_vault_reads_an_older_version_and_another_field(vault: VaultPlace) -> None:
    """`?version=` and `#FIELD`; a field that is not there is missing."""
    asked = vault.authority(ca=CA)

    assert value(one(asked, "secret/dr/alpha?version=1#value")) == "v1"
    assert value(one(asked, "secret/dr/alpha#user")) == "replicator"
    assert trouble(one(asked, "secret/dr/alpha#nothing")) is Trouble.MISSING
    assert trouble(one(asked, "secret/dr/alpha?version=9#value")) is Trouble.MISSING


def test_vault_asks_once_for_all_fields_of_a_secret(vault: VaultPlace) -> None:
    """Two refs into one secret cost one request and come from one version."""
    asyncio.run(vault.authority(ca=CA).read(["secret/dr/alpha#value", "secret/dr/alpha#user"]))

    assert [seen.path for seen in vault.server.seen] == ["/v1/secret/data/dr/alpha"]


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@pytest.mark.parametrize("kind", ["deleted", "destroyed", "metadata"])
def test_every_way_to_delete_in_kv_2_is_missing(vault: VaultPlace, kind: str) -> None:
    """Soft deleted (404 with data), destroyed, and the whole key with its metadata."""
    vault.server.delete("secret/dr/alpha", destroy=kind == "destroyed", metadata=kind == "metadata")

    assert trouble(one(vault.authority(ca=CA), vault.ref("alpha"))) is Trouble.MISSING


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@pytest.mark.parametrize("is_really", [1, 2])
def test_the_wrong_kv_version_of_a_mount_is_not_a_missing_secret(vault: VaultPlace, is_really: int) -> None:
    """A kv 1 path on kv 2 warns; a kv 2 path on kv 1 looks like a missing secret, so the mount is asked."""
    vault.server.mounts["secret"] = is_really
    asked = vault.authority(ca=CA)
    asked.mounts = {"secret": 1 if is_really == 2 else 2}

    assert trouble(one(asked, "secret/dr/alpha#value")) is Trouble.MISPLACED


@pytest.mark.req("SEC-1")
def test_a_mount_that_is_not_confirmed_makes_nothing_missing(vault: VaultPlace) -> None:
    """The policy lets us read the secret and refuses the look at its mount: nothing is certain."""
    vault.server._told_mount = lambda path, policy: vault.server.in_mode("sealed", None)  # type: ignore[method-assign, arg-type]

    assert trouble(one(vault.authority(ca=CA), vault.ref("never"))) is Trouble.MISPLACED


@pytest.mark.req("SEC-1")
def test_another_namespace_is_denied(vault: VaultPlace) -> None:
    """A token counts in its own namespace alone."""
    asked = vault.authority(ca=CA)
    asked.namespace = "somebody/else"

    assert trouble(one(asked, vault.ref("alpha"))) is Trouble.DENIED


@pytest.mark.req("SEC-2")
def test_a_token_that_was_got_by_a_login_is_given_back(tmp_path: Path) -> None:
    """After the read no token of ours is left; also when the values were refused."""
    place = VaultPlace(tmp_path, "secret", "approle", None)
    with place.server.serve():
        for name in ("alpha", "never"):
            place.put("alpha", "v")
            one(place.authority(ca=CA), place.ref(name))

    assert list(place.server.tokens) == [TOKEN]


@pytest.mark.req("SEC-2")
def test_a_standby_that_points_to_another_node_gets_no_token_there(vault: VaultPlace) -> None:
    """A redirect is told, not followed."""
    vault.server.be("standby")

    assert trouble(one(vault.authority(ca=CA), vault.ref("alpha"))) is Trouble.UNREACHABLE


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key by name, made once: making one is slow."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class GsmPlace(Place):
    """A project of Secret Manager; `kind`: token, account or vm."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.server: FakeGsm = FakeGsm()
        self.server.tokens.add(TOKEN)
        self.server.on_a_vm = True
        self.key = rsa_key("ours")
        self.server.accounts["dr@dr-control.iam.gserviceaccount.com"] = self.key.public_key()

    def put(self, name: str, value: str) -> None:
        """See the kit."""
        self.server.put(name, value.encode())

    def put_bytes(self, name: str, value: bytes) -> None:
        """See the kit."""
        self.server.put(name, value)

    def delete(self, name: str) -> None:
        """See the kit."""
        del self.server.secrets["dr-control", name]

    def deny(self, name: str) -> None:
        """See the kit."""
        self.server.denied.add(name)

    def _pem(self, key: rsa.RSAPrivateKey) -> str:
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()

    def authority(self, *, limit_s: float = LIMIT_S, ca: Path | None = None, login: str = "good") -> GsmAuthority:
        """See the kit."""
        file, url = self.folder / "login", self.server.url
        file.unlink(missing_ok=True)
        if self.kind == "token":
            made: TokenFile | ServiceAccount | MetadataServer = TokenFile(file)
            text = TOKEN if login == "good" else "wrong"
        else:
            made = ServiceAccount(file)
            key = self.key if login == "good" else rsa_key("another")
            account = {"type": "service_account", "private_key_id": "k1", "private_key": self._pem(key)}
            account |= {"client_email": "dr@dr-control.iam.gserviceaccount.com", "token_uri": f"{url}/token"}
            text = json.dumps(account)
        if login != "absent":
            file.write_text(text)
        return GsmAuthority("dr-control", made, SystemClock(), url, ca, limit_s)

    def own_secrets(self) -> list[str]:
        """See the kit."""
        return [*self.server.tokens, *self._pem(self.key).splitlines()[1:-1]]


class TestGsmToken(AuthorityKit):
    """An access token in a file."""

    kind = "token"
    bad_refs = ("a b", "name@", "name@x", "projects/p/name", "name/versions/1", "a" * 256)
    misplaced_ref = "projects/not-there/secrets/alpha"
    has_seal = False  # its own kind of seal has a test below

    @contextmanager
    def opened(self, folder: Path, *, tls: bool = True) -> Iterator[GsmPlace]:
        """See the kit."""
        place = GsmPlace(folder, self.kind)
        with place.server.serve(tls=tls):
            yield place


class TestGsmServiceAccount(TestGsmToken):
    """A key file of a service account."""

    kind = "account"


@pytest.fixture
def gsm(tmp_path: Path) -> Iterator[GsmPlace]:
    """A project with a token."""
    place = GsmPlace(tmp_path, "token")
    with place.server.serve():
        place.put("alpha", "v1")
        place.put("alpha", "v2")
        yield place


@pytest.mark.req("SEC-1")
def test_gsm_reads_a_version_and_another_project(gsm: GsmPlace) -> None:
    """`@VERSION` and the full name; the runner's project and the secrets' need not be one."""
    gsm.server.put("alpha", b"other", project="dr-other")
    asked = gsm.authority(ca=CA)

    assert value(one(asked, "alpha@1")) == "v1"
    assert value(one(asked, "projects/dr-other/secrets/alpha@latest")) == "other"
    assert trouble(one(asked, "alpha@9")) is Trouble.MISSING


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_version_that_was_taken_back_is_missing(gsm: GsmPlace, state: str) -> None:
    """Disabled or destroyed by its owner: it must not be used any more."""
    gsm.server.turn("alpha", state)

    assert trouble(one(gsm.authority(ca=CA), "alpha")) is Trouble.MISSING


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
def test_a_key_service_that_is_off_seals_gsm(gsm: GsmPlace) -> None:
    """The same HTTP code and status as a disabled version, and yet nothing is gone."""
    gsm.server.kms_off = True

    assert trouble(one(gsm.authority(ca=CA), "alpha")) is Trouble.SEALED


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
@pytest.mark.parametrize("what", ["damaged", "swapped"])
def test_a_damaged_value_or_another_secrets_is_refused(gsm: GsmPlace, what: str) -> None:
    """The checksum and the name in the answer are looked at."""
    setattr(gsm.server, what, True)

    assert trouble(one(gsm.authority(ca=CA), "alpha")) is Trouble.MALFORMED


@pytest.mark.req("SEC-1")
def test_gsm_takes_the_identity_of_the_machine(gsm: GsmPlace) -> None:
    """The metadata server gives the token; one that refuses is a denied login."""
    asked = GsmAuthority("dr-control", MetadataServer(gsm.server.url), SystemClock(), gsm.server.url, CA)
    assert value(one(asked, "alpha")) == "v2"

    gsm.server.on_a_vm = False
    assert trouble(one(asked, "alpha")) is Trouble.DENIED


def test_a_file_that_is_no_service_account_is_a_config_error(gsm: GsmPlace, tmp_path: Path) -> None:
    """Its content is not quoted."""
    (tmp_path / "key.json").write_text(json.dumps({"private_key": "c4nary", "client_email": "x", "token_uri": "y"}))
    with pytest.raises(ConfigError) as caught:
        one(GsmAuthority("dr-control", ServiceAccount(tmp_path / "key.json"), SystemClock()), "alpha")

    assert "c4nary" not in caught.value.message


class AkvPlace(Place):
    """A key vault; `kind`: token, app or federated."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.server: FakeAkv = FakeAkv(on_a_vm=True)
        self.server.tokens.add(TOKEN)
        self.server.apps["dr-app"] = self.server.federated["dr-fed"] = SECRET_ID

    def put(self, name: str, value: str) -> None:
        """See the kit."""
        self.server.put(name, value)

    def put_bytes(self, name: str, value: bytes) -> None:
        """Key Vault keeps texts; the fake answers with what its API never does."""
        self.server.secrets[name] = [("0" * 32, list(value), True)]  # type: ignore[list-item]

    def delete(self, name: str) -> None:
        """See the kit."""
        del self.server.secrets[name]

    def deny(self, name: str) -> None:
        """See the kit."""
        self.server.denied.add(name)

    def authority(self, *, limit_s: float = LIMIT_S, ca: Path | None = None, login: str = "good") -> AkvAuthority:
        """See the kit."""
        file, url = self.folder / "login", self.server.url
        file.unlink(missing_ok=True)
        good = TOKEN if self.kind == "token" else SECRET_ID
        if login != "absent":
            file.write_text(good if login == "good" else "wrong")
        made: TokenFile | Application = TokenFile(file)
        if self.kind == "app":
            made = Application(TENANT, "dr-app", file, None, url)
        elif self.kind == "federated":
            made = Application(TENANT, "dr-fed", None, file, url)
        return AkvAuthority(url, made, ca, limit_s)

    def own_secrets(self) -> list[str]:
        """See the kit."""
        return [SECRET_ID, *self.server.tokens]


class TestAkvToken(AuthorityKit):
    """An access token in a file."""

    kind = "token"
    bad_refs = ("a_b", "a/b", "name@1", "a" * 128)
    has_seal = False

    @contextmanager
    def opened(self, folder: Path, *, tls: bool = True) -> Iterator[AkvPlace]:
        """See the kit."""
        place = AkvPlace(folder, self.kind)
        with place.server.serve(tls=tls):
            yield place


class TestAkvApplication(TestAkvToken):
    """An application with a secret."""

    kind = "app"


class TestAkvFederated(TestAkvToken):
    """An application with a token of a platform."""

    kind = "federated"


@pytest.fixture
def akv(tmp_path: Path) -> Iterator[AkvPlace]:
    """A key vault with a token."""
    place = AkvPlace(tmp_path, "token")
    with place.server.serve():
        yield place


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
def test_akv_reads_a_version_and_tells_disabled_from_denied(akv: AkvPlace) -> None:
    """Both are HTTP 403: a disabled secret was taken back by its owner, a denied one was not."""
    first = akv.server.put("alpha", "v1")
    akv.put("alpha", "v2")
    asked = akv.authority(ca=CA)

    assert value(one(asked, f"alpha@{first}")) == "v1"
    akv.server.disable("alpha")
    assert trouble(one(asked, "alpha")) is Trouble.MISSING


@pytest.mark.req("SEC-1")
def test_akv_takes_the_identity_of_the_machine(akv: AkvPlace) -> None:
    """The metadata service gives the token; one that refuses is a denied login."""
    akv.put("alpha", "v1")
    asked = AkvAuthority(akv.server.url, ManagedIdentity("client", akv.server.url), CA)
    assert value(one(asked, "alpha")) == "v1"

    akv.server.on_a_vm = False
    assert trouble(one(asked, "alpha")) is Trouble.DENIED


@pytest.mark.req("SEC-1")
@pytest.mark.fault(21)
def test_another_secrets_value_is_refused(akv: AkvPlace) -> None:
    """The id in the answer is looked at."""
    akv.put("alpha", "v1")
    akv.server.swapped = True

    assert trouble(one(akv.authority(ca=CA), "alpha")) is Trouble.MALFORMED


class AsmPlace(Place):
    """A region of Secrets Manager."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.server: FakeAsm = FakeAsm()
        self.names: set[str] = set()

    def _write(self, name: str, **value: Any) -> None:
        if name in self.names:
            self.server.call("PutSecretValue", SecretId=name, **value)
        else:
            self.server.call("CreateSecret", Name=name, **value)
            self.names.add(name)

    def put(self, name: str, value: str) -> None:
        """See the kit."""
        self._write(name, SecretString=value)

    def put_bytes(self, name: str, value: bytes) -> None:
        """See the kit."""
        import base64

        self._write(name, SecretBinary=base64.b64encode(value).decode())

    def delete(self, name: str) -> None:
        """See the kit."""
        self.server.call("DeleteSecret", SecretId=name)

    def deny(self, name: str) -> None:
        """See the kit."""
        self.server.denied.add(name)

    def authority(self, *, limit_s: float = LIMIT_S, ca: Path | None = None, login: str = "good") -> AsmAuthority:
        """See the kit."""
        file = self.folder / "credentials"
        key = KEY_ID if login == "good" else "AKIAWRONG00000000000"
        text = f"[default]\naws_access_key_id={key}\naws_secret_access_key={AWS_SECRET}\n"
        file.write_text("" if login == "absent" else text)
        self.patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        self.patch.setenv("AWS_CONFIG_FILE", str(self.folder / "none"))
        self.patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            self.patch.delenv(name, raising=False)
        return AsmAuthority("eu-west-1", None, self.server.url, ca, limit_s)

    def own_secrets(self) -> list[str]:
        """See the kit."""
        return [AWS_SECRET]


def let_go(server: FakeServer) -> None:
    """End what it keeps waiting, and the threads that wait: nobody connects while it closes."""
    server.released.set()
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(30)


class TestAsm(AuthorityKit):
    """Keys in the shared credentials file."""

    patch: pytest.MonkeyPatch
    bad_refs = ("a b", "", "#field", "name#")
    absent_login_is_denied = True  # botocore looks for credentials in a dozen places, and only then says so

    @pytest.fixture(autouse=True)
    def _patched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch

    @contextmanager
    def opened(self, folder: Path, *, tls: bool = True) -> Iterator[AsmPlace]:
        """See the kit."""
        place = AsmPlace(folder, self.patch)
        with place.server.serve(tls=tls):
            yield place
            let_go(place.server)

    @pytest.mark.req("SEC-1")
    def test_a_field_of_a_json_value(self, place: Place) -> None:
        """`#FIELD`; one that is not there is missing, a value that is no object is malformed."""
        place.put("db", json.dumps({"password": "pw", "port": 5432}))
        asked = place.authority(ca=CA)

        assert value(one(asked, "db#password")) == "pw"
        assert trouble(one(asked, "db#nothing")) is Trouble.MISSING
        assert trouble(one(asked, "db#port")) is Trouble.MALFORMED
        assert trouble(one(asked, "alpha#password")) is Trouble.MALFORMED

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_another_secrets_value_is_refused(self, place: Place) -> None:
        """The name in the answer is looked at."""
        assert isinstance(place.server, FakeAsm)
        place.server.swapped = True

        assert self.trouble(place) is Trouble.MALFORMED

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_a_login_service_is_read_no_further_than_the_limit(self, place: Place) -> None:
        """A role of the shared file is asked for at STS, and what that answers has the same limit."""
        asked = place.authority(ca=CA)
        assert isinstance(place, AsmPlace)
        assert isinstance(asked, AsmAuthority)
        config = place.folder / "config"
        config.write_text("[profile dr]\nrole_arn=arn:aws:iam::123456789012:role/dr\nsource_profile=default\n")
        patched = {"AWS_CONFIG_FILE": config, "AWS_ENDPOINT_URL_STS": place.server.url, "AWS_CA_BUNDLE": CA}
        for name, value_of in patched.items():
            place.patch.setenv(name, str(value_of))
        asked.profile = "dr"
        place.server.be("flood")

        answer = one(asked, "alpha")
        assert trouble(answer) is Trouble.MALFORMED
        assert "more than" in repr(answer)
        assert [b"AssumeRole" in seen.body for seen in place.server.seen] == [True]
        assert place.server.flooded_bytes < FLOOD_BYTES

    @pytest.mark.req("SEC-1")
    @pytest.mark.fault(21)
    def test_an_authority_that_was_given_up_is_not_asked_again(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the library still tries, in a thread that nobody waits for, is not sent; what came is still taken."""
        asked, limits = place.authority(ca=CA), []
        made = AsmAuthority.client
        monkeypatch.setattr(AsmAuthority, "client", lambda self, limit: made(self, limits.append(limit) or limit))
        assert isinstance(asked, AsmAuthority)
        began = time.monotonic()
        assert value(one(asked, "alpha")) == CANARY
        (limit,) = limits
        assert began <= limit.end - asked.limit_s <= time.monotonic()

        limit = Limit()
        client = asked.client(limit)
        assert get(client, "alpha").value.reveal() == CANARY
        before = len(place.server.seen)
        limit.end = time.monotonic()
        limit(received=1)
        with pytest.raises(TroubleError) as given_up:
            get(client, "alpha")

        assert (given_up.value.refused.trouble, len(place.server.seen)) == (Trouble.UNREACHABLE, before)

    @pytest.mark.req("SEC-1")
    def test_a_value_of_the_largest_size_still_comes_whole(self, place: Place) -> None:
        """What the service itself lets in (64 KiB) is far below the limit."""
        place.put("large", "v" * 65536)

        assert value(one(place.authority(ca=CA), "large")) == "v" * 65536

    def test_a_profile_that_is_not_there_is_a_config_error(self, place: Place) -> None:
        """The AWS configuration is ours to mend."""
        asked = place.authority(ca=CA)
        assert isinstance(asked, AsmAuthority)
        asked.profile = "nobody"
        with pytest.raises(ConfigError):
            one(asked, "alpha")
