"""The state, the events and the questions of the gateway's own address, with a scripted source."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from gpumand.client.errors import AccessDenied, Busy, GpumandError, NotRunning
from gpumand.gateway.console import feed as feeds
from gpumand.gateway.console.actions import refused_by
from gpumand.gateway.console.events import EventStreams, Page, event
from gpumand.gateway.console.feed import Feed, Reading, plain
from gpumand.gateway.console.queries import Queries
from gpumand.gateway.console.rights import check_change, require_administrator, require_use
from gpumand.gateway.console.state_view import MAX_REQUESTS, UNLIMITED, ShownListener, StateView
from gpumand.gateway.headers import Origin
from gpumand.gateway.refusals import Refused
from gpumand.gateway.requests import Client, RequestTable, WaitLimits
from gpumand.gateway.routes.classes import RouteClass
from tests.waiting import until

STATUS: dict[str, Any] = {
    "devices": [{"index": 0, "processes": [{"pid": 7, "name": "python3", "user": "alice"}]}],
    "consumers": [{"name": "llm", "used_mib_history": [1, 2]}],
    "queue": [],
    "driver_state": "open",
}


class Source:
    """A source of statuses that a test controls."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: GpumandError | None = None
        self.changed: Callable[[], None] = lambda: None
        self.answer = dict(STATUS)

    async def read(self) -> dict[str, Any]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.answer

    async def listen(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def close(self) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses between readings, except the period, which never ends."""
    monkeypatch.setattr(feeds, "SETTLE_SEC", 0)
    monkeypatch.setattr(feeds, "PERIOD_SEC", 3600)


@pytest.mark.usefixtures("quick")
async def test_status_is_read_once_per_change_and_never_without_a_page() -> None:
    source, published = Source(), []
    feed = Feed(source, lambda: published.append(feed.reading))
    for _ in range(50):
        await asyncio.sleep(0)
    assert source.reads == 0

    feed.start()
    await until(lambda: len(published) == 1)
    source.changed()
    source.changed()
    await until(lambda: len(published) == 2)
    feed.stop()
    source.changed()
    for _ in range(50):
        await asyncio.sleep(0)
    assert source.reads == 2
    await feed.close()


@pytest.mark.usefixtures("quick")
async def test_last_status_stays_while_gpumand_is_away() -> None:
    source, published = Source(), []
    feed = Feed(source, lambda: published.append(feed.reading))
    feed.start()
    await until(lambda: len(published) == 1)
    source.error = NotRunning("gpumand is not running")
    source.changed()
    await until(lambda: len(published) == 2)

    assert published[1].absence == "gpumand is not running"
    assert published[1].status == STATUS
    assert published[1].read_usec == published[0].read_usec
    await feed.close()


@pytest.mark.usefixtures("quick")
async def test_status_that_cannot_be_shown_does_not_end_the_readings(caplog: pytest.LogCaptureFixture) -> None:
    source, shown = Source(), []

    def publish() -> None:
        if source.reads == 1:
            raise KeyError("consumers")
        shown.append(source.reads)

    feed = Feed(source, publish)
    feed.start()
    await until(lambda: source.reads == 1)
    source.changed()
    await until(lambda: shown == [2])
    assert "cannot be shown" in caplog.text
    await feed.close()


async def test_questions_at_the_same_time_share_a_reading() -> None:
    source = Source()
    feed = Feed(source)
    readings = await asyncio.gather(*(feed.current() for _ in range(20)))

    assert source.reads == 1
    assert {id(one) for one in readings} == {id(feed.reading)}
    await feed.close()


def test_resting_driver_is_asked_less_often() -> None:
    assert feeds.RESTING_PERIOD_SEC > feeds.PERIOD_SEC


async def test_slow_page_gets_the_newest_state_only() -> None:
    page = Page(Client("a"))
    for number in range(100):
        page.put(str(number).encode())
    assert await page.next() == b"99"
    page.put(b"100")
    page.close()
    assert await page.next() == b""


async def test_equal_states_are_sent_once() -> None:
    calls: list[str] = []
    streams = EventStreams(lambda: calls.append("first"), lambda: calls.append("last"))
    page = streams._join(Client("a"))
    streams.publish(lambda _: {"a": 1})
    streams.publish(lambda _: {"a": 1})
    assert await page.next() == event("state", {"a": 1})
    streams.publish(lambda _: {"a": 2})
    assert await page.next() == event("state", {"a": 2})
    streams._leave(page)
    assert calls == ["first", "last"]


async def test_streams_of_one_remote_client_are_limited_and_local_ones_only_in_total() -> None:
    streams = EventStreams(lambda: None, lambda: None)
    for _ in range(16):
        streams._join(Client("key"))
    with pytest.raises(Refused, match="Too many pages"):
        streams._join(Client("key"))
    for _ in range(48):
        streams._join(Client("127.0.0.1", is_local=True))
    with pytest.raises(Refused, match="Too many pages"):
        streams._join(Client("127.0.0.1", is_local=True))


def test_event_is_one_line_of_ascii_whatever_the_texts_contain() -> None:
    data = event("state", {"text": "a\r\ndata: b\u2028\ud800"})
    assert data.count(b"\n") == 3
    assert json.loads(data.split(b"data: ", 1)[1]) == {"text": "a\r\ndata: b\u2028\ud800"}


def test_numbers_that_json_cannot_carry_become_null() -> None:
    assert plain({"watts": float("nan"), "list": [float("inf"), 1.5, True, None, "a"]}) == {
        "watts": None,
        "list": [None, 1.5, True, None, "a"],
    }


async def test_state_leaves_out_histories_of_consumers_and_limits_the_requests() -> None:
    table = RequestTable(WaitLimits())
    for _ in range(MAX_REQUESTS + 5):
        table.add(Client("127.0.0.1"), "llm", "POST", "/v1/x", RouteClass.WORK)
    view = StateView(table, lambda: (ShownListener("llm", "llm", "127.0.0.1:1"),))
    state = view.state(Reading(STATUS, "", 1), UNLIMITED)

    assert state["status"]["consumers"] == [{"name": "llm"}]
    assert state["status"]["devices"] == [{"index": 0}]
    assert (len(state["requests"]), state["request_count"]) == (MAX_REQUESTS, MAX_REQUESTS + 5)
    assert state["requests"][0]["number"] == 1
    assert state["gateway"]["listeners"] == [{"name": "llm", "consumer": "llm", "address": "127.0.0.1:1"}]
    assert view.state(Reading(), UNLIMITED)["status"] is None


async def test_states_without_a_change_are_equal_although_time_passes() -> None:
    table = RequestTable(WaitLimits())
    table.add(Client("127.0.0.1"), "llm", "POST", "/v1/x", RouteClass.WORK)
    view = StateView(table, lambda: ())
    first = view.state(Reading(STATUS, "", 1), UNLIMITED)
    await asyncio.sleep(0.02)
    (request,) = view.state(Reading(STATUS, "", 1), UNLIMITED)["requests"]

    assert abs(request["began_usec"] - first["requests"][0]["began_usec"]) in (0, 100_000)
    assert request["began_usec"] % 100_000 == 0


async def test_waiting_request_has_the_reason_of_its_consumer_s_first_place_in_the_queue() -> None:
    table = RequestTable(WaitLimits())
    entry = table.add(Client("127.0.0.1"), "llm", "POST", "/v1/x", RouteClass.WORK)
    table.begin_wait(entry)
    queue = [{"consumer": "llm", "waiting_for": "first"}, {"consumer": "llm", "waiting_for": "second"}]
    view = StateView(table, lambda: ())

    def reason() -> str:
        (request,) = view.requests(Reading(STATUS | {"queue": queue}), UNLIMITED)["requests"]
        return str(request["waits_for"])

    assert reason() == "first"
    entry.waits_for = "what its client was shown"
    assert reason() == "what its client was shown"
    table.end_wait(entry)
    assert reason() == ""


CHANGES: dict[str, tuple[dict[str, str], str]] = {
    "its own page": ({"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"}, ""),
    "a program": ({}, ""),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, "foreign_site"),
    "another port of this host": ({"Sec-Fetch-Site": "same-site"}, "foreign_site"),
    "a value of a later browser": ({"Sec-Fetch-Site": "new"}, "foreign_site"),
    "another origin in an old browser": ({"Origin": "http://localhost:2"}, "foreign_origin"),
    "a sandboxed frame": ({"Origin": "null"}, "foreign_origin"),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, "json_required"),
    "a simple request": ({"Content-Type": "text/plain; application/json"}, "json_required"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_accepted_only_from_the_page_itself_and_from_programs(name: str) -> None:
    headers, code = CHANGES[name]
    request = make_mocked_request("POST", "/", headers={"Content-Type": "application/json"} | headers)
    origin = Origin("127.0.0.1", "localhost:1")
    if not code:
        check_change(request, origin)
        return
    with pytest.raises(Refused) as refusal:
        check_change(request, origin)
    assert refusal.value.refusal.code == code


def test_rights_follow_the_key() -> None:
    require_use(Client("any"), "llm")
    require_use(Client("key", consumers=frozenset({"llm"})), "llm")
    with pytest.raises(Refused, match="key may not use tts"):
        require_use(Client("key", consumers=frozenset({"llm"})), "tts")
    require_administrator(Client("key", may_evict=True))
    with pytest.raises(Refused, match="evict = true"):
        require_administrator(Client("key"))


class Asked:
    """Records the options of questions."""

    def __init__(self) -> None:
        self.options: list[Any] = []

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        return await question(self)

    async def history(self, options: Any) -> list[Any]:
        self.options.append(options)
        return []

    async def plan(self, consumer: str, options: Any) -> dict[str, Any]:
        self.options.append((consumer, options))
        return {}


async def test_queries_become_options_of_the_bus() -> None:
    asked = Asked()
    queries = Queries(asked)  # type: ignore[arg-type]
    await queries.history({"consumer": "llm", "kinds": "load,eviction", "since_usec": "5", "until_usec": ""}, UNLIMITED)
    await queries.plan({"consumer": "llm", "priority": "-5", "device": "GPU-1"}, UNLIMITED)
    await queries.plan({"all": "true"}, UNLIMITED)

    assert asked.options == [
        {"limit": ("u", 100), "consumer": ("s", "llm"), "kinds": ("as", ["load", "eviction"]), "since_usec": ("t", 5)},
        ("llm", {"priority": ("i", -5), "device": ("s", "GPU-1")}),
        ("", {"all": ("b", True)}),
    ]


BAD: tuple[dict[str, str], ...] = (
    {"limit": "x"},
    {"limit": "-1"},
    {"limit": "99999999999"},
    {"consumer": "a\0"},
    {"consumer": "a" * 300},
    {"x": "1"},
)


@pytest.mark.parametrize("query", BAD)
async def test_invalid_queries_are_refused_before_gpumand_is_asked(query: dict[str, str]) -> None:
    asked = Asked()
    with pytest.raises(Refused) as refusal:
        await Queries(asked).history(query, UNLIMITED)  # type: ignore[arg-type]
    assert refusal.value.refusal.status == 400
    assert asked.options == []


def test_error_that_names_a_missing_permission_says_where_to_give_it() -> None:
    refusal = refused_by(AccessDenied("user _gpumand-gateway may not evict llm")).refusal
    assert (refusal.status, refusal.code) == (403, "access_denied")
    assert "Rights of the web page" in refusal.message
    assert refused_by(Busy("leased")).refusal.status == 409
