"""Members of etcd that systemd-resolved finds: the lookup on a bus, and a client that has only that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import DBUS, DBUS_PATH
from gpumand.domain.errors import CallerError
from gpumand.fleet import discovery
from gpumand.fleet.discovery import RESOLVE1, RESOLVE1_PATH, discover
from gpumand.fleet.etcd_client import EtcdClient, Limits
from gpumand.fleet.store import StoreUnavailable
from gpumand.testing.bus import PrivateBus
from tests.integration.fleet.plain_etcd import PlainEtcd


class NoSuchDomain(CallerError):
    dbus_name = "org.freedesktop.resolve1.DnsError.NXDOMAIN"


class NoNameServer(CallerError):
    dbus_name = "org.freedesktop.DBus.Error.ConnectionRefused"


class NoSuchUnit(CallerError):
    dbus_name = "org.freedesktop.systemd1.NoSuchUnit"


class Resolved:
    """A systemd-resolved whose answer a test sets.

    Attributes:
        reply: the answer; None = it never answers.
        asked: the arguments of each call.
    """

    def __init__(self) -> None:
        self.reply: Reply | Exception | None = None
        self.asked: list[tuple[str, list[object]]] = []

    async def handle(self, call: IncomingCall) -> Reply:
        assert (call.path, call.member) == (RESOLVE1_PATH, "ResolveService")
        self.asked.append((call.signature, list(call.body)))
        if self.reply is None:
            await asyncio.Event().wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        assert self.reply is not None
        return self.reply

    def answer(self, *members: tuple[int, int, int, str]) -> None:
        records = [[*one, [], one[3]] for one in members]
        self.reply = Reply("a(qqqsa(iiay)s)aayssst", (records, [], "", "", "", 1))


@pytest.fixture
async def bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as started:
        yield started


@pytest.fixture
async def resolved(bus: PrivateBus) -> AsyncIterator[Resolved]:
    connection = await BusConnection.connect(bus.address)
    made = Resolved()
    connection.serve(made.handle)
    await connection.call(DBUS, DBUS_PATH, DBUS, "RequestName", "su", (RESOLVE1, 0))
    yield made
    await connection.close()


async def test_members_are_those_of_the_domain(bus: PrivateBus, resolved: Resolved) -> None:
    resolved.answer((5, 0, 2379, "gpu2.lan"), (0, 0, 2379, "gpu1.lan"))
    assert await discover("lan", bus.address) == ("https://gpu1.lan:2379", "https://gpu2.lan:2379")
    ((signature, arguments),) = resolved.asked
    assert (signature, arguments[3]) == ("isssit", "_etcd-client-ssl._tcp.lan")


async def test_domain_without_records_is_refused_with_words(bus: PrivateBus, resolved: Resolved) -> None:
    resolved.answer()
    with pytest.raises(StoreUnavailable, match=r"no SRV records of _etcd-client-ssl\._tcp\.lan"):
        await discover("lan", bus.address)


async def test_domain_that_does_not_exist_is_refused_with_what_to_do(bus: PrivateBus, resolved: Resolved) -> None:
    resolved.reply = NoSuchDomain("Name '_etcd-client-ssl._tcp.lan' not found")
    with pytest.raises(StoreUnavailable, match=r"not found\. Add them to the zone, or set endpoints in fleet\.toml"):
        await discover("lan", bus.address)


async def test_reason_of_the_resolver_is_passed_on(bus: PrivateBus, resolved: Resolved) -> None:
    resolved.reply = NoNameServer("Lookup failed due to system error: Connection refused")
    words = r"Connection refused. Check the name servers of this host: resolvectl service _etcd-client-ssl\._tcp lan"
    with pytest.raises(StoreUnavailable, match=words):
        await discover("lan", bus.address)


async def test_resolver_that_hangs_is_given_up(
    bus: PrivateBus, resolved: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LOOKUP_SEC", 0.1)
    with pytest.raises(StoreUnavailable, match="SRV records"):
        await discover("lan", bus.address)


async def test_host_without_the_resolver_gets_the_name_of_the_package(bus: PrivateBus) -> None:
    with pytest.raises(StoreUnavailable, match="apt install systemd-resolved"):
        await discover("lan", bus.address)


async def test_resolver_whose_unit_is_disabled_or_masked_is_said_not_to_run(
    bus: PrivateBus, resolved: Resolved
) -> None:
    resolved.reply = NoSuchUnit("Unit dbus-org.freedesktop.resolve1.service not found.")
    with pytest.raises(StoreUnavailable, match=r"does not run.*systemctl enable --now systemd-resolved"):
        await discover("lan", bus.address)


async def test_ten_thousand_hostile_records_are_handled(bus: PrivateBus, resolved: Resolved) -> None:
    targets = ("-rf", ".", "", "a b", "gpu1.lan", "::1", "x" * 300, "_", "a/../b", "gpu1.lan\n", "user@gpu1.lan")
    records = [(number % 7, number % 5, number % 65536, targets[number % len(targets)]) for number in range(10_000)]
    resolved.answer(*records)
    found = await discover("lan", bus.address)
    assert len(found) == discovery.MAX_MEMBERS
    assert all(one.startswith("https://") and one.count(":") == 2 and one.isprintable() for one in found), found


async def test_host_without_a_bus_is_no_crash() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be looked up"):
        await discover("lan", "unix:path=/none")


# -- the client ------------------------------------------------------------------------------------------------------

READ = {"key": "YQ=="}


async def test_client_finds_the_members_before_its_first_call_and_shares_the_lookup(shared_etcd: PlainEtcd) -> None:
    lookups: list[int] = []

    async def find() -> tuple[str, ...]:
        lookups.append(1)
        await asyncio.sleep(0.01)
        return (shared_etcd.url,)

    client = EtcdClient((), find=find)
    await asyncio.gather(*(client.call("kv/range", READ, "a read") for _ in range(5)))
    assert len(lookups) == 1
    await client.close()


async def test_client_finds_the_members_again_after_all_of_them_have_failed(shared_etcd: PlainEtcd) -> None:
    answers: list[tuple[str, ...] | StoreUnavailable] = [
        StoreUnavailable("no DNS yet"),
        ("http://127.0.0.1:9",),
        StoreUnavailable("no DNS at the moment"),
        (shared_etcd.url,),
    ]

    async def find() -> tuple[str, ...]:
        answer = answers.pop(0)
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    client = EtcdClient((), find=find, limits=Limits(call_sec=0.3, attempt_sec=0.2))
    with pytest.raises(StoreUnavailable, match="no DNS yet"):
        await client.call("kv/range", READ, "a read")
    for _ in range(2):  # the known ones are kept while the lookup fails
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
            await client.call("kv/range", READ, "a read")
    for _ in range(30):  # a machine under load may need more than one attempt
        try:
            assert "header" in await client.call("kv/range", READ, "a read")
            break
        except StoreUnavailable:
            answers.append((shared_etcd.url,))
    else:
        pytest.fail("the new member was never used")
    await client.close()


class Member:
    """An HTTP server that answers every request with an empty object, or closes its connections while it is down."""

    def __init__(self) -> None:
        self.is_up = True

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"POST /v3/kv/range" in head
        if self.is_up:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
        writer.close()


async def test_known_member_is_used_while_the_lookup_hangs() -> None:
    member, is_hanging, answers = Member(), asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(member.handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    found = [(url,), (url,)]

    async def find() -> tuple[str, ...]:
        if len(found) == 1:
            is_hanging.set()
            await answers.wait()
        return found.pop(0)

    client = EtcdClient((), find=find, limits=Limits(call_sec=0.2))
    async with asyncio.timeout(30):
        await is_used(client)
    member.is_up = False
    with pytest.raises(StoreUnavailable):
        await client.call("kv/range", READ, "a read")
    member.is_up = True
    async with asyncio.timeout(30):
        await is_used(client)
        assert is_hanging.is_set(), "the members are looked up again"
        assert len(found) == 1, "no call waits for the lookup"
        answers.set()
        while found:  # noqa: ASYNC110 - the list of a test
            await asyncio.sleep(0.01)
        await is_used(client)
    await client.close()
    server.close()


async def is_used(client: EtcdClient) -> None:
    """Return when a call has succeeded."""
    while True:
        with suppress(StoreUnavailable):
            assert await client.call("kv/range", READ, "a read") == {}
            return
