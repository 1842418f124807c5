"""Roles in a real etcd with TLS: what the certificate and the password of one host can do, and what is refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpumand.fleet.certificates import create_ca, create_host
from gpumand.fleet.etcd_roles import EtcdAbsent, EtcdAdmin, EtcdFailure, HostAccess
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.tls import client_context
from tests.integration.fleet.tls_etcd import TlsEtcd, encoded, needs_etcd, running, written

pytestmark = needs_etcd

ONE, TWO = "1" * 32, "2" * 32
GPU1 = HostAccess("gpu1", "secret-one", "lab", ONE)
GPU2 = HostAccess("gpu2", "secret-two", "lab", TWO)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsEtcd]:
    with running(tmp_path_factory.mktemp("etcd")) as one:
        asyncio.run(set_up(one, GPU1, GPU2))
        yield one


async def set_up(etcd: TlsEtcd, *hosts: HostAccess, password: str = "of-root") -> None:
    async with EtcdAdmin((etcd.url,), client_context(etcd.client("admin")), password) as admin:
        await admin.prepare()
        for one in hosts:
            await admin.give_access(one)


def test_a_host_writes_its_own_keys_and_those_that_hosts_share(etcd: TlsEtcd) -> None:
    files = etcd.client("gpu1")
    token = etcd.token(files, "gpu1", "secret-one")

    for key in (f"hosts/{ONE}", f"leases/{ONE}/a", f"drain/{ONE}", "intents/llm", "unique/llm"):
        assert etcd.put(files, f"/gpumand/lab/{key}", token) == (200, ""), key


def test_a_host_cannot_write_the_keys_of_another_host_or_fleet(etcd: TlsEtcd) -> None:
    files = etcd.client("gpu1")
    token = etcd.token(files, "gpu1", "secret-one")

    for key in (
        f"lab/hosts/{TWO}",
        f"lab/leases/{TWO}/a",
        f"lab/drain/{TWO}",
        f"lab/hosts/{ONE}x",
        "lab/pins/x",
        "b/x",
    ):
        status, message = etcd.put(files, f"/gpumand/{key}", token)
        assert (status, "permission denied" in message) == (403, True), (key, status, message)


def test_a_host_reads_the_rows_of_all_hosts_of_its_fleet_only(etcd: TlsEtcd) -> None:
    files = etcd.client("gpu1")
    token = etcd.token(files, "gpu1", "secret-one")

    def read(prefix: str, end: str) -> int:
        return etcd.post(files, "kv/range", {"key": encoded(prefix), "range_end": encoded(end)}, token)[0]

    assert read("/gpumand/lab/", "/gpumand/lab0") == 200
    assert read("/gpumand/other/", "/gpumand/other0") == 403


def test_without_a_login_nothing_is_written(etcd: TlsEtcd) -> None:
    status, message = etcd.put(etcd.client("gpu1"), f"/gpumand/lab/hosts/{ONE}")

    assert (status, "user name is empty" in message) == (400, True)


def test_setting_up_again_changes_the_password_and_keeps_the_rest(etcd: TlsEtcd) -> None:
    asyncio.run(set_up(etcd, HostAccess("gpu3", "first", "lab", "3" * 32)))
    asyncio.run(set_up(etcd, HostAccess("gpu3", "second", "lab", "3" * 32)))
    files = etcd.client("gpu3")

    assert etcd.put(files, f"/gpumand/lab/hosts/{'3' * 32}", etcd.token(files, "gpu3", "second"))[0] == 200
    status, answer = etcd.post(files, "auth/authenticate", {"name": "gpu3", "password": "first"})
    assert (status, "authentication failed" in answer["message"]) == (400, True)


def test_a_host_that_has_left_cannot_log_in(etcd: TlsEtcd) -> None:
    async def leave() -> None:
        async with EtcdAdmin((etcd.url,), client_context(etcd.client("admin")), "of-root") as admin:
            assert await admin.log_in()
            await admin.remove_access("gpu4", "lab", "4" * 32)
            await admin.remove_access("gpu4", "lab", "4" * 32)

    asyncio.run(set_up(etcd, HostAccess("gpu4", "password", "lab", "4" * 32)))
    asyncio.run(leave())
    status, _ = etcd.post(etcd.client("gpu4"), "auth/authenticate", {"name": "gpu4", "password": "password"})
    assert status == 400


def test_a_wrong_password_of_root_is_explained(etcd: TlsEtcd) -> None:
    with pytest.raises(EtcdFailure, match=r"Write the right password of etcd's user root"):
        asyncio.run(set_up(etcd, password="wrong"))


def expired(etcd: TlsEtcd) -> TlsFiles:
    pair = create_host(etcd.ca, "lab", ("gpu1",), datetime.now(UTC) - timedelta(days=400))
    return written(etcd.folder, "expired", pair, etcd.ca.certificate)


def foreign(etcd: TlsEtcd) -> TlsFiles:
    return written(etcd.folder, "foreign", create_host(create_ca("lab"), "lab", ("gpu1",)), etcd.ca.certificate)


@pytest.mark.parametrize("files", [expired, foreign])
def test_an_expired_or_foreign_certificate_is_refused_with_words(
    etcd: TlsEtcd, files: Callable[[TlsEtcd], TlsFiles]
) -> None:
    with pytest.raises(EtcdAbsent, match=r"no member of etcd answers .*certificate"):
        asyncio.run(ask(etcd, files(etcd)))


def test_a_certificate_with_a_common_name_is_refused_with_words(etcd: TlsEtcd) -> None:
    # The certificate of an authority has a common name, and etcd accepts it as a client.
    files = written(etcd.folder, "named", etcd.ca, etcd.ca.certificate)

    with pytest.raises(EtcdFailure, match=r"CommonName.*it has no common name"):
        asyncio.run(ask(etcd, files))


def test_a_server_with_a_certificate_of_another_authority_is_not_trusted(etcd: TlsEtcd) -> None:
    other = create_ca("lab")
    files = written(etcd.folder, "other", create_host(other, "lab", ("gpu1",)), other.certificate)

    with pytest.raises(EtcdAbsent, match="certificate verify failed"):
        asyncio.run(ask(etcd, files))


async def ask(etcd: TlsEtcd, files: TlsFiles) -> None:
    async with EtcdAdmin((etcd.url,), client_context(files), "of-root") as admin:
        await admin.prepare()


def test_no_etcd_is_another_failure_than_a_refusal(etcd: TlsEtcd, tmp_path: Path) -> None:
    async def nothing_listens() -> None:
        async with EtcdAdmin(("https://127.0.0.1:1",), client_context(etcd.client("admin")), "x") as admin:
            await admin.prepare()

    with pytest.raises(EtcdAbsent, match=r"https://127\.0\.0\.1:1"):
        asyncio.run(nothing_listens())


def test_a_client_without_a_certificate_is_refused(etcd: TlsEtcd) -> None:
    async def without_certificate() -> None:
        context = ssl.create_default_context(cadata=etcd.ca.certificate.decode("ascii"))
        async with EtcdAdmin((etcd.url,), context, "x") as admin:
            await admin.prepare()

    with pytest.raises(EtcdAbsent, match="no member of etcd answers"):
        asyncio.run(without_certificate())
