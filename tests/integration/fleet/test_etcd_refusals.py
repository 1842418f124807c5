"""A store in a real etcd with TLS and roles: refusals are refusals with words, not outages, and logins are repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from gpumand.fleet.certificates import create_ca, create_host
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.etcd_client import EtcdClient, Limits
from gpumand.fleet.etcd_roles import HostAccess
from gpumand.fleet.etcd_store import EtcdStore
from gpumand.fleet.keys import Keys
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.store import Denied, StoreError, StoreUnavailable
from gpumand.fleet.tls import client_context
from tests.integration.fleet.test_etcd_access import set_up
from tests.integration.fleet.tls_etcd import TlsEtcd, await_ready, needs_etcd, running, written
from tests.unit.fleet.rows import H1, H2, row

pytestmark = needs_etcd

PATIENT = Limits(connect_sec=10, attempt_sec=10, call_sec=25)
KEYS = Keys("lab")


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsEtcd]:
    with running(tmp_path_factory.mktemp("etcd")) as one:
        asyncio.run(
            set_up(one, HostAccess("gpu1", "secret-one", "lab", H1), HostAccess("gpu2", "secret-two", "lab", H2))
        )
        yield one


Open = Callable[..., EtcdStore]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    stores: list[EtcdStore] = []

    def new(etcd: TlsEtcd, files: TlsFiles, user: str = "gpu1", password: str = "secret-one") -> EtcdStore:
        client = EtcdClient((etcd.url,), tls=client_context(files), user=user, password=password, limits=PATIENT)
        stores.append(EtcdStore(client, KEYS, BoottimeClock(), ttl_sec=60))
        return stores[-1]

    yield new
    for one in stores:
        await one.close()


async def test_host_with_its_own_role_does_all_that_an_agent_does(etcd: TlsEtcd, opened: Open) -> None:
    store = opened(etcd, etcd.client("gpu1"))
    await store.join(row(H1))
    await store.renew()
    await store.update(row(H1, epoch=9))
    await store.put(KEYS.lease(H1, "a1"), "{}")
    assert (await store.claim(KEYS.intent("llm"), "a", 15)).ok
    assert (await store.claim(KEYS.unique("llm"), H1)).ok
    async with aclosing(store.watch(KEYS.root)) as changes:  # type: ignore[type-var]
        await anext(changes)
    await store.release(KEYS.intent("llm"), "a")
    await store.leave()


async def test_host_cannot_write_the_row_of_another_host(etcd: TlsEtcd, opened: Open) -> None:
    store = opened(etcd, etcd.client("gpu1"))
    with pytest.raises(Denied, match=r"permission denied.*role of this host"):
        await store.join(row(H2))
    assert KEYS.host(H2) not in [one.key for one in (await store.list(KEYS.hosts)).entries]


async def test_host_cannot_watch_another_fleet(etcd: TlsEtcd, opened: Open) -> None:
    store = opened(etcd, etcd.client("gpu1"))
    async with aclosing(store.watch("/gpumand/other/")) as changes:  # type: ignore[type-var]
        with pytest.raises(Denied, match="permission denied"):
            await anext(changes)


@pytest.mark.parametrize(("user", "password"), [("gpu1", "wrong"), ("unknown", "secret-one")])
async def test_wrong_user_or_password_is_refused_with_words(
    etcd: TlsEtcd, opened: Open, user: str, password: str
) -> None:
    with pytest.raises(Denied, match=r"authentication failed.*password"):
        await opened(etcd, etcd.client("gpu1"), user, password).join(row(H1))


async def test_host_without_a_user_is_refused_with_words(etcd: TlsEtcd, opened: Open) -> None:
    with pytest.raises(Denied, match=r"user name is empty.*user"):
        await opened(etcd, etcd.client("gpu1"), user="").join(row(H1))


async def test_certificate_with_a_common_name_is_refused_with_words(etcd: TlsEtcd, opened: Open) -> None:
    # The certificate of an authority has a common name, and etcd accepts it as a client.
    files = written(etcd.folder, "named", etcd.ca, etcd.ca.certificate)
    with pytest.raises(Denied, match=r"common name \(CN\).*empty CN"):
        await opened(etcd, files).join(row(H1))


async def test_server_of_another_authority_is_refused_with_words(etcd: TlsEtcd, opened: Open) -> None:
    other = create_ca("lab")
    files = written(etcd.folder, "other", create_host(other, "lab", ("gpu1",)), other.certificate)
    with pytest.raises(Denied, match="another authority"):
        await opened(etcd, files).join(row(H1))


async def test_certificate_of_another_authority_is_refused(etcd: TlsEtcd, opened: Open) -> None:
    files = written(etcd.folder, "foreign", create_host(create_ca("lab"), "lab", ("gpu1",)), etcd.ca.certificate)
    with pytest.raises(Denied, match="certificate"):
        await opened(etcd, files).join(row(H1))


def test_tokens_are_renewed_after_a_restart_of_the_member(tmp_path: Path) -> None:
    with running(tmp_path) as etcd:
        asyncio.run(set_up(etcd, HostAccess("gpu1", "secret-one", "lab", H1)))
        asyncio.run(restarted(etcd))


async def restarted(etcd: TlsEtcd) -> None:
    tls = client_context(etcd.client("gpu1"))
    client = EtcdClient((etcd.url,), tls=tls, user="gpu1", password="secret-one", limits=PATIENT)
    store = EtcdStore(client, KEYS, BoottimeClock(), ttl_sec=60)
    await store.join(row(H1))
    etcd.process.kill()
    etcd.process.wait()
    etcd.restart()
    await asyncio.to_thread(await_ready, etcd)
    await store.renew()  # the lease has survived, the token has not
    async with aclosing(store.watch(KEYS.hosts)) as changes:  # type: ignore[type-var]
        assert await anext(changes)
    await store.close()


def test_refusals_are_no_errors_of_the_operating_system() -> None:
    # PermissionError is an OSError: a caller that retries on OSError must not take a refusal for an outage.
    assert not issubclass(StoreError, OSError)
    assert not issubclass(Denied, StoreUnavailable)
