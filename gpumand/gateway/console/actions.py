"""Changes that a client may request at the gateway's own address: load, evict, pin, unpin, and cancel a request."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from gpumand.client.client import Client as Gpumand
from gpumand.client.errors import (
    AccessDenied,
    Busy,
    GpumandError,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    NoSuchConsumer,
)
from gpumand.gateway import web
from gpumand.gateway.console.rights import require_administrator, require_use
from gpumand.gateway.held_bodies import next_chunk
from gpumand.gateway.refusals import Refused, refusal_of, refused
from gpumand.gateway.requests import Client, RequestTable, State
from gpumand.gateway.visibility import may_see

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
BODY_SEC = 10.0
MAX_ACTIONS = 16
"""Maximum number of loads and evictions at a time that clients wait for here."""

TIMEOUT_SEC, MAX_TIMEOUT_SEC = 120.0, 3600.0
"""How long a client waits for a load or an eviction, unless it says otherwise, and at most."""

NOT_PERMITTED = (
    "gpumand does not permit the gateway's user to do this. An administrator can permit it with the polkit rule in the "
    'guide to the gateway, section "Rights of the web page"'
)

Fields = dict[str, Any]


class Actions:
    """Carries out changes.

    Args:
        bus: the bus of gpumand: "system", "session" or a D-Bus address.
        table: the requests in flight.
    """

    def __init__(self, bus: str, table: RequestTable) -> None:
        self._bus, self._table = bus, table
        self._running = 0

    async def on_consumer(self, verb: str, consumer: str, client: Client, request: web.BaseRequest) -> Fields:
        """Load, evict, pin or unpin a consumer.

        Args:
            verb: "load", "evict", "pin" or "unpin".
            consumer: name of the consumer.
            client: the client that asks for it.
            request: the request, whose body is a JSON object of options.

        Returns:
            What was done, as the fields of ``Outcome``; empty for pin and unpin.

        Raises:
            Refused: it is not permitted, or failed.
        """
        require_use(client, consumer)
        if verb != "load":
            require_administrator(client)
        options = await read_object(request)
        if self._running >= MAX_ACTIONS:
            raise refused(429, "too_many_actions", "Too many loads and evictions are running. Try again later.", 5)
        self._running += 1
        try:
            log.info("%s: %s %s", client.name, verb, consumer)
            return await self._carry_out(verb, consumer, options)
        except GpumandError as error:
            raise refused_by(error) from None
        finally:
            self._running -= 1

    async def cancel(self, number: int, client: Client, request: web.BaseRequest) -> Fields:
        """Cancel a request in flight, or release the lease of a held job.

        A client may cancel its own, and an administrator any.

        Returns:
            For a job, ``message``: what that means for its work. Empty for a request.

        Raises:
            Refused: it is not permitted, or there is no such request or job.
        """
        await read_object(request)
        entry = self._table.get(number)
        # All programs of this host without a key share a name, which does not prove that a request is the client's own.
        is_proven = client.has_key or not client.is_local
        is_own = entry is not None and is_proven and entry.client.name == client.name
        if not is_own:
            require_administrator(client)
        if entry is not None and not is_own and not may_see(client, entry.consumer):
            raise no_such_request(number)
        # A library that repeated the request by itself would undo what a person has decided.
        if not self._table.cancel(number, f"ended by {client.name}", retry_sec=None):
            raise no_such_request(number)
        log.info("%s: cancelled request %d", client.name, number)
        return {} if entry is None or entry.state is not State.JOB else {"message": _released(entry.consumer)}

    async def _carry_out(self, verb: str, consumer: str, options: Fields) -> Fields:
        async with Gpumand(self._bus) as gpumand:
            if verb in ("pin", "unpin"):
                _check_keys(options, {})
                await (gpumand.pin(consumer) if verb == "pin" else gpumand.unpin(consumer))
                return {}
            if verb == "load":
                _check_keys(options, {"timeout_sec": _is_timeout, "device": _is_text})
                return asdict(await gpumand.load(consumer, **_with_timeout(options)))
            _check_keys(options, {"timeout_sec": _is_timeout, "force": _is_bool})
            return asdict(await gpumand.evict(consumer, **_with_timeout(options)))


def _released(consumer: str) -> str:
    """What follows when a job is no longer held."""
    return (
        f"The job is no longer held. Its work goes on in {consumer}: stop it there if needed. The lease on {consumer} "
        f"is given back when no other request or job shares it. Then {consumer} may be evicted, unless its busy check "
        "in gpumand forbids it."
    )


def no_such_request(number: int) -> Refused:
    """The refusal to cancel a request that does not exist, or that the client may not see."""
    return refused(404, "no_such_request", f"There is no request {number}. It may have ended already.")


async def read_object(request: web.BaseRequest) -> Fields:
    """The JSON object in a body; an empty body is an empty object. Raises Refused."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise refused(413, "body_too_large", f"The body has more than {MAX_BODY_BYTES} bytes.")
    try:
        async with asyncio.timeout(BODY_SEC):
            body = await _read(request)
        document = json.loads(body) if body.strip() else {}
    except TimeoutError:
        raise refused(408, "slow_body", f"The body did not arrive within {BODY_SEC:g} s.") from None
    except (ValueError, RecursionError, asyncio.IncompleteReadError):
        raise refused(400, "invalid_json", "The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise refused(400, "invalid_json", "The body must be a JSON object.")
    return document


async def _read(request: web.BaseRequest) -> bytes:
    body = bytearray()
    while chunk := await next_chunk(request):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise refused(413, "body_too_large", f"The body has more than {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def refused_by(error: GpumandError) -> Refused:
    """The refusal for an error of gpumand, for a client that administers it."""
    if isinstance(error, AccessDenied | InteractiveAuthorizationRequired):
        return refused(403, "access_denied", f"{NOT_PERMITTED}: {error.message}")
    if isinstance(error, NoSuchConsumer):
        return refused(404, "no_such_consumer", error.message)
    if isinstance(error, InvalidArgs):
        return refused(400, "invalid_arguments", error.message)
    if isinstance(error, Busy):
        return refused(409, "busy", error.message)
    return Refused(refusal_of(error, 5))


def _check_keys(options: Fields, allowed: dict[str, Callable[[Any], bool]]) -> None:
    for name, value in options.items():
        if name not in allowed or not allowed[name](value):
            known = ", ".join(allowed) or "none"
            raise refused(400, "invalid_arguments", f"The option {name[:64]!r} is unknown or invalid. Known: {known}.")


def _with_timeout(options: Fields) -> Fields:
    return {"timeout_sec": TIMEOUT_SEC} | options


def _is_timeout(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_TIMEOUT_SEC


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 256


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)
