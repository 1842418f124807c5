"""Reads all keys below a prefix from etcd, in pages of one revision."""

from __future__ import annotations

from gpumand.fleet import etcd_kv
from gpumand.fleet.etcd_client import EtcdClient, Json
from gpumand.fleet.etcd_errors import EtcdError, as_store_error
from gpumand.fleet.store import Entry, Listing, StoreUnavailable

PAGE = 128
"""Keys of a page: with values of 64 KiB an answer stays below the limit of the client."""

MAX_KEYS = 16_384


async def list_entries(client: EtcdClient, prefix: str) -> Listing:
    """All entries below a prefix. Raises StoreUnavailable and Denied."""
    found: list[Entry] = []
    revision, start = 0, etcd_kv.encode(prefix)
    while True:
        answer = await _page(client, prefix, start, revision)
        revision = revision or etcd_kv.revision_of(answer)
        found += [one.entry for one in etcd_kv.key_values(answer)]
        if not answer.get("more"):
            return Listing(tuple(found), revision)
        if len(found) > MAX_KEYS:
            raise StoreUnavailable(f"etcd has more than {MAX_KEYS} keys below {prefix}")
        if not found:
            raise etcd_kv.MalformedAnswer("page")
        start = etcd_kv.encode(found[-1].key + "\0")


async def _page(client: EtcdClient, prefix: str, start: str, revision: int) -> Json:
    body = {
        "key": start,
        "range_end": etcd_kv.after_prefix(prefix),
        "limit": str(PAGE),
        "revision": str(revision),
    }
    what = f"a list of {prefix}"
    try:
        return await client.call("kv/range", body, what)
    except EtcdError as error:  # the revision of the first page was compacted meanwhile
        raise as_store_error(error, what) from None
