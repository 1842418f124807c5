"""The last known lists of models of all consumers, so that lists can be answered while their servers are stopped.

A server may answer with anything, and the file may contain anything: both are checked in the same way, and capped.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.config.whole_file import write_whole

log = logging.getLogger(__name__)

FILE = "lists.json"
FILE_MODE = 0o600
VERSION = 1
MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_LIST_BYTES = 4 * 1024 * 1024
MAX_CONSUMERS = 1024
MAX_MODELS = 4096
MAX_ENTRY_BYTES = 32 * 1024
MAX_ID = 256

Document = dict[str, Any]


@dataclass(slots=True)
class Lists:
    """What one consumer has listed.

    Attributes:
        openai: entries of ``data`` in its /v1/models.
        ollama: entries of ``models`` in its /api/tags.
        running: entries of ``models`` in its /api/ps; not kept on disk, because they are true only while it runs.
        version: version of Ollama; "" if unknown.
    """

    openai: tuple[Document, ...] = ()
    ollama: tuple[Document, ...] = ()
    running: tuple[Document, ...] = ()
    version: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all models, without repetitions."""
        names = [str(one["id"]) for one in self.openai] + [str(one["name"]) for one in self.ollama]
        return tuple(dict.fromkeys(names))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.openai or self.ollama or self.version)


def read_openai(document: object) -> tuple[Document, ...]:
    """The models in an answer of /v1/models; entries that cannot be used are left out."""
    return _entries(document, "data", "id")


def read_ollama(document: object) -> tuple[Document, ...]:
    """The models in an answer of /api/tags or /api/ps."""
    return _entries(document, "models", "name")


def read_version(document: object) -> str:
    """The version in an answer of /api/version; "" if there is none."""
    version = document.get("version") if isinstance(document, dict) else None
    return version if isinstance(version, str) and len(version) <= 64 and version.isprintable() else ""


def _entries(document: object, name: str, key: str) -> tuple[Document, ...]:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        return ()
    return tuple(one for one in found[:MAX_MODELS] if isinstance(one, dict) and _is_usable(one, key))


def _is_usable(entry: Document, key: str) -> bool:
    model = entry.get(key)
    if not isinstance(model, str) or not 0 < len(model) <= MAX_ID or not model.isprintable():
        return False
    return len(json.dumps(entry)) <= MAX_ENTRY_BYTES


@dataclass(slots=True)
class Catalog:
    """The lists of all consumers.

    Attributes:
        lists: by consumer, in the order in which they became known.
    """

    lists: dict[str, Lists] = field(default_factory=dict)

    def of(self, consumer: str) -> Lists:
        """What a consumer has listed; empty lists if nothing is known."""
        return self.lists.get(consumer) or Lists()

    def to_json(self) -> bytes:
        """The content of the file."""
        consumers = {
            name: {"openai": one.openai, "ollama": one.ollama, "version": one.version}
            for name, one in self.lists.items()
            if not one.is_empty
        }
        return json.dumps({"version": VERSION, "consumers": consumers}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Catalog:
        """Read the content of the file; what cannot be used is left out."""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(document, dict) or document.get("version") != VERSION:
            return cls()
        consumers = document.get("consumers")
        known = consumers.items() if isinstance(consumers, dict) else ()
        return cls({name: _lists(one) for name, one in tuple(known)[:MAX_CONSUMERS] if isinstance(one, dict)})


def _lists(raw: Document) -> Lists:
    openai, ollama = read_openai({"data": raw.get("openai")}), read_ollama({"models": raw.get("ollama")})
    return Lists(openai, ollama, (), read_version(raw))


def load(folder: Path) -> Catalog:
    """Read the lists from a directory (blocks); an unusable file counts as none."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Catalog()
    except OSError as error:
        log.warning("%s cannot be read: %s. Lists of stopped services are empty", folder / FILE, error.strerror)
        return Catalog()
    return Catalog.from_json(content) if len(content) <= MAX_FILE_BYTES else Catalog()


def save(folder: Path, content: bytes) -> None:
    """Replace the file (blocks); after a crash it has the old or the new content. Raises OSError."""
    if len(content) > MAX_FILE_BYTES:
        raise OSError(0, "the lists of models are too large in all")
    write_whole(folder / FILE, content, lambda descriptor: os.fchmod(descriptor, FILE_MODE))


def first(values: Iterable[Lists], of: Callable[[Lists], str]) -> str:
    """The first value that is not empty."""
    return next((found for one in values if (found := of(one))), "")
