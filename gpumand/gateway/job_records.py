"""Keeps a list of held jobs in a file, so that the next process of the gateway holds them too.

The list has what ``gpumanctl gateway requests`` shows, and the lease. Nothing of a prompt or a body is in it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpumand.config.whole_file import write_whole

log = logging.getLogger(__name__)

FILE, FILE_MODE, VERSION = "jobs.json", 0o600, 1
MAX_RECORDS = 4096
MAX_TEXT = 1024
MAX_FILE_BYTES = MAX_RECORDS * 2048


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A held job.

    Attributes:
        id: a random name, different for each job.
        consumer, listener: the service, and the listener whose settings apply.
        lease: the lease of gpumand that is held for it.
        endpoint: the URL of the consumer.
        client: name of the client.
        method, path: the request, without the query.
        status: HTTP status of its answer; 0 if no answer arrived.
        began_usec: wall clock at which the holding began.
    """

    id: str
    consumer: str
    listener: str
    lease: str
    endpoint: str
    client: str
    method: str
    path: str
    status: int
    began_usec: int


class JobStore:
    """The file of held jobs. Changes are written in the background, in the order in which they are made.

    Args:
        folder: returns the state directory.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._records: dict[str, JobRecord] = {}
        self._saving: asyncio.Task[None] | None = None
        self._saved = _content({})

    async def load(self) -> tuple[JobRecord, ...]:
        """The jobs that the last process held; they stay in the file until they are discarded."""
        found = await asyncio.to_thread(_load, self._folder())
        self._records = {one.id: one for one in found} | self._records
        self._saved = _content({one.id: one for one in found})
        return found

    def put(self, record: JobRecord) -> None:
        """A job is held, or held with another lease."""
        self._records[record.id] = record
        self._save()

    def discard(self, record: JobRecord) -> None:
        """A job is no longer held."""
        if self._records.pop(record.id, None) is not None:
            self._save()

    async def close(self) -> None:
        """Wait until the file has the last change."""
        if self._saving is not None:
            await self._saving

    def _save(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.ensure_future(self._save_changes())

    async def _save_changes(self) -> None:
        while (content := _content(self._records)) != self._saved:
            self._saved, folder = content, self._folder()
            try:
                await asyncio.to_thread(write_whole, folder / FILE, content, _set_mode)
            except OSError as error:
                text = "held jobs cannot be written to %s: %s. A restart of the gateway would not hold them any more"
                log.warning(text, folder, error.strerror)


def _content(records: dict[str, JobRecord]) -> bytes:
    # The newest jobs are enough: all jobs of a consumer end together.
    newest = list(records.values())[-MAX_RECORDS:]
    return json.dumps({"version": VERSION, "jobs": [asdict(one) for one in newest]}).encode()


def _set_mode(descriptor: int) -> None:
    os.fchmod(descriptor, FILE_MODE)


def _load(folder: Path) -> tuple[JobRecord, ...]:
    """Read the file (blocks); what is not usable counts as none."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        document = json.loads(content) if len(content) <= MAX_FILE_BYTES else {}
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read: %s. Jobs of the last process are not held any more", folder / FILE, error)
        return ()
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return ()
    jobs = document.get("jobs")
    return tuple(filter(None, map(_record, jobs[:MAX_RECORDS] if isinstance(jobs, list) else ())))


def _record(raw: Any) -> JobRecord | None:
    if not isinstance(raw, dict) or raw.keys() != {one.name for one in fields(JobRecord)}:
        return None
    numbers = raw["status"], raw["began_usec"]
    texts = [value for name, value in raw.items() if name not in ("status", "began_usec")]
    are_numbers = all(type(one) is int and 0 <= one < 1 << 63 for one in numbers)
    are_texts = all(isinstance(one, str) and len(one) <= MAX_TEXT for one in texts)
    return JobRecord(**raw) if are_numbers and are_texts and raw["consumer"] and raw["lease"] else None
