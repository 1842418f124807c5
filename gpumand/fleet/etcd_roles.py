"""Users and roles of etcd: each host reads the whole fleet, and writes only its own keys and those that hosts share.

Used by ``gpumanctl fleet`` as root of etcd, and never by the running service. Every step can be repeated.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gpumand.fleet.etcd_errors import reset_hint
from gpumand.fleet.keys import Keys

ROOT = "root"
CALL_SEC = 5.0
ALL_FLEETS = b"/gpumand/"
"""Prefix of the keys of all fleets."""

MAX_ANSWER = 1 << 20
_EXISTS = "already exists"
_NO_LOGIN = ("user name is empty", "invalid auth token")
_WRONG_PASSWORD = "authentication failed"


class EtcdFailure(Exception):
    """A failure of etcd; the message is one line that says what to do."""


class EtcdAbsent(EtcdFailure):
    """No member of etcd answers."""


@dataclass(frozen=True, slots=True)
class HostAccess:
    """A host's access to etcd.

    Attributes:
        user: name of the host's user and role.
        password: its password.
        fleet: name of the fleet.
        machine_id: machine id of the host, which its keys contain.
    """

    user: str
    password: str = field(repr=False)
    fleet: str
    machine_id: str

    @property
    def writable(self) -> tuple[tuple[str, bool], ...]:
        """The keys that the host may write, and whether each is a prefix."""
        keys = Keys(self.fleet)
        own = ((keys.host(self.machine_id), False), (keys.leases_of(self.machine_id), True))
        return (*own, (keys.drain(self.machine_id), False), (keys.intents, True), (keys.uniques, True))


class EtcdAdmin:
    """etcd as its user root. Use it in ``async with``.

    Args:
        endpoints: URLs of the members.
        tls: the TLS context; None for connections without encryption.
        password: password of root.
    """

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext | None, password: str) -> None:
        self._endpoints, self._tls, self._password = tuple(endpoints), tls, password
        self._token = ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> EtcdAdmin:
        timeout = aiohttp.ClientTimeout(total=CALL_SEC)
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def has_auth(self) -> bool:
        """Whether etcd requires a login. Raises EtcdFailure."""
        status, answer = await self._post("auth/user/list", {})
        if status == 200:
            return False
        if _message(answer) not in _NO_LOGIN and "user name is empty" not in _message(answer):
            raise EtcdFailure(_explained(answer))
        return True

    async def prepare(self, *, may_require_login: bool = False) -> None:
        """Log in as root; if etcd requires no login yet, create root and require one.

        Args:
            may_require_login: require a login also where other programs use etcd, which lose their access by it.

        Raises EtcdFailure.
        """
        if await self.log_in():
            return
        if not may_require_login:
            await self._refuse_if_shared()
        await self._call("auth/user/add", {"name": ROOT, "password": self._password}, exists_is_fine=True)
        await self._call("auth/user/changepw", {"name": ROOT, "password": self._password})
        await self._call("auth/role/add", {"name": ROOT}, exists_is_fine=True)
        await self._call("auth/user/grant", {"user": ROOT, "role": ROOT})
        await self._call("auth/enable", {})
        await self._log_in()

    async def log_in(self) -> bool:
        """Log in as root; False if etcd requires no login, so that it has no users. Raises EtcdFailure."""
        if not await self.has_auth():
            return False
        await self._log_in()
        return True

    async def give_access(self, host: HostAccess) -> None:
        """Create the user and the role of a host, or set them again. Call ``prepare`` first. Raises EtcdFailure."""
        await self._call("auth/role/add", {"name": host.user}, exists_is_fine=True)
        await self._grant(host.user, "READ", Keys(host.fleet).root, is_prefix=True)
        for key, is_prefix in host.writable:
            await self._grant(host.user, "READWRITE", key, is_prefix=is_prefix)
        await self._call("auth/user/add", {"name": host.user, "password": host.password}, exists_is_fine=True)
        await self._call("auth/user/changepw", {"name": host.user, "password": host.password})
        await self._call("auth/user/grant", {"user": host.user, "role": host.user})

    async def remove_access(self, user: str, fleet: str, machine_id: str) -> None:
        """Remove the user and the role of a host that has left, and all its keys. Call ``log_in`` first.

        Its session is ended here: etcd lets every client with a certificate renew a session, also without a user.

        Args:
            user: name of the host's user and role.
            fleet: name of the fleet.
            machine_id: machine id of the host.

        Raises:
            EtcdFailure: etcd does not answer, or refuses it.
        """
        await self._call("auth/user/delete", {"name": user}, missing_is_fine=True)
        await self._call("auth/role/delete", {"role": user}, missing_is_fine=True)
        await self._end_session(Keys(fleet).host(machine_id))
        await self._call("kv/deleterange", {"key": _base64(Keys(fleet).drain(machine_id))})

    async def _end_session(self, row: str) -> None:
        """End the session that keeps the row of a host, and with it its leases, intents and claims."""
        status, answer = await self._post("kv/range", {"key": _base64(row)})
        if status != 200:
            raise EtcdFailure(_explained(answer))
        for pair in answer.get("kvs", ()):
            if session := pair.get("lease"):  # absent in a row without a session
                await self._call("lease/revoke", {"ID": session}, missing_is_fine=True)

    async def _refuse_if_shared(self) -> None:
        """Raise EtcdFailure if other programs have keys in an etcd without logins: they could not use it any more."""
        keys = await self._count(b"\0", b"\0") - await self._count(ALL_FLEETS, ALL_FLEETS[:-1] + b"0")
        if keys > 0:
            raise EtcdFailure(
                f"etcd has {keys} {'key' if keys == 1 else 'keys'} of other programs and requires no login. With a "
                "login, these programs could not use it any more. Use another etcd for the fleet, or permit it: "
                "gpumanctl fleet init --require-login"
            )

    async def _count(self, first: bytes, end: bytes) -> int:
        """The number of keys from ``first`` to before ``end``; an end of one zero byte is that of all keys."""
        body = {"key": base64.b64encode(first).decode(), "range_end": base64.b64encode(end).decode()}
        status, answer = await self._post("kv/range", {**body, "count_only": True})
        count = str(answer.get("count", 0))  # JSON has 64-bit integers as text, and no zeros
        if status != 200 or not count.isdecimal():
            raise EtcdFailure(_explained(answer))
        return int(count)

    async def _grant(self, role: str, kind: str, key: str, *, is_prefix: bool) -> None:
        permission = {"permType": kind, "key": _base64(key)}
        if is_prefix:
            permission["range_end"] = _base64(key[:-1] + chr(ord(key[-1]) + 1))
        await self._call("auth/role/grant", {"name": role, "perm": permission})

    async def _log_in(self) -> None:
        self._token = ""
        status, answer = await self._post("auth/authenticate", {"name": ROOT, "password": self._password})
        if status != 200 or not isinstance(answer.get("token"), str):
            if _WRONG_PASSWORD in _message(answer):
                raise EtcdFailure(
                    "etcd requires a login, and refuses the password of root in "
                    "/etc/gpumand/fleet-ca/etcd-root-password. Write the right password of etcd's user root into this "
                    "file, and run the command again."
                )
            raise EtcdFailure(_explained(answer))
        self._token = answer["token"]

    async def _call(
        self, path: str, body: dict[str, Any], *, exists_is_fine: bool = False, missing_is_fine: bool = False
    ) -> None:
        status, answer = await self._post(path, body)
        text = _message(answer)
        if status == 200 or (exists_is_fine and _EXISTS in text) or (missing_is_fine and "not found" in text):
            return
        raise EtcdFailure(_explained(answer))

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Call the first member that answers. Raises EtcdFailure."""
        failures = []
        for endpoint in self._endpoints:
            try:
                return await self._post_to(endpoint, path, body)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                failures.append(f"{endpoint}: {_reason(error)}{reset_hint(endpoint, error)}")
        raise EtcdAbsent(f"no member of etcd answers ({'; '.join(failures)})")

    async def _post_to(self, endpoint: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        assert self._session is not None
        headers = {"Authorization": self._token} if self._token else {}
        url = f"{endpoint}/v3/{path}"
        async with self._session.post(url, json=body, headers=headers, allow_redirects=False) as answer:
            data = await answer.content.read(MAX_ANSWER)
            return answer.status, _parsed(data)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {"message": f"an answer that is not JSON: {data[:80]!r}"}
    return value if isinstance(value, dict) else {}


def _message(answer: dict[str, Any]) -> str:
    return " ".join(str(answer.get("message") or answer.get("error") or "").split())[:300]


def _explained(answer: dict[str, Any]) -> str:
    text = _message(answer)
    if "CommonName" in text:
        text += ". Use the certificate that gpumanctl fleet init or join has written: it has no common name"
    return f"etcd refuses: {text or 'no reason is given'}"


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    certificate = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return " ".join(str(certificate or error).split())[:200]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
