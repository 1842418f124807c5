"""Warns in the log, once a day, of certificates that expire soon: that of this host, and those of etcd's members."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gpumand.fleet.certificates import RENEW_DAYS
from gpumand.fleet.settings import FleetConfig, TlsFiles
from gpumand.fleet.tls import client_context, own_certificate

DAY_SEC = 86400.0
CONNECT_SEC = 5.0

log = logging.getLogger(__name__)


async def watch_expiry(config: FleetConfig) -> None:
    """Warn every day until cancelled; without certificates there is nothing to warn of."""
    while config.tls is not None:
        for line in await expiry_warnings(config, config.tls, time.time()):
            log.warning("%s", line)
        await asyncio.sleep(DAY_SEC)


async def expiry_warnings(config: FleetConfig, files: TlsFiles, now: float) -> list[str]:
    """Warnings about certificates that expire within ``RENEW_DAYS`` or have expired, one line each.

    A member of etcd that gives no answer is left out: the store reports it.

    Args:
        config: the configuration, for the members of etcd.
        files: the certificate of this host.
        now: the time, in seconds since the epoch.
    """
    endpoints = () if config.etcd is None else config.etcd.endpoints
    etcd = [one for one in endpoints if one.startswith("https://")]
    own = await asyncio.to_thread(_own_days, files, now)
    members = zip(etcd, await asyncio.gather(*(_member_days(one, files, now) for one in etcd)), strict=True)
    renew = f"Renew it: gpumanctl fleet invite {config.host}, and gpumanctl fleet join --replace on this host"
    renew_member = "Renew it: gpumanctl fleet invite HOST --etcd, and gpumanctl fleet join --replace on its host"
    found = [_warning("the certificate of this host", own, renew)]
    found += [_warning(f"the certificate of etcd at {one}", days, renew_member) for one, days in members]
    return [one for one in found if one]


def _warning(what: str, days: int | None, advice: str) -> str:
    if days is None or days > RENEW_DAYS:
        return ""
    return f"{what} {'has expired' if days < 0 else f'expires in {days} days'}. {advice}"


def _own_days(files: TlsFiles, now: float) -> int | None:
    """Whole days until the certificate of this host expires, negative after that; None if it cannot be read. Blocks."""
    try:
        return _days(own_certificate(files), now)
    except OSError as error:
        return _expired(error)


async def _member_days(url: str, files: TlsFiles, now: float) -> int | None:
    parts = urlsplit(url)
    try:
        context = await asyncio.to_thread(client_context, files)
        async with asyncio.timeout(CONNECT_SEC):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
        certificate = writer.get_extra_info("peercert")
        writer.transport.abort()
        return _days(certificate or {}, now)
    except (OSError, ValueError) as error:  # TimeoutError and ssl.SSLError are OSErrors
        return _expired(error)


def _days(certificate: Mapping[str, Any], now: float) -> int | None:
    end = certificate.get("notAfter")
    return int((ssl.cert_time_to_seconds(end) - now) // DAY_SEC) if isinstance(end, str) else None


def _expired(error: Exception) -> int | None:
    return -1 if "certificate has expired" in str(error) else None
