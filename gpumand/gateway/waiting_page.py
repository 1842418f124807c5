"""The page that a browser shows while its service is loaded; it reloads itself."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape
from string import Template

from gpumand.gateway import web
from gpumand.gateway.headers import REFUSED_HEADER

RELOAD_SEC = 2

_SCRIPT = """
const main = document.querySelector("main");
async function look() {
  try {
    // The page that has come up may redirect to another site, which a script may not read: the browser follows instead.
    const how = { headers: { Accept: "text/html" }, cache: "no-store", redirect: "manual" };
    const answer = await fetch(location.href, how);
    if (answer.headers.get("x-gpumand") !== "waiting") { location.reload(); return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    main.replaceChildren(...page.querySelector("main").childNodes);
  } catch { /* The gateway is restarting. */ }
  setTimeout(look, RELOAD_MS);
}
setTimeout(look, RELOAD_MS);
""".replace("RELOAD_MS", str(RELOAD_SEC * 1000))

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText; }
main { max-width: 34rem; padding: 1.5rem; }
h1 { font-size: 1.4rem; margin: 0 0 .75rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem; margin: 1rem 0 0; }
dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
"""

_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<noscript><meta http-equiv="refresh" content="$reload"></noscript>
<style>$style</style>
</head>
<body>
<main aria-live="polite">
<h1>$title</h1>
<p>$text</p>
<dl>
$facts
</dl>
</main>
<script>$script</script>
</body>
</html>
"""
)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_hash(_STYLE)}'; script-src 'sha256-{_hash(_SCRIPT)}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the page shows.

    Attributes:
        consumer: name of the consumer.
        doing: what gpumand does with it, such as "loading for 3 s"; "" = nothing yet.
        place: place in the queue; 0 = it does not wait in the queue.
        queue: number of waiting requests.
        waiting_for: why it waits.
        unloading: consumers that are being unloaded.
        usual_sec: how long a load usually takes; None = unknown.
        error: why the load failed; "" while it goes on.
    """

    consumer: str
    doing: str = ""
    place: int = 0
    queue: int = 0
    waiting_for: str = ""
    unloading: tuple[str, ...] = ()
    usual_sec: float | None = None
    error: str = ""


def waiting_page(waiting: Waiting, *, head_only: bool = False) -> web.Response:
    """The answer with the page: status 503, so that programs do not take it for the service's own page."""
    text = "" if head_only else html(waiting)
    response = web.Response(status=503, text=text, content_type="text/html")
    response.headers[REFUSED_HEADER] = "waiting"
    response.headers["Retry-After"] = "5"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def html(waiting: Waiting) -> str:
    """The page as text."""
    facts = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(waiting) if value)
    title = f"{waiting.consumer} could not be loaded" if waiting.error else f"{waiting.consumer} is being loaded"
    text = "The load is tried again in a moment." if waiting.error else "This page reloads by itself."
    return _PAGE.substitute(
        title=escape(title), text=text, facts=facts, reload=RELOAD_SEC, style=_STYLE, script=_SCRIPT
    )


def _facts(waiting: Waiting) -> tuple[tuple[str, str], ...]:
    place = f"{waiting.place} of {waiting.queue}" if waiting.place else ""
    usual = "" if waiting.usual_sec is None else f"{max(1.0, waiting.usual_sec):.0f} s"
    return (
        ("Error", waiting.error),
        ("Now", waiting.doing),
        ("Place in the queue", place),
        ("Waiting for", waiting.waiting_for),
        ("Being unloaded", ", ".join(waiting.unloading)),
        ("Usual load time", usual),
    )
