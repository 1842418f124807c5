"""The paths that belong to the gateway itself. The parts that answer them are imported at the first such request."""

from __future__ import annotations

from gpumand.gateway import web
from gpumand.gateway.exchange import accepts

PREFIX = "/gateway/"
METRICS = "/metrics"
PAGE_ALIASES = ("/ui", "/ui/", "/gateway")


def is_for_console(request: web.BaseRequest, path: str) -> bool:
    """Whether a request is for the gateway itself.

    The root is the web page only for browsers: programs expect an API there.

    Args:
        request: the request.
        path: its decoded path.
    """
    return path.startswith(PREFIX) or path in (METRICS, *PAGE_ALIASES) or (path == "/" and _is_browser(request))


def _is_browser(request: web.BaseRequest) -> bool:
    """Whether a request comes from a browser that opens a page."""
    return request.method in ("GET", "HEAD") and accepts(request, "text/html")
