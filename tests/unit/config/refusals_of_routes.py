"""Invalid configurations: the URL of a consumer, its routes, its busy check and its key file."""

from __future__ import annotations

from tests.unit.config.refusal_cases import case, consumer, consumer_with_url, url

url("without a scheme", '"127.0.0.1:8188"', "http://", "http://127.0.0.1:8188")
url("of another scheme", '"ftp://h/"', "http://")
url("of a file", '"file:///etc"', "http://")
url("of a socket", '"unix:/run/x"', "http://", "http://unix:/run/x")
url("of a socket as its path", '"/run/x"', "http://unix:/run/name.sock", "http://unix:/run/x")
url("of a socket over https", '"https://unix:/run/x"', "http://unix:/run/name.sock", "http://unix:/run/x")
url("of a socket without a path", '"http://unix:run/x"', "absolute path")
url("of a folder", '"http://unix:/run/"', "absolute path")
url("of a socket with a query", '"http://unix:/run/x:/v1?a=1"', "query")
url("of a socket with a relative path", '"http://unix:/run/x:v1"', "must be a path")
url("of a socket with a long path", f'"http://unix:/{"x" * 107}"', "longer than 107 bytes")
url("without a host", '"http://"', "http://")
url("with a port alone", '"http://:80"', "is not a host")
url("with a user", '"http://me@h"', "credentials")
url("with a password", '"http://me:secret@h"', "credentials")
url("with a query", '"http://h/?a=1"', "query")
url("with an empty query", '"http://h/?"', "query")
url("with a fragment", '"http://h/#a"', "fragment")
url("with port 0", '"http://h:0"', "is not a host")
url("with a port too high", '"http://h:65536"', "is not a URL")
url("with a word for a port", '"http://h:http"', "is not a URL")
url("with a space", '"http://h /"', "is not a URL")
url("with a newline", '"http://h\\n"', "control characters")
url("with a bad host", '"http://a$b"', "is not a host")
url("with half an address", '"http://[::1"', "is not a URL")
url("beyond ASCII", '"http://hé"', "percent-encoded")

consumer_with_url(
    "path without a slash", 'health = { path = "health" }', "consumers.tts.health.path", 'start with "/"', "/health"
)
consumer_with_url("path with a host", 'health = { path = "//evil/a" }', "consumers.tts.health.path", "another host")
consumer_with_url("path is a url", 'load = { path = "http://h/a" }', "consumers.tts.load.path", 'start with "/"')
consumer_with_url(
    "path with a newline", 'load = { path = "/a\\r\\nX: y" }', "consumers.tts.load.path", "control characters"
)
consumer_with_url("path with a space", 'load = { path = "/a b" }', "consumers.tts.load.path", "percent-encoded")
consumer_with_url("path with a fragment", 'load = { path = "/a#b" }', "consumers.tts.load.path", "fragment")
consumer_with_url("path beyond ASCII", 'load = { path = "/é" }', "consumers.tts.load.path", "percent-encoded")
consumer_with_url("route without a path", 'unload = { method = "POST" }', "consumers.tts.unload.path", "is missing")
consumer_with_url(
    "route is a text", 'unload = "/free"', "consumers.tts.unload", 'a table, not a string: write { path = "/free" }'
)
consumer_with_url(
    "unknown route key",
    'unload = { path = "/f", metod = "GET" }',
    "consumers.tts.unload.metod",
    "unknown key",
    "method",
)
consumer_with_url(
    "health has no method", 'health = { path = "/", method = "PUT" }', "consumers.tts.health.method", "unknown key"
)
consumer_with_url(
    "method in lower case", 'load = { path = "/", method = "post" }', "consumers.tts.load.method", "capitals", "POST"
)
consumer_with_url(
    "method with a space",
    'load = { path = "/", method = "GET /" }',
    "consumers.tts.load.method",
    "is not an HTTP method",
)
consumer_with_url("no time", 'load = { path = "/", timeout_sec = 0 }', "consumers.tts.load.timeout_sec", "above 0")
consumer_with_url(
    "too much time", 'load.path = "/"\nload.timeout_sec = 1e6', "consumers.tts.load.timeout_sec", "up to 86400"
)
consumer_with_url(
    "date in JSON", 'load = { path = "/", json = { at = 2025-01-01 } }', "consumers.tts.load.json", "date or time"
)
consumer_with_url("inf in JSON", 'load = { path = "/", json = [1, [inf]] }', "consumers.tts.load.json", "inf or nan")
deep = "[" * 40 + "]" * 40
consumer_with_url("deep JSON", f'load = {{ path = "/", json = {deep} }}', "consumers.tts.load.json", "32 levels")
consumer_with_url("long JSON", f'load = {{ path = "/", json = "{"a" * 70000}" }}', "consumers.tts.load.json", "64 KiB")
consumer_with_url(
    "header with a newline",
    'load = { path = "/", headers = { X-Key = "a\\r\\nHost: b" } }',
    "consumers.tts.load.headers.X-Key",
    "control characters",
)
consumer_with_url(
    "header name with a newline",
    'load = { path = "/", headers = { "X\\n" = "a" } }',
    'consumers.tts.load.headers."X\\n"',
    "control characters",
)
for _name in ("Content-Length", "transfer-encoding", "Upgrade"):
    consumer_with_url(
        f"header {_name}",
        f'load = {{ path = "/", headers = {{ {_name} = "1" }} }}',
        f"consumers.tts.load.headers.{_name}",
        "is set by the program that sends the request",
    )
consumer_with_url(
    "header name with a colon",
    'health = { path = "/", headers = { "X:" = "a" } }',
    'consumers.tts.health.headers."X:"',
    "is not a name of an HTTP header",
)
consumer_with_url(
    "header twice",
    'health = { path = "/", headers = { X = "a", x = "b" } }',
    "consumers.tts.health.headers.x",
    "listed twice",
)
consumer_with_url(
    "header is a number",
    'health = { path = "/", headers = { X = 1 } }',
    "consumers.tts.health.headers.X",
    "must be a string",
)
consumer_with_url(
    "headers are a list", 'health = { path = "/", headers = ["X"] }', "consumers.tts.health.headers", "table of strings"
)
many = ", ".join(f'X{number} = "a"' for number in range(33))
consumer_with_url(
    "many headers", f'load = {{ path = "/", headers = {{ {many} }} }}', "consumers.tts.load.headers", "at most 32"
)

for bad, message_part, hint in (
    ("loaded", "is not a JSON pointer", "/loaded"),
    ("/a~2", 'write "~" as ~0', ""),
    ("/a~", 'write "~" as ~0', ""),
    ("/a/[id]/b", "is not a selector", ""),
    ("/a/[id=]", "is not a selector", ""),
    ("/a/[=]", "is not a selector", ""),
    ("/a/[id=x", "is not a selector", ""),
):
    line = f'health = {{ path = "/", loaded = "{bad}" }}'
    consumer_with_url(f"pointer {bad}", line, "consumers.tts.health.loaded", message_part, hint)
    line = f'health = {{ path = "/", last_used = "{bad}" }}'
    consumer_with_url(f"last_used {bad}", line, "consumers.tts.health.last_used", message_part, hint)
line = 'health = { path = "/", loaded = "/a", loaded_equals = 1.5 }'
consumer_with_url(
    "loaded_equals is a decimal", line, "consumers.tts.health.loaded_equals", "boolean, whole number or text"
)

_BUSY = "consumers.tts.busy"
consumer_with_url("busy without pointers and metrics", 'busy = { path = "/q" }', _BUSY, "requires pointers or metrics")
consumer_with_url(
    "busy metric", 'busy = { path = "/q", metrics = ["a b"] }', f"{_BUSY}.metrics[0]", "is not a name of a Prometheus"
)
consumer_with_url(
    "busy pointer", 'busy = { path = "/q", pointers = ["a"] }', f"{_BUSY}.pointers[0]", "is not a JSON pointer", "/a"
)
consumer_with_url(
    "busy after", 'busy_after = "kill"', "consumers.tts.busy_after", 'must be one of "wait", "evict", "refuse"'
)
consumer_with_url(
    "success", 'load = { path = "/", success = "ok" }', "consumers.tts.load.success", "is not a JSON pointer", "/ok"
)
consumer("busy without url", 'busy = { path = "/q", pointers = "/a" }', _BUSY, "requires url in the consumer's table")
consumer_with_url(
    "key_header without key_file",
    'key_header = "X: {key}"',
    "consumers.tts.key_header",
    "has no effect without key_file",
)
consumer_with_url(
    "header without key", 'key_header = "X: key"', "consumers.tts.key_header", "is not a header with a key"
)
consumer_with_url(
    "key file does not exist", 'key_file = "/nonexistent/key"', "consumers.tts.key_file", "cannot be read: No such file"
)
consumer_with_url(
    "key in a folder", 'key_file = "/proc"', "consumers.tts.key_file", "cannot be read: not a regular file"
)
consumer_with_url(
    "key file is a device", 'key_file = "/dev/null"', "consumers.tts.key_file", "cannot be read: not a regular file"
)
consumer_with_url(
    "key of many lines", 'key_file = "/proc/self/status"', "consumers.tts.key_file", "does not contain a key"
)
case(
    "unit only",
    '[consumers.tts] #!\nvram_resident_mib = 10\npreset = "infinity"\n',
    "consumers.tts.unit",
    'is missing: the preset "infinity" has no unload route, so only stopping the unit frees VRAM',
)

for _line, _key, _message in (
    ('health = { path = "/", unloaded_equals = "x" }', "unloaded_equals", "has no effect without loaded"),
    ('health = { path = "/", failed_equals = "x" }', "failed_equals", "has no effect without failed"),
    ('health = { path = "/", size = "/x" }', "size", "has no effect without size_vram"),
    ('health = { path = "/", size_vram = "/x" }', "size_vram", "has no effect without size"),
    ('health = { path = "/", sleeping_equals = "x" }', "sleeping_equals", "has no effect without sleeping"),
    ('health = { path = "/", sleeping_path = "/x" }', "sleeping_path", "has no effect without sleeping"),
    ('health = { path = "/", loaded = "/a", loaded_equals = 1, unloaded_equals = 2 }', "unloaded_equals", "combined"),
    ('health = { path = "/", unloaded_status = 200 }', "unloaded_status", "from 400 to 599"),
    ('health = { path = "/", failed = "x" }', "failed", "not a JSON pointer"),
    ('health = { path = "/", sleeping = "/a", sleeping_path = "x" }', "sleeping_path", "must start with"),
):
    consumer_with_url(
        f"health {_line}",
        _line,
        f"consumers.tts.health.{_key}",
        _message,
        {"failed": "/x", "sleeping_path": "/x"}.get(_key, "") if "sta" in _message or "not a" in _message else "",
    )
consumer_with_url(
    "async_load of an unload route",
    'unload = { path = "/", async_load = true }',
    "consumers.tts.unload.async_load",
    "has no effect on an unload route",
)
consumer_with_url(
    "error that is no pointer", 'load = { path = "/", error = "x" }', "consumers.tts.load.error", "JSON pointer", "/x"
)
