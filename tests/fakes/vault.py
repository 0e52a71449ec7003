"""HashiCorp Vault and OpenBao as their HTTP API is published: kv 1 and 2, policies, AppRole, JWT, namespaces.

Source: Vault API documentation ("KV secrets engine" 1 and 2, "AppRole", "JWT/OIDC", "HTTP status codes", "Lease, renew,
and revoke") and bodies that users posted in the issues of Vault and its clients. It refuses what the real one refuses.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fakes.server import Answer, FakeServer, Request

CREATED = "2026-03-14T03:00:00.123456789Z"
VERSIONED = (
    "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. "
    "If using the Vault CLI, use 'vault kv get' for this operation."
)


@dataclass
class Version:
    """One version of a kv 2 secret."""

    data: dict[str, Any] | None
    deletion_time: str = ""
    destroyed: bool = False


@dataclass
class Policy:
    """What a token may read: path prefixes, in one namespace."""

    prefixes: tuple[str, ...]
    namespace: str | None = None


@dataclass
class FakeVault(FakeServer):
    """`mounts`: name -> kv version. `tokens`: token -> policy. Logins hand out tokens with `login_policy`."""

    mounts: dict[str, int] = field(default_factory=lambda: {"secret": 2, "team/kv": 2, "old": 1})
    namespace: str | None = None
    tokens: dict[str, Policy] = field(default_factory=dict)
    approle: dict[str, str | None] = field(default_factory=dict)
    jwt: dict[str, str] = field(default_factory=dict)
    login_policy: Policy = field(default_factory=lambda: Policy(("",)))
    one: dict[str, dict[str, Any]] = field(default_factory=dict)
    two: dict[str, list[Version]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def put(self, path: str, data: dict[str, Any]) -> None:
        """Write `mount/path`, as `vault kv put` does."""
        mount = self._mount(path)
        assert mount is not None
        if self.mounts[mount] == 1:
            self.one[path] = data
        else:
            self.two.setdefault(path, []).append(Version(data))

    def delete(self, path: str, *, metadata: bool = False, destroy: bool = False) -> None:
        """`vault kv delete`, `vault kv metadata delete` or `vault kv destroy` of the latest version."""
        if path in self.one:
            del self.one[path]
        elif metadata:
            del self.two[path]
        else:
            last = self.two[path][-1]
            last.deletion_time, last.destroyed = CREATED, destroy

    def in_mode(self, mode: str, request: Request) -> Answer:
        """Sealed, or too many requests."""
        if mode == "sealed":
            return Answer(503, {"errors": ["Vault is sealed"]})
        if mode.startswith("throttled"):
            after = mode.partition(" ")[2]
            path = urlsplit(request.path).path.removeprefix("/v1/")
            said = {"errors": [f'request path "{path}": rate limit quota exceeded']}
            return Answer(429, said, (("Retry-After", after), ("X-Ratelimit-Limit", "1")) if after else ())
        if mode == "standby":
            return Answer(307, None, (("Location", "https://active.example:8200" + request.path),))
        raise NotImplementedError(mode)

    def answer(self, request: Request) -> Answer:
        """Route as Vault does: logins, then the token, then the policy, then the mount."""
        parts = urlsplit(request.path)
        path, query = unquote(parts.path).removeprefix("/v1/"), parse_qs(parts.query)
        namespace = request.headers.get("x-vault-namespace")
        if path.startswith("auth/") and path.endswith("/login") and request.method == "POST":
            return self._login(path.split("/", 1)[1].removesuffix("/login"), request, namespace)
        policy = self.tokens.get(request.headers.get("x-vault-token", ""))
        if policy is None or policy.namespace != namespace:
            return Answer(403, {"errors": ["permission denied"]})
        if path == "auth/token/revoke-self" and request.method == "POST":
            del self.tokens[request.headers["x-vault-token"]]
            return Answer(204)
        if path.startswith("sys/internal/ui/mounts/"):
            return self._told_mount(path.removeprefix("sys/internal/ui/mounts/"), policy)
        if not any(path.startswith(prefix) for prefix in policy.prefixes):
            return Answer(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})
        mount = self._mount(path)
        if mount is None:
            return Answer(404, {"errors": [f'no handler for route "{path}". route entry not found.']})
        if request.method != "GET":
            return Answer(405, {"errors": ["1 error occurred:\n\t* unsupported operation\n\n"]})
        rest = path[len(mount) + 1 :]
        return self._read_one(path) if self.mounts[mount] == 1 else self._read_two(mount, rest, query)

    def _login(self, mount: str, request: Request, namespace: str | None) -> Answer:
        said = request.json()
        if namespace != self.namespace:
            return Answer(403, {"errors": ["permission denied"]})
        if mount == "approle":
            role = str(said.get("role_id", ""))
            if role not in self.approle or self.approle[role] != said.get("secret_id"):
                return Answer(400, {"errors": ["invalid role or secret ID"]})
        elif mount == "jwt":
            if self.jwt.get(str(said.get("role"))) != said.get("jwt"):
                return Answer(400, {"errors": ["error validating token: invalid signature"]})
        else:
            return Answer(403, {"errors": ["permission denied"]})
        token = f"hvs.{uuid.uuid4().hex}"
        self.tokens[token] = Policy(self.login_policy.prefixes, namespace)
        auth = {"client_token": token, "accessor": uuid.uuid4().hex, "policies": ["default", "dr"]}
        auth |= {
            "token_policies": ["default", "dr"],
            "lease_duration": 1200,
            "renewable": True,
            "token_type": "service",
        }
        return Answer(200, self._wrapped(None) | {"auth": auth})

    def _told_mount(self, path: str, policy: Policy) -> Answer:
        mount = self._mount(path.rstrip("/") + "/")
        if mount is None or not any(p.startswith(mount) or mount.startswith(p) for p in policy.prefixes):
            why = "preflight capability check returned 403, please ensure client's policies grant access to path "
            why += f'"{path}/"'
            return Answer(403, {"errors": [why]})
        about = {"accessor": "kv_1f7b8c3d", "config": {"default_lease_ttl": 0}, "description": "", "local": False}
        options = {"version": "2"} if self.mounts[mount] == 2 else None
        return Answer(200, self._wrapped(about | {"options": options, "path": f"{mount}/", "type": "kv"}))

    def _read_one(self, path: str) -> Answer:
        return Answer(200, self._wrapped(self.one[path])) if path in self.one else Answer(404, {"errors": []})

    def _read_two(self, mount: str, rest: str, query: dict[str, list[str]]) -> Answer:
        if not rest.startswith("data/"):
            return Answer(404, self._wrapped(None) | {"warnings": [VERSIONED], "mount_type": ""})
        versions = self.two.get(f"{mount}/{rest.removeprefix('data/')}", [])
        number = int(query.get("version", ["0"])[0]) or len(versions)
        if not 0 < number <= len(versions):
            return Answer(404, {"errors": []})
        one = versions[number - 1]
        metadata = {"created_time": CREATED, "custom_metadata": None, "deletion_time": one.deletion_time}
        metadata |= {"destroyed": one.destroyed, "version": number}
        gone = bool(one.deletion_time) or one.destroyed
        data = {"data": None if gone else one.data, "metadata": metadata}
        return Answer(404 if gone else 200, self._wrapped(data))

    def _mount(self, path: str) -> str | None:
        found = [mount for mount in self.mounts if path.startswith(mount + "/")]
        return max(found, key=len, default=None)

    def _wrapped(self, data: Any) -> dict[str, Any]:
        head = {"request_id": str(uuid.uuid4()), "lease_id": "", "renewable": False, "lease_duration": 0}
        return head | {"data": data, "wrap_info": None, "warnings": None, "auth": None, "mount_type": "kv"}
