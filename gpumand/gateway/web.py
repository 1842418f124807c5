"""The parts of ``aiohttp.web`` that the gateway uses: requests, responses and the protocol, without applications.

The package ``aiohttp.web`` also imports applications, their routes and file responses, which take more than a megabyte
for as long as the gateway runs.
"""

from __future__ import annotations

from aiohttp.web_exceptions import HTTPException
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse, json_response
from aiohttp.web_server import Server
from aiohttp.web_ws import WebSocketResponse

__all__ = [
    "BaseRequest",
    "HTTPException",
    "RequestHandler",
    "Response",
    "Server",
    "StreamResponse",
    "WebSocketResponse",
    "json_response",
]
