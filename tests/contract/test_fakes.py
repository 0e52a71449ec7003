"""The fakes of the secret services against what their makers publish: bodies, codes, and what they refuse."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import pytest

from fakes.akv import FakeAkv
from fakes.asm import FakeAsm
from fakes.gsm import FakeGsm
from fakes.server import Answer, FakeServer, Request
from fakes.vault import FakeVault, Policy


def shape(value: Any) -> Any:
    """Keys and kinds, without the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value).__name__


def get(fake: FakeServer, url: str, **headers: str) -> Answer:
    """A GET as it reaches the fake."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return fake.answer(Request("GET", path, {name.replace("_", "-"): value for name, value in headers.items()}, b""))


@pytest.fixture
def vault() -> FakeVault:
    """One secret in each kind of mount."""
    fake = FakeVault(tokens={"root": Policy(("",)), "dr": Policy(("secret/data/dr/",))})
    fake.put("secret/dr/db", {"foo": "bar"})
    fake.put("old/db", {"foo": "bar", "ttl": "1h"})
    return fake


def test_vault_kv_2_answers_as_the_api_documentation_shows(vault: FakeVault) -> None:
    """The sample of "Read secret version", sample response: `data.data` and `data.metadata`."""
    published = json.loads(
        """{"data": {"data": {"foo": "bar"}, "metadata": {"created_time": "2018-03-22T02:24:06.945319214Z",
        "custom_metadata": null, "deletion_time": "", "destroyed": false, "version": 2}}}"""
    )
    vault.put("secret/dr/db", {"foo": "bar"})
    answer = get(vault, "/v1/secret/data/dr/db", x_vault_token="root")

    assert answer.status == 200
    assert shape(answer.body["data"]) == shape(published["data"])
    assert answer.body["data"]["metadata"]["version"] == 2


def test_vault_kv_1_answers_as_the_api_documentation_shows(vault: FakeVault) -> None:
    """The sample of "Read secret" of version 1, sample response: the fields stand in `data`."""
    published = {"auth": None, "data": {"foo": "bar", "ttl": "1h"}, "lease_duration": 2764800, "lease_id": ""}
    answer = get(vault, "/v1/old/db", x_vault_token="root")

    assert {key: shape(answer.body[key]) for key in published} == {key: shape(item) for key, item in published.items()}


@pytest.mark.parametrize(
    ("url", "token", "status", "errors"),
    [
        ("/v1/secret/data/dr/never", "root", 404, []),
        ("/v1/old/never", "root", 404, []),
        ("/v1/old/data/db", "root", 404, []),
        ("/v1/nope/x", "root", 404, ['no handler for route "nope/x". route entry not found.']),
        ("/v1/secret/data/dr/db", "", 403, ["permission denied"]),
        ("/v1/secret/data/other", "dr", 403, ["1 error occurred:\n\t* permission denied\n\n"]),
    ],
)
def test_vault_refuses_as_the_real_one_does(vault: FakeVault, url: str, token: str, status: int, errors: Any) -> None:
    """Absent, no such mount, no token, no policy: the codes and bodies that users of the real one report."""
    answer = get(vault, url, x_vault_token=token)

    assert (answer.status, answer.body) == (status, {"errors": errors})


def test_vault_warns_about_a_kv_1_path_on_kv_2(vault: FakeVault) -> None:
    """HTTP 404 with `data: null`, a warning and no `errors`, as issues of its clients show."""
    answer = get(vault, "/v1/secret/dr/db", x_vault_token="root")

    assert answer.status == 404
    assert (answer.body["data"], "errors" in answer.body) == (None, False)
    assert answer.body["warnings"][0].startswith("Invalid path for a versioned K/V secrets engine")


def test_vault_answers_for_a_deleted_version_with_404_and_its_metadata(vault: FakeVault) -> None:
    """`data.data` is null and `deletion_time` is set; another version is still there."""
    vault.put("secret/dr/db", {"foo": "baz"})
    vault.delete("secret/dr/db")
    answer = get(vault, "/v1/secret/data/dr/db", x_vault_token="root")

    assert (answer.status, answer.body["data"]["data"]) == (404, None)
    assert answer.body["data"]["metadata"]["deletion_time"]
    assert get(vault, "/v1/secret/data/dr/db?version=1", x_vault_token="root").status == 200


def test_a_vault_token_counts_in_its_namespace_alone(vault: FakeVault) -> None:
    """The header decides; without it the root namespace."""
    vault.tokens["ns"] = Policy(("",), "dr")

    assert get(vault, "/v1/secret/data/dr/db", x_vault_token="ns").status == 403
    assert get(vault, "/v1/secret/data/dr/db", x_vault_token="ns", x_vault_namespace="dr").status == 200
    assert get(vault, "/v1/secret/data/dr/db", x_vault_token="root", x_vault_namespace="dr").status == 403


def test_gsm_answers_as_the_reference_shows() -> None:
    """`name` with the project's number, `payload.data` in base64, the checksum as a text."""
    fake = FakeGsm(tokens={"t"})
    fake.put("db", b"123456789")
    answer = get(fake, "/v1/projects/dr-control/secrets/db/versions/latest:access", authorization="Bearer t")

    assert answer.body == {
        "name": "projects/414141414141/secrets/db/versions/1",
        "payload": {"data": "MTIzNDU2Nzg5", "dataCrc32c": str(0xE3069283)},  # the check value of CRC-32C
    }


@pytest.mark.parametrize(
    ("name", "state", "token", "status", "word"),
    [
        ("db", "ENABLED", "wrong", 401, "UNAUTHENTICATED"),
        ("hidden", "ENABLED", "t", 403, "PERMISSION_DENIED"),
        ("never", "ENABLED", "t", 404, "NOT_FOUND"),
        ("db", "DISABLED", "t", 400, "FAILED_PRECONDITION"),
        ("db", "DESTROYED", "t", 400, "FAILED_PRECONDITION"),
    ],
)
def test_gsm_refuses_in_the_form_of_google_apis(name: str, state: str, token: str, status: int, word: str) -> None:
    """`error.code`, `error.message`, `error.status`."""
    fake = FakeGsm(tokens={"t"}, denied={"hidden"})
    fake.put("db", b"x")
    fake.turn("db", state)
    url = f"/v1/projects/dr-control/secrets/{name}/versions/latest:access"
    answer = get(fake, url, authorization=f"Bearer {token}")

    assert answer.status == status
    assert shape(answer.body) == {"error": {"code": "int", "message": "str", "status": "str"}}
    assert (answer.body["error"]["code"], answer.body["error"]["status"]) == (status, word)


def test_the_metadata_server_wants_its_header() -> None:
    """Without `Metadata-Flavor: Google` it gives nothing, so that no browser can be made to ask."""
    fake, url = FakeGsm(on_a_vm=True), "/computeMetadata/v1/instance/service-accounts/default/token"

    assert get(fake, url).status == 403
    assert shape(get(fake, url, metadata_flavor="Google").body) == {
        "access_token": "str",
        "expires_in": "int",
        "token_type": "str",
    }


def test_akv_answers_as_the_reference_shows() -> None:
    """The sample of "Get Secret", sample response: `value`, `id` with the version, `attributes`."""
    published = {
        "value": "mysecretvalue",
        "id": "https://kv-sdk-test.vault-int.azure-int.net/secrets/mysecretname/4387e9f3d6e14c459867679a90fd0f79",
        "attributes": {"enabled": True, "created": 1493938410, "updated": 1493938410, "recoveryLevel": "Recoverable"},
    }
    fake = FakeAkv(tokens={"t"})
    fake.put("mysecretname", "mysecretvalue")
    answer = get(fake, "/secrets/mysecretname/?api-version=7.4", authorization="Bearer t")

    assert shape(answer.body) == shape(published)


def test_akv_refuses_as_the_reference_says() -> None:
    """401 with a challenge, 404 SecretNotFound, 403 with an inner code, 400 without an API version."""
    fake = FakeAkv(tokens={"t"}, denied={"hidden"})
    fake.put("off", "x")
    fake.disable("off")
    no_login = get(fake, "/secrets/off?api-version=7.4")
    assert (no_login.status, no_login.headers[0][0]) == (401, "WWW-Authenticate")
    for path, status, code, inner in (
        ("never", 404, "SecretNotFound", None),
        ("off", 403, "Forbidden", "SecretDisabled"),
        ("hidden", 403, "Forbidden", "AccessDenied"),
    ):
        answer = get(fake, f"/secrets/{path}?api-version=7.4", authorization="Bearer t")
        assert (answer.status, answer.body["error"]["code"]) == (status, code)
        assert answer.body["error"].get("innererror", {}).get("code") == inner
    assert get(fake, "/secrets/off", authorization="Bearer t").status == 400


def test_asm_answers_in_the_shape_of_the_service_model() -> None:
    """Every member of the answer is one of `GetSecretValueResponse`; the errors are those that it declares."""
    model = botocore.session.get_session().get_service_model("secretsmanager").operation_model("GetSecretValue")
    declared = {error.name for error in model.error_shapes}
    fake = FakeAsm()
    fake.call("CreateSecret", Name="db", SecretString="x")
    answer = json.loads(fake._backend("GetSecretValue", {"SecretId": "db"}).encoded())
    missing = json.loads(fake._backend("GetSecretValue", {"SecretId": "never"}).encoded())
    sealed = fake.in_mode("sealed", Request("POST", "/", {}, b"")).body

    assert set(answer) <= set(model.output_shape.members)
    assert {missing["__type"], sealed["__type"]} <= declared


def test_asm_refuses_unknown_keys_other_services_and_other_actions() -> None:
    """moto would take any access key; the fake takes those that there are."""
    fake, signed = FakeAsm(), "AWS4-HMAC-SHA256 Credential={}/20260314/eu-west-1/{}/aws4_request, SignedHeaders=host"
    for key, service, action, code in (
        ("AKIAWRONG", "secretsmanager", "GetSecretValue", "UnrecognizedClientException"),
        (next(iter(fake.key_ids)), "s3", "GetSecretValue", "UnrecognizedClientException"),
        (next(iter(fake.key_ids)), "secretsmanager", "PutSecretValue", "AccessDeniedException"),
    ):
        headers = {"authorization": signed.format(key, service), "x-amz-target": f"secretsmanager.{action}"}
        assert fake.answer(Request("POST", "/", headers, b'{"SecretId": "db"}')).body["__type"] == code
