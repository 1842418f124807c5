"""Opens the store that a configuration names."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

from gpumand.domain.errors import ConfigInvalid
from gpumand.fleet.clock import Clock
from gpumand.fleet.degraded_watch import DegradedWatch
from gpumand.fleet.discovery import discover
from gpumand.fleet.etcd_client import EtcdClient
from gpumand.fleet.etcd_store import EtcdStore
from gpumand.fleet.etcd_watch import EtcdWatch
from gpumand.fleet.keys import Keys
from gpumand.fleet.peer_rows import PeerRows
from gpumand.fleet.settings import EtcdConfig, FleetConfig
from gpumand.fleet.static_store import StaticStore
from gpumand.fleet.store import Change, FleetStore

MAX_PASSWORD_BYTES = 1024


class DegradingEtcdStore(EtcdStore):
    """The store in etcd, whose watch asks the agents directly while etcd is gone."""

    def __init__(
        self, client: EtcdClient, keys: Keys, clock: Clock, ttl_sec: float, peers: PeerRows, urls: Iterable[str] = ()
    ) -> None:
        super().__init__(client, keys, clock, ttl_sec)
        self._peers, self._urls = peers, tuple(urls)

    def watch(self, prefix: str) -> AsyncIterator[Change]:
        return DegradedWatch(self._keys, self._peers, self._urls).changes(EtcdWatch(self._client, prefix).changes())

    async def close(self) -> None:
        await super().close()
        await self._peers.close()


async def open_store(config: FleetConfig, clock: Clock, tls: ssl.SSLContext | None) -> FleetStore:
    """Open the store of a fleet: etcd, or the other hosts where there is none.

    Args:
        config: the configuration.
        clock: clock that counts time spent suspended.
        tls: context with the certificate of this host, for etcd and for agents; None = without TLS.

    Raises ConfigInvalid if the password cannot be read.
    """
    keys, peers = Keys(config.fleet), PeerRows(tls)
    if config.etcd is None:
        return StaticStore(keys, config.peers, peers, clock)
    password = await asyncio.to_thread(_password, config.etcd)
    etcd = config.etcd
    client = EtcdClient(etcd.endpoints, tls=tls, user=etcd.user, password=password, find=_finder(etcd))
    return DegradingEtcdStore(client, keys, clock, config.ttl_sec, peers, config.peers.values())


def _finder(etcd: EtcdConfig) -> Callable[[], Awaitable[tuple[str, ...]]] | None:
    return None if etcd.endpoints else lambda: discover(etcd.domain)


def _password(etcd: EtcdConfig) -> str:
    """The password of the user in etcd; "" without a file. Blocks."""
    return _text_of(etcd.password_file) if etcd.password_file is not None else ""


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_PASSWORD_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"etcd.password_file: {file} cannot be read: {error}") from None
    return text.strip()
