"""Reads a multipart form until its model is known, and passes it on as it came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from gpumand.gateway import web
from gpumand.gateway.bodies import BodyBudget, is_encoded
from gpumand.gateway.held_bodies import HeldBody, next_chunk
from gpumand.gateway.multipart import BadForm, FormScanner, boundary_of
from gpumand.gateway.refusals import refused
from gpumand.gateway.request_body import answer_expect, body_of
from gpumand.gateway.spool import Spool

MEMORY_BYTES = 1024 * 1024
"""How much of a form is kept in memory; the rest goes to a file."""

WRITE_BYTES = 256 * 1024
PIECE_BYTES = 64 * 1024


class FormBody:
    """A form whose beginning was read.

    Args:
        request: the request, which has the rest of the form.
        budget: limits the memory of bodies.
        spool: has a file for what does not fit into memory.
    """

    def __init__(self, request: web.BaseRequest, budget: BodyBudget, spool: Spool) -> None:
        self._request, self._share, self._file = request, budget.share(), spool.file()
        self._scanner = FormScanner(boundary_of(request.headers.get("Content-Type", "")))
        self._memory, self._pending = bytearray(), bytearray()

    @property
    def model(self) -> str:
        """The model that it names; "" if it names none."""
        return self._scanner.model or ""

    def close(self) -> None:
        """Free the memory and the file."""
        self._share.close()
        self._file.close()

    async def read(self) -> None:
        """Read until the model is known, or to the end. Raises Refused or BadForm."""
        await answer_expect(self._request)
        while self._scanner.model is None and (chunk := await next_chunk(self._request)):
            await self._keep(chunk)
            self._scanner.feed(chunk)
        await self._flush()

    async def _keep(self, chunk: bytes) -> None:
        room = MEMORY_BYTES - len(self._memory)
        self._share.add(min(room, len(chunk)))
        self._memory += chunk[:room]
        self._pending += chunk[room:]
        if len(self._pending) >= WRITE_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        if self._pending:
            data, self._pending = bytes(self._pending), bytearray()
            await self._file.write(data)

    def held(self, model: str) -> HeldBody:
        """The form with the name of the model replaced, if it is another one."""
        length, make = self._request.content_length, self._pieces
        if self._scanner.model is not None and model != self.model:
            name, span = model.encode(), self._scanner.span
            length = None if length is None else length + len(name) - (span[1] - span[0])
            make = _replacing(self._pieces, span, name)
        return HeldBody({}, make, length, self.close)

    async def _pieces(self) -> AsyncIterator[bytes]:
        for begin in range(0, len(self._memory), PIECE_BYTES):
            yield bytes(self._memory[begin : begin + PIECE_BYTES])
        async for piece in self._file.read():
            yield piece
        async for piece in body_of(self._request):
            yield piece


def _replacing(
    make: Callable[[], AsyncIterator[bytes]], span: tuple[int, int], value: bytes
) -> Callable[[], AsyncIterator[bytes]]:
    """The same bytes with the part between two positions replaced."""
    begin, end = span

    async def pieces() -> AsyncIterator[bytes]:
        position = 0
        async for piece in make():
            head, tail = piece[: max(0, begin - position)], piece[max(0, end - position) :]
            is_here = position <= begin < position + len(piece)
            yield head + (value if is_here else b"") + tail
            position += len(piece)

    return pieces


async def read_form(request: web.BaseRequest, budget: BodyBudget, spool: Spool) -> FormBody:
    """Read a form until its model is known. Raises Refused if it is too large, too slow or invalid."""
    if is_encoded(request):
        raise refused(415, "compressed_body", "The body is compressed, so its model cannot be read. Send it as it is.")
    body: FormBody | None = None
    try:
        body = FormBody(request, budget, spool)
        await body.read()
    except BadForm as error:
        if body is not None:
            body.close()
        raise refused(400, "invalid_form", f"The form cannot be read: {error}.") from None
    except BaseException:
        if body is not None:
            body.close()
        raise
    return body
