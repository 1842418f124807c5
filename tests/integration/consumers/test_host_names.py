"""Host names that hang, have several addresses or none, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpumand.consumers import http_connection
from gpumand.consumers.answers import NoAnswer
from gpumand.consumers.host_names import Address, HostNames
from gpumand.consumers.http_connection import Place, connect
from gpumand.consumers.routes import HttpRoutes
from tests.integration.service_manager.host import until

from .servers import answer_healthy, failure_of, spec, web_server

LOOKUPS = "gpumand.consumers.host_names.socket.getaddrinfo"
ADDRESSES = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", 9)) for last in (2, 3)]


@pytest.fixture
def hanging_lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lookups of hanging.example so far, none of which ends before the test does."""
    lookups: list[str] = []
    end, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, port: int | None, *args: Any, **options: Any) -> Any:
        if host == "hanging.example" and not options.get("flags", 0) & socket.AI_NUMERICHOST:
            lookups.append(host)
            end.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, port, *args, **options)

    monkeypatch.setattr(LOOKUPS, getaddrinfo)
    yield lookups
    end.set()


async def test_name_that_hangs_delays_neither_other_names_nor_threads(
    routes: HttpRoutes, hanging_lookups: list[str]
) -> None:
    async with web_server(answer_healthy) as url:
        named = url.replace("127.0.0.1", "localhost")
        for number in range(30):  # more names of consumers than any pool has threads
            failure = await failure_of(routes, spec("http://hanging.example:81", f"c{number}", timeout_sec=0.05))
            assert "no answer within 0.05 s" in failure
        assert (await routes.probe_health(spec(named, "other", timeout_sec=30))).loaded is True
        threads = [asyncio.to_thread(threading.get_ident) for _ in range(40)]
        await asyncio.wait_for(asyncio.gather(*threads), 30)
    assert hanging_lookups == ["hanging.example"], "requests share the lookup of a name"


async def test_name_is_looked_up_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [socket.gaierror(socket.EAI_AGAIN, "Try again"), [(2, 1, 6, "", ("127.0.0.2", 0))]]

    def getaddrinfo(host: str, port: int | None, *args: Any, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(LOOKUPS, getaddrinfo)
    names = HostNames()
    with pytest.raises(NoAnswer, match="host name 'llm' cannot be resolved: Try again"):
        await names.addresses("llm", 81)
    await until(lambda: not names._lookups)
    assert await names.addresses("llm", 81) == [(2, 1, 6, "", ("127.0.0.2", 81))]
    names.close()


class _TwoAddresses(HostNames):
    async def addresses(self, host: str, port: int) -> list[Address]:
        return list(ADDRESSES)


@pytest.mark.parametrize(
    ("errors", "refused", "message"),
    [
        ((TimeoutError(), errno.ECONNREFUSED), False, "no connection to llm:9 within 1 s"),
        ((errno.ECONNREFUSED, TimeoutError()), False, "no connection to llm:9 within 1 s"),
        ((errno.ECONNREFUSED, errno.ECONNRESET), False, "connecting to llm:9 failed"),
        ((errno.ENETUNREACH, errno.ECONNREFUSED), True, "nothing listens on llm:9"),
        ((errno.ECONNREFUSED, errno.EHOSTUNREACH), True, "nothing listens on llm:9"),
        ((errno.ENETUNREACH, errno.EHOSTUNREACH), False, "connecting to llm:9 failed"),
    ],
)
async def test_host_is_refusing_only_where_no_address_may_have_a_busy_server(
    monkeypatch: pytest.MonkeyPatch, errors: tuple[Any, ...], refused: bool, message: str
) -> None:
    monkeypatch.setattr(http_connection, "_connected", _failing_with(errors))
    names = _TwoAddresses()
    with pytest.raises(NoAnswer, match=message) as failure:
        await connect(Place("llm", 9), names)
    assert failure.value.refused is refused
    names.close()


def _failing_with(errors: tuple[Any, ...]) -> Callable[[socket.socket, object], Any]:
    left = list(errors)

    async def connected(sock: socket.socket, address: object) -> socket.socket:
        sock.close()
        error = left.pop(0)
        raise error if isinstance(error, OSError) else OSError(error, "failed")

    return connected
