"""Calls etcd's JSON gateway over HTTP: several endpoints, limits for time and size, and logins."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from gpumand.fleet.etcd_errors import FAILED_PRECONDITION, EtcdError, as_store_error, plain_refusal, tls_failure
from gpumand.fleet.sessions import open_session
from gpumand.fleet.store import Denied, StoreError, StoreUnavailable, UnknownOutcome

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 16 * 1024 * 1024

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a call, in seconds.

    Attributes:
        connect_sec: one connection.
        attempt_sec: one attempt at one endpoint. An election of a leader takes about as long.
        call_sec: a whole call with all its attempts; less than the time to live of a host's lease.
        pause_sec: pause after all endpoints have failed.
    """

    connect_sec: float = 1.0
    attempt_sec: float = 1.5
    call_sec: float = 5.0
    pause_sec: float = 0.2


class _Failed(Exception):
    """An attempt failed.

    Attributes:
        sent: the request may have arrived.
        is_refusal: TLS failed: a wrong certificate on either side.
    """

    def __init__(self, message: str, *, sent: bool, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.is_refusal = is_refusal


class EtcdClient:
    """Calls etcd.

    Args:
        endpoints: URLs of members, the preferred one first.
        tls: context with the client certificate for https URLs.
        user: name of the user in etcd; "" = without a login.
        password: its password.
        limits: time limits.
        find: finds the endpoints where none are given, and again after all have failed. Raises StoreUnavailable.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        tls: ssl.SSLContext | None = None,
        user: str = "",
        password: str = "",
        limits: Limits = Limits(),  # a frozen value
        find: Callable[[], Awaitable[tuple[str, ...]]] | None = None,
    ) -> None:
        if not endpoints and find is None:
            raise ValueError("etcd needs at least one endpoint")
        self._endpoints = tuple(one.rstrip("/") for one in endpoints)
        self._preferred = 0
        self._find, self._is_old = find, not endpoints
        self._lookup: asyncio.Future[tuple[str, ...]] | None = None
        self._tls = tls
        self._user = user
        self._password = password
        self._limits = limits
        self._token: str | None = None  # None = not logged in, "" = etcd works without users
        self._login = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> str:
        """The endpoint that answered last, or is tried next."""
        return self._endpoints[self._preferred]

    async def _find_endpoints(self) -> None:
        """Look the endpoints up unless they have answered; wait only if none is known. Raises StoreUnavailable."""
        if self._find is None or not self._is_old:
            return
        if self._lookup is None:
            self._lookup = asyncio.ensure_future(self._find())
            self._lookup.add_done_callback(self._take_over)
        # Known members may well answer while DNS does not. Calls that waited for it would cost the lease of this host.
        if not self._endpoints:
            await asyncio.shield(self._lookup)  # calls share a lookup

    def _take_over(self, lookup: asyncio.Future[tuple[str, ...]]) -> None:
        """Use what a lookup has found."""
        self._lookup = None
        if lookup.cancelled():
            return
        if (error := lookup.exception()) is not None:
            log.debug("the members of etcd could not be looked up: %s", error)
            return
        if (found := lookup.result()) != self._endpoints:
            self._endpoints, self._preferred = found, 0
        self._is_old = False

    async def close(self) -> None:
        """Close all connections."""
        if (lookup := self._lookup) is not None:
            lookup.cancel()
            await asyncio.gather(lookup, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def call(self, path: str, body: Mapping[str, Any], what: str, *, writes: bool = False) -> Json:
        """Call a method until an endpoint answers, for a limited time.

        Args:
            path: path of the method below /v3/.
            body: its arguments. The call may be carried out several times, so it must be idempotent.
            what: the operation, for people.
            writes: whether an answer that was lost leaves the outcome unknown.

        Raises StoreUnavailable, UnknownOutcome, Denied, and EtcdError for an answer that the caller must understand.
        """
        attempts = _Attempts(what, writes)
        await self._find_endpoints()
        try:
            async with asyncio.timeout(self._limits.call_sec):
                while not attempts.are_pointless:
                    await asyncio.sleep(self._limits.pause_sec if attempts.reasons else 0)
                    for _ in self._endpoints:
                        endpoint = self.endpoint
                        with attempts:
                            return await self._answered(endpoint, path, body)
                        self.leave(endpoint)
        except TimeoutError:
            pass  # the reasons of the attempts say more
        except EtcdError as error:
            if error.is_refusal:
                raise as_store_error(error, what) from None
            raise
        self._is_old = True  # the records may have changed
        raise attempts.error()

    async def call_at(self, endpoint: str, path: str, body: Mapping[str, Any], what: str) -> Json:
        """Make one attempt at one endpoint to read. Raises StoreUnavailable and Denied."""
        attempts = _Attempts(what, writes=False)
        try:
            with attempts:
                return await self._answered(endpoint, path, body)
        except EtcdError as error:
            raise as_store_error(error, what) from None
        raise attempts.error()

    def leave(self, endpoint: str) -> None:
        """Try another endpoint first from now on, if this one still is the preferred one."""
        if endpoint == self.endpoint:
            self._preferred = (self._preferred + 1) % len(self._endpoints)

    async def _answered(self, endpoint: str, path: str, body: Mapping[str, Any]) -> Json:
        """Make one attempt, with a login before it if etcd wants one."""
        token = await self._current_token(endpoint)
        try:
            return await self._attempt(endpoint, path, body, token)
        except EtcdError as error:
            if not (error.wants_login and self._user):
                raise
        return await self._attempt(endpoint, path, body, await self._log_in(endpoint, token))

    async def _current_token(self, endpoint: str) -> str:
        if self._token is not None or not self._user:
            return self._token or ""
        return await self._log_in(endpoint, None)

    async def _log_in(self, endpoint: str, old: str | None) -> str:
        """Return a token that is newer than the old one; concurrent calls share one login."""
        async with self._login:
            if self._token is None or self._token == old:
                self._token = await self._new_token(endpoint)
            return self._token

    async def _new_token(self, endpoint: str) -> str:
        body = {"name": self._user, "password": self._password}
        try:
            answer = await self._attempt(endpoint, "auth/authenticate", body, "")
        except EtcdError as error:
            if error.code == FAILED_PRECONDITION:  # etcd works without users
                return ""
            raise
        token = answer.get("token")
        if not isinstance(token, str) or not 0 < len(token) <= 4096 or not token.isascii() or not token.isprintable():
            raise _Failed(f"{endpoint} answers a login without a token", sent=False)
        return token

    async def _attempt(self, endpoint: str, path: str, body: Mapping[str, Any], token: str) -> Json:
        """Make one request. Raises _Failed and EtcdError."""
        async with self._request(endpoint, path, body, token, self._limits.attempt_sec) as response:
            text = await _read_limited(response.content)
        return _checked(endpoint, response.status, text)

    @asynccontextmanager
    async def _request(
        self, endpoint: str, path: str, body: Mapping[str, Any], token: str, total_sec: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and translate failures, those while the answer is read included."""
        headers = {"Authorization": token} if token else {}
        timeout = aiohttp.ClientTimeout(total=total_sec, sock_connect=self._limits.connect_sec)
        try:
            async with self._opened().post(
                f"{endpoint}/v3/{path}", data=json.dumps(body), headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                yield response
        except aiohttp.InvalidURL:
            raise _Failed(f"{endpoint} is not a URL", sent=False) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(endpoint, error) from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(self._tls)
        return self._session

    @asynccontextmanager
    async def stream(
        self, endpoint: str, path: str, body: Mapping[str, Any], what: str
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open an answer that does not end, at one endpoint, and yield it.

        Raises StoreUnavailable and Denied.
        """
        try:
            token = await self._current_token(endpoint)
            async with self._request(endpoint, path, body, token, None) as response:
                if response.status != 200:
                    _checked(endpoint, response.status, await _read_limited(response.content))
                yield response.content
        except _Failed as error:
            raise (Denied if error.is_refusal else StoreUnavailable)(f"{what} failed: {error}") from None
        except EtcdError as error:
            raise await self._stream_refused(error, what) from None

    async def _stream_refused(self, error: EtcdError, what: str) -> StoreError:
        """The error to raise; a token that was refused is forgotten, so that the next attempt logs in."""
        if error.wants_login and self._user:
            async with self._login:
                self._token = None
            return StoreUnavailable(f"{what} failed: {error}")
        return as_store_error(error, what)


class _Attempts:
    """Collects why attempts of one call failed. As a context it swallows failures that another attempt may cure."""

    def __init__(self, what: str, writes: bool) -> None:
        self._what = what
        self._writes = writes
        self.sent = False
        self.only_refusals = True
        self.reasons: dict[str, None] = {}

    def __enter__(self) -> None:
        """Begin an attempt."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """End an attempt."""
        if isinstance(error, asyncio.CancelledError):  # the time of the call is over, and the request on its way
            self.sent = True
            self.only_refusals = False
            return False
        if isinstance(error, _Failed):
            self.sent = self.sent or error.sent
            self.only_refusals = self.only_refusals and error.is_refusal
        elif isinstance(error, EtcdError) and not error.is_refusal and not error.is_final:
            self.sent = self.sent or not error.was_not_carried_out
            self.only_refusals = False
        else:
            return False
        self.reasons[str(error)] = None
        return True

    @property
    def are_pointless(self) -> bool:
        """Whether every endpoint was tried and refused the certificate."""
        return bool(self.reasons) and self.only_refusals

    def error(self) -> StoreError:
        """The error to raise after the last attempt."""
        reasons = "; ".join(list(self.reasons)[-4:]) or "no answer in time"
        if self.are_pointless:
            return Denied(f"etcd cannot be used for {self._what}: {reasons}. Check the certificates of the fleet.")
        if self.sent and self._writes:
            return UnknownOutcome(f"etcd gave no answer to {self._what}, which may have been done: {reasons}")
        return StoreUnavailable(f"etcd is not available for {self._what}: {reasons}")


def parse_answer(text: bytes) -> Json | None:
    """Parse the JSON object of an answer; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def error_of(answer: Json) -> EtcdError | None:
    """The error in an answer; None if it has none."""
    code, message = answer.get("code"), answer.get("message", answer.get("error"))
    if not isinstance(code, int) or not isinstance(message, str):
        return None
    return EtcdError(code, message)


def _checked(endpoint: str, status: int, text: bytes) -> Json:
    """The parsed answer. Raises EtcdError for one that is an error, and _Failed for one that is not etcd's."""
    answer = parse_answer(text)
    if answer is None and (refusal := plain_refusal(text)) is not None:
        raise refusal
    if answer is None:
        raise _Failed(f"{endpoint} does not answer like etcd (HTTP {status})", sent=True)
    if (error := error_of(answer)) is not None:
        raise error
    if status != 200:
        raise _Failed(f"{endpoint} answers HTTP {status}", sent=True)
    return answer


def _failure(endpoint: str, error: Exception) -> _Failed:
    if reason := tls_failure(error):
        return _Failed(f"{endpoint}: {reason}", sent=False, is_refusal=True)
    # aiohttp before 3.10 has no class of its own for a connection that takes too long.
    not_sent = isinstance(error, aiohttp.ClientConnectorError) or str(error).startswith("Connection timeout")
    return _Failed(f"{endpoint}: {_reason(error)}", sent=not not_sent)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = getattr(error, "os_error", error)  # aiohttp's own words repeat the address
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number).lower() if number and number > 0 else _words(cause)


def _words(error: object) -> str:
    """The words of an error; a failure to resolve a name has them beside a negative number."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]


async def _read_limited(content: aiohttp.StreamReader) -> bytes:
    parts, size = [], 0
    async for part in content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise _Failed(f"an answer is larger than {MAX_ANSWER_BYTES} bytes", sent=True)
        parts.append(part)
    return b"".join(parts)
