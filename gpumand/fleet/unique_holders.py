"""The hosts that hold unique consumers, as a router knows them from the store.

A claim is in the store before its host begins to load. The row that shows the load comes up to a second later, and
never comes if gpumand of the host stops meanwhile.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import Keys, is_consumer_name, last_part
from gpumand.fleet.row_json import parse_holder
from gpumand.fleet.store import Entry

MAX_KNOWN = 4096


class UniqueHolders:
    """The holder of each unique consumer.

    Args:
        keys: the keys of the fleet.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[str, str] = {}

    @property
    def keys(self) -> AbstractSet[str]:
        """The keys of all known claims."""
        return self._known.keys()

    def has_key(self, key: str) -> bool:
        """Whether a key is that of a claim."""
        return is_consumer_name(last_part(key, self._keys.uniques))

    def write(self, entry: Entry) -> None:
        """Take over a claim. Raises InvalidJson, also for one more than ``MAX_KNOWN``."""
        if entry.key not in self._known and len(self._known) >= MAX_KNOWN:
            raise InvalidJson(f"there are {MAX_KNOWN} unique consumers, which is the limit")
        self._known.pop(entry.key, None)  # a value that cannot be read names no host
        self._known[entry.key] = parse_holder(entry.value).host

    def remove(self, key: str) -> None:
        """Forget a claim."""
        self._known.pop(key, None)

    def of(self, consumer: str) -> str:
        """The machine id of the host that holds a consumer; "" = none is known."""
        return self._known.get(self._keys.uniques + consumer, "")
