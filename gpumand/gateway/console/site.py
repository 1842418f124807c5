"""The files of the web page: one document, one stylesheet, one module. Nothing else may be loaded or run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from gpumand.gateway import web
from gpumand.gateway.console.paths import PREFIX
from gpumand.gateway.refusals import refused

FILES = {
    PREFIX: ("index.html", "text/html"),
    PREFIX + "page.css": ("page.css", "text/css"),
    PREFIX + "page.js": ("page.js", "text/javascript"),
    PREFIX + "icon.svg": ("icon.svg", "image/svg+xml"),
}

# Trusted types make the browser refuse every assignment that would parse text as HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    tag: str


class Site:
    """The web page; its files are read once."""

    def __init__(self) -> None:
        folder = Path(__file__).parent / "files"
        self._files = {path: _read((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def answer(self, path: str, request: web.BaseRequest) -> web.Response:
        """The file at a path; other paths of the page lead to it. Raises Refused."""
        found = self._files.get(path)
        if found is None and path.startswith(PREFIX):
            raise refused(404, "not_found", f"There is nothing at this path. The web page is at {PREFIX}.")
        if found is None:
            return web.Response(status=302, headers={"Location": PREFIX} | _HEADERS)
        headers = {"ETag": found.tag, "Cache-Control": "no-cache"} | _HEADERS
        if request.headers.get("If-None-Match") == found.tag:
            return web.Response(status=304, headers=headers)
        body = b"" if request.method == "HEAD" else found.content
        return web.Response(body=body, content_type=found.content_type, charset="utf-8", headers=headers)


_HEADERS = {
    "Server": "gpumand",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _read(content: bytes, kind: str) -> _File:
    return _File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
