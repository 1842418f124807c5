"""An HTTP server like those of consumers, of Python's standard library: ``python3 -m tests.e2e.stream_service PORT``.

``GET /health`` says that it runs, ``POST /stream {"chunks": 10, "pause_sec": 0.1}`` streams lines, and ``POST`` to any
other path answers with the body that it got. ``POST /prompt`` begins a job, which ``GET /prompt`` counts as ComfyUI
does, and ``POST /done`` ends all jobs.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"

    jobs = 0

    def do_GET(self) -> None:
        count = {"exec_info": {"queue_remaining": Handler.jobs}}
        self._answer(json.dumps(count).encode() if self.path == "/prompt" else b"ok\n")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path in ("/prompt", "/done"):
            Handler.jobs = Handler.jobs + 1 if self.path == "/prompt" else 0
        if self.path == "/stream":
            self._stream(json.loads(body))
        else:
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, wanted: dict[str, float]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(int(wanted["chunks"])):
            line = f"{number}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(wanted["pause_sec"])
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    """Keeps more clients waiting than the five of the standard library, which resets the connections of others."""

    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    server.serve_forever()
