"""Invalid configurations, each with the key, a part of the message and the hint that must be reported.

``#!`` marks the line at which the problem must be reported.
"""

from __future__ import annotations

CASES: dict[str, tuple[str, str, str, str]] = {}


def case(name: str, text: str, key: str, message_part: str, hint: str = "") -> None:
    CASES[name] = (text, key, message_part, hint)


def consumer(name: str, line: str, key: str, message_part: str, hint: str = "") -> None:
    """Add a consumer whose one invalid line is ``line``."""
    case(name, f'[consumers.tts]\nvram_resident_mib = 10\nunit = "t.service"\n{line} #!\n', key, message_part, hint)


def consumer_with_url(name: str, line: str, key: str, message_part: str, hint: str = "") -> None:
    """Add a consumer with a url whose one invalid line is ``line``."""
    case(name, f'[consumers.tts]\nvram_resident_mib = 10\nurl = "http://h"\n{line} #!\n', key, message_part, hint)


def unit(name: str, value: str, message_part: str, hint: str = "") -> None:
    text = f"[consumers.tts]\nvram_resident_mib = 10\nunit = {value} #!\n"
    case(f"unit {name}", text, "consumers.tts.unit", message_part, hint)


def url(name: str, value: str, message_part: str, hint: str = "") -> None:
    text = f"[consumers.tts]\nvram_resident_mib = 10\nurl = {value} #!\n"
    case(f"url {name}", text, "consumers.tts.url", message_part, hint)


case("unknown table", "[sheduler] #!\n", "sheduler", "unknown table", "scheduler")
case("unknown root key", "verbose = true #!\n", "verbose", "unknown key")
for _text in (
    "9876",
    "127.0.0.1",
    "example.com:80",
    "127.0.0.1:",
    "127.0.0.1:x",
    "::1:80",
    "1.2.3:80",
    "[127.0.0.1]:80",
):
    case(f"listen at {_text}", f'[http]\nlisten = "{_text}" #!\n', "http.listen", "is not an IP address with a port")
case("listen at a name", '[http]\nlisten = "localhost:80" #!\n', "http.listen", "is not an IP address", "127.0.0.1:80")
case("listen at port 0", '[http]\nlisten = "127.0.0.1:0" #!\n', "http.listen", "0 is not a port")
case("listen beyond ports", '[http]\nlisten = "127.0.0.1:65536" #!\n', "http.listen", "65536 is not a port")
for _text in ("0.0.0.0:80", "192.0.2.1:80", "[::]:80", "[2001:db8::1]:80"):
    case(f"remote {_text}", f'[http]\nlisten = "{_text}" #!\n', "http.listen", "set allow_remote = true")
case(
    "remote denied",
    '[http]\nallow_remote = false\nlisten = "0.0.0.0:80" #!\n',
    "http.listen",
    "set allow_remote = true",
)
case("unknown http key", "[http]\nport = 80 #!\n", "http.port", "unknown key")
case("unknown scheduler key", "[scheduler]\ncushion = 1 #!\n", "scheduler.cushion", "unknown key", "cushion_mib")
case("dotted unknown key", "scheduler.cusion_mib = 1 #!\n", "scheduler.cusion_mib", "unknown key", "cushion_mib")
case("table is a number", "scheduler = 3 #!\n", "scheduler", "must be a table, not a whole number")
case("table is a list", "[[gpu]] #!\n", "gpu", "must be a table, not a list")
case("text for a number", '[scheduler]\ncushion_mib = "256" #!\n', "scheduler.cushion_mib", "not a string")
case("boolean for a number", "[scheduler]\ncushion_mib = true #!\n", "scheduler.cushion_mib", "not a boolean")
case("decimal for a whole", "[scheduler]\nmax_evictions = 5.0 #!\n", "scheduler.max_evictions", "not a decimal number")
case(
    "date for a number", "[scheduler]\nlease_ttl_sec = 2025-01-01 #!\n", "scheduler.lease_ttl_sec", "not a date or time"
)
case("boolean for seconds", "[scheduler]\naging_sec = true #!\n", "scheduler.aging_sec", "not a boolean")
case("negative cushion", "[scheduler]\ncushion_mib = -1 #!\n", "scheduler.cushion_mib", "from 0 to 16777216, not -1")
case("zero timeout", "[scheduler]\nsettle_timeout_sec = 0 #!\n", "scheduler.settle_timeout_sec", "above 0 up to 86400")
case("absurd timeout", "[scheduler]\nlease_ttl_sec = 86401 #!\n", "scheduler.lease_ttl_sec", "not 86401")
case("endless timeout", "[scheduler]\nlease_ttl_sec = inf #!\n", "scheduler.lease_ttl_sec", "not inf")
case("no number", "[scheduler]\nlease_ttl_sec = nan #!\n", "scheduler.lease_ttl_sec", "not nan")
case("endless digits", f"[scheduler]\ncushion_mib = {'9' * 4000} #!\n", "scheduler.cushion_mib", "so many digits")
case(
    "unknown source",
    '[gpu]\nsource = "nvlm" #!\n',
    "gpu.source",
    'one of "auto", "nvml", "amdgpu", "xe", "simulated", "none"',
    "nvml",
)
case("auto beside another source", '[gpu]\nsource = ["nvml", "auto"] #!\n', "gpu.source", '"auto" cannot be combined')
case("source twice", '[gpu]\nsource = ["nvml", "nvml"] #!\n', "gpu.source[1]", "listed twice")
case("no source at all", "[gpu]\nsource = [] #!\n", "gpu.source", "must have 1 to 4 elements")
case("options of an index", '[gpu.device."0"] #!\nignore = true\n', "gpu.device.0", "neither a UUID")
case("options that are no table", "[gpu]\ndevice = 5 #!\n", "gpu.device", "must be a table")
case(
    "unknown pool",
    '[gpu.device."0000:c6:00.0"]\npool = "ram" #!\n',
    'gpu.device."0000:c6:00.0".pool',
    'one of "auto", "vram", "gtt"',
    "vram",
)
case(
    "device named twice",
    '[gpu.device."0000:C6:00.0"] #!\nignore = true\n[gpu.device."0000:c6:00.0"]\n',
    "gpu.device",
    "names a device twice",
)
case("source is a number", "[gpu]\nsource = 1 #!\n", "gpu.source", "not a whole number")
case(
    "no device simulated", "[gpu]\nsimulated_total_mib = [] #!\n", "gpu.simulated_total_mib", "1 to 64 elements, not 0"
)
case("bad simulated size", "[gpu]\nsimulated_total_mib = [8192,\n0] #!\n", "gpu.simulated_total_mib[1]", "not 0")
case("simulated size is text", '[gpu]\nsimulated_total_mib = "8192" #!\n', "gpu.simulated_total_mib", "not a string")
case("relative folder", '[gpu]\nsimulated_dir = "sim" #!\n', "gpu.simulated_dir", "absolute path")
case("consumers is a list", "[[consumers]] #!\n", "consumers", "one table per consumer, not a list")
case("consumer is a number", "[consumers]\ntts = 4 #!\n", "consumers.tts", "must be a table, not a whole number")

for bad in ('""', "-tts", "_tts", '"my tts"', '".tts"', '"tts/2"', '"é"', "a" * 65):
    table = f'[consumers.{bad}] #!\nvram_resident_mib = 1\nunit = "t.service"\n'
    case(f"consumer named {bad}", table, f"consumers.{bad}", "is not a valid consumer name")
case(
    "consumer named with a control character",
    '[consumers."a\\u001bb"] #!\nvram_resident_mib = 1\nunit = "t.service"\n',
    'consumers."a\\x1bb"',
    'a\\x1bb" is not a valid',
)

for size in ("0", "-5", "16777217"):
    text = f'[consumers.tts]\nunit = "t.service"\nvram_resident_mib = {size} #!\n'
    case(f"footprint {size}", text, "consumers.tts.vram_resident_mib", "from 1 to 16777216")
consumer(
    "guess in addition to a footprint",
    "vram_guess_mib = 3",
    "consumers.tts.vram_guess_mib",
    "has no effect when vram_resident_mib is set",
)
consumer("unknown consumer key", "prioritty = 3", "consumers.tts.prioritty", "unknown key", "priority")
consumer("name as a key", 'name = "tts"', "consumers.tts.name", "unknown key")
consumer("priority too high", "priority = 101", "consumers.tts.priority", "from -100 to 100, not 101")
consumer("priority too low", "priority = -101", "consumers.tts.priority", "not -101")
consumer("pinned is text", 'pinned = "yes"', "consumers.tts.pinned", "true or false, not a string")
consumer("vram_managed is a number", "vram_managed = 1", "consumers.tts.vram_managed", "true or false")
consumer("negative residual", "residual_mib = -1", "consumers.tts.residual_mib", "not -1")
consumer(
    "residual as large as the footprint",
    "residual_mib = 10",
    "consumers.tts.residual_mib",
    "must be less than vram_resident_mib (10)",
)
consumer("negative idle time", "idle_timeout_sec = -1", "consumers.tts.idle_timeout_sec", "from 0 to 86400")
consumer("no time to load", "load_timeout_sec = 0", "consumers.tts.load_timeout_sec", "above 0")
consumer("no time to stop", "stop_timeout_sec = 0.0", "consumers.tts.stop_timeout_sec", "above 0")
consumer("empty string", 'preset = ""', "consumers.tts.preset", "must not be empty")
consumer("endless text", f'preset = "{"a" * 1025}"', "consumers.tts.preset", "longer than 1024 characters")

for device in ('"gpu0"', '"-1"', '"00"', '"GPU-"', '"GPU-a b"', '"GPU-é"'):
    consumer(f"device {device}", f"device = {device}", "consumers.tts.device", "neither the index")
consumer("device -1", "device = -1", "consumers.tts.device", "neither the index")
consumer("device is a boolean", "device = true", "consumers.tts.device", "must be a string, not a boolean")
consumer(
    "more devices than listed", "device = [0, 1]\ndevice_count = 3", "consumers.tts.device_count", "device lists only 2"
)
consumer("device twice", 'device = [0, "0"]', "consumers.tts.device", "lists a device twice")
consumer("no device", "device = []", "consumers.tts.device", "1 to 64 elements")
consumer("no devices at all", "device_count = 0", "consumers.tts.device_count", "from 1 to 64")
consumer_with_url(
    "loads_on_request with a load route",
    'load = { path = "/load" }\nloads_on_request = true',
    "consumers.tts.loads_on_request",
    "has no effect with a load route",
)
consumer("parks without a route", "parks = true", "consumers.tts.parks", "requires an unload route")
consumer(
    "host RAM of one that does not park",
    "parked_host_mib = 5",
    "consumers.tts.parked_host_mib",
    "has no effect unless parks = true",
)
consumer("device is empty", 'device = ""', "consumers.tts.device", "must not be empty")

for _text, _write in (
    ('"13GB"', "write 13312, in MiB"),
    ('"13 GiB"', "write 13312, in MiB"),
    ('"13.5g"', "write 13824, in MiB"),
    ('"13,5 GB"', "write 13824, in MiB"),
    ('"0.5T"', "write 524288, in MiB"),
    ('"13312MiB"', "write 13312, in MiB"),
    ('"13312"', "write 13312, without quotes"),
    ("13.5", "not a decimal number: if that is in GiB, write 13824, in MiB"),
    ("13312.5", "not a decimal number: write 13313, in MiB"),
    ("13958643712", "if that is in bytes, write 13312, in MiB"),
):
    case(
        f"footprint {_text}",
        f'[consumers.tts]\nunit = "t.service"\nvram_resident_mib = {_text} #!\n',
        "consumers.tts.vram_resident_mib",
        _write,
    )
    case(f"cushion {_text}", f"[scheduler]\ncushion_mib = {_text} #!\n", "scheduler.cushion_mib", _write)
for _text in ('"13 kg"', '"GB"', '"-13GB"', '"99999 TB"', '"13GB 5"', "-1.5", "true", "16777217"):
    case(
        f"footprint {_text}",
        f'[consumers.tts]\nunit = "t.service"\nvram_resident_mib = {_text} #!\n',
        "consumers.tts.vram_resident_mib",
        "must be a whole number from 1 to 16777216, not",
    )
for _text, _write in (
    ('"5min"', "write 300, in seconds"),
    ('"1h 30m"', "write 5400, in seconds"),
    ('"250ms"', "write 0.25, in seconds"),
    ('"90 s"', "write 90, in seconds"),
    ('"90"', "write 90, without quotes"),
    ('"soon"', "not a string"),
    ('"5 5min"', "not a string"),
    ('"900h"', "not a string"),
):
    consumer(f"timeout {_text}", f"load_timeout_sec = {_text}", "consumers.tts.load_timeout_sec", _write)
consumer("priority is text", 'priority = "5"', "consumers.tts.priority", "write 5, without quotes")
consumer("parks is text", 'pinned = "true"', "consumers.tts.pinned", "write true, without quotes")
unit("without a type", '"comfyui"', "is not a name of a unit", "comfyui.service")
unit("of another type", '"comfyui.timer"', ".service, .scope, .slice, .target")
unit("with a slash", '"a/b.service"', "is not a name of a unit")
unit("with a space", '"a b.service"', "is not a name of a unit")
unit("with a wildcard", '"a*.service"', "is not a name of a unit")
unit("of no name", '".service"', "is not a name of a unit")
unit("of an instance alone", '"@one.service"', "is not a name of a unit")
unit("of gpumand itself", '"gpumand.service"', "is gpumand's own unit")
unit("with a template", '"llama@.service"', "is a template: name an instance, such as llama@one.service")
unit("with 256 characters", f'"{"a" * 248}.service"', "255 characters")
unit("with a newline", '"a.service\\n"', "control characters")
for _key, _text, _part, _hint in (
    ("container", "my container", "is not a container", ""),
    ("container", "lxc:comfyui", "use docker: or podman:", ""),
    ("container", "/comfyui", "is not a container", "comfyui"),
    ("container", "docker:", "is not a container", ""),
    ("container", "a" * 255, "up to 254", ""),
    ("slice", "llm", "is not the name of a slice", "llm.slice"),
    ("slice", "llm.service", "is not the name of a slice", ""),
    ("slice", "a--b.slice", "is not the name of a slice", ""),
    ("slice", "system.slice", "services of the whole host", ""),
    ("slice", "-.slice", "services of the whole host", ""),
    ("slice", "a/b.slice", "is not the name of a slice", ""),
    ("cgroup", "machine.slice/a", 'starts with "/"', ""),
    ("cgroup", "/sys/fs/cgroup/lxc/a", "is a path below /sys/fs/cgroup", "/lxc/a"),
    ("cgroup", "/lxc/../a", "is not a path of a cgroup", ""),
    ("cgroup", "/lxc/[ab]", "is not a path of a cgroup", ""),
    ("cgroup", "/**", "matches processes of the whole host", ""),
    ("cgroup", "/system.slice/*", "matches processes of the whole host", ""),
    ("cgroup", "/user.slice", "matches processes of the whole host", ""),
    ("cgroup", "/" + "a" * 600, "is not a path of a cgroup", ""),
):
    consumer(f"{_key} {_text[:20]}", f'{_key} = "{_text}"', f"consumers.tts.{_key}", _part, _hint)
for _first, _second in (("container", "slice"), ("container", "cgroup"), ("slice", "cgroup")):
    _values = {"container": "a", "slice": "a.slice", "cgroup": "/a"}
    case(
        f"{_first} with {_second}",
        f'[consumers.tts]\nvram_resident_mib = 10\nunit = "t.service"\n{_first} = "{_values[_first]}"\n'
        f'{_second} = "{_values[_second]}" #!\n',
        f"consumers.tts.{_second}",
        f"cannot be combined with {_first}",
    )
unit("that is a list", '["a.service"]', "must be a string, not a list")

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

consumer("unknown method of eviction", 'evict = ["unit-sotp"]', "consumers.tts.evict[0]", "must be one of", "unit-stop")
consumer("no methods", "evict = []", "consumers.tts.evict", "1 to 64 elements, not 0")
consumer("method twice", 'evict = ["unit-stop", "unit-stop"]', "consumers.tts.evict[1]", '"unit-stop" is listed twice')
consumer("evict is a text", 'evict = "unit-stop"', "consumers.tts.evict", "must be a list, not a string")
consumer("http without a route", 'evict = ["unit-stop", "http"]', "consumers.tts.evict[1]", "requires an unload route")
consumer_with_url("stop without a unit", 'evict = ["unit-stop"]', "consumers.tts.evict[0]", "requires unit")
consumer_with_url(
    "container without a container", 'evict = ["container"]', "consumers.tts.evict[0]", '"container" requires container'
)
consumer(
    "route without a url", 'unload = { path = "/free" }', "consumers.tts.unload", "requires url in the consumer's table"
)
case(
    "many lines of methods",
    '[consumers.tts]\nvram_resident_mib = 1\nunit = "t.service"\n'
    'evict = [\n  "unit-stop",\n  # then\n  "http", #!\n]\n',
    "consumers.tts.evict[1]",
    "requires an unload route",
)
case(
    "neither unit nor url",
    "[consumers.tts] #!\nvram_resident_mib = 1\n",
    "consumers.tts",
    "requires a unit, a container or a url",
)
case(
    "route and nothing else",
    '[consumers.tts]\nvram_resident_mib = 1\nhealth.path = "/" #!\n',
    "consumers.tts.health",
    "requires url in the consumer's table",
)

consumer(
    "coexists with itself", 'can_coexist_with = ["tts"]', "consumers.tts.can_coexist_with[0]", "the consumer itself"
)
consumer("coexists with a number", "can_coexist_with = [3]", "consumers.tts.can_coexist_with[0]", "must be a string")
consumer(
    "coexists with an unknown consumer", 'can_coexist_with = ["x"]', "consumers.tts.can_coexist_with[0]", "no consumer"
)
case(
    "coexists with a misspelled consumer",
    '[consumers.ollama]\nvram_resident_mib = 1\nunit = "o.service"\n'
    '[consumers.tts]\nvram_resident_mib = 1\nunit = "t.service"\ncan_coexist_with = [\n  "olama"] #!\n',
    "consumers.tts.can_coexist_with[0]",
    'no consumer "olama" is configured',
    "ollama",
)
case(
    "more than is simulated",
    '[gpu]\nsource = "simulated"\nsimulated_total_mib = [4096, 8192]\n'
    '[consumers.a]\nunit = "u.service"\nvram_resident_mib = 8193 #!\n',
    "consumers.a.vram_resident_mib",
    "more than the 8192 MiB",
)
case(
    "more than its simulated device",
    '[gpu]\nsource = "simulated"\nsimulated_total_mib = [4096, 8192]\n'
    '[consumers.a]\nunit = "u.service"\ndevice = 0\nvram_resident_mib = 4097 #!\n',
    "consumers.a.vram_resident_mib",
    "more than the 4096 MiB",
)
case(
    "more on each than is simulated",
    '[gpu]\nsource = "simulated"\nsimulated_total_mib = [4096, 8192]\n'
    '[consumers.a]\nunit = "u.service"\ndevice_count = 2\nvram_resident_mib = 4097 #!\n',
    "consumers.a.vram_resident_mib",
    "more than the 4096 MiB of each of its 2 devices",
)
case(
    "more devices than are simulated",
    '[gpu]\nsource = "simulated"\nsimulated_total_mib = [4096, 8192]\n'
    '[consumers.a]\nunit = "u.service"\nvram_resident_mib = 4096\ndevice_count = 3 #!\n',
    "consumers.a.device_count",
    "simulated_total_mib lists fewer devices",
)
case(
    "more than total_mib",
    '[gpu]\ntotal_mib = 4096\n[consumers.a]\nunit = "u.service"\nvram_resident_mib = 4097 #!\n',
    "consumers.a.vram_resident_mib",
    "more than the 4096 MiB",
)

consumer("unknown preset", 'preset = "olama"', "consumers.tts.preset", 'there is no preset "olama"', "ollama")
consumer("model without a preset", 'model = "m"', "consumers.tts.model", "has no effect without a preset")
consumer(
    "model for a preset without models", 'preset = "comfyui"\nmodel = "m"', "consumers.tts.model", "takes no model"
)
case(
    "preset without its model",
    '[consumers.tts] #!\nvram_resident_mib = 1\npreset = "llama-cpp-router"\nurl = "http://h"\nevict = ["http"]\n',
    "consumers.tts.model",
    "requires the name of a model",
)
case(
    "preset without its url",
    '[consumers.tts] #!\nvram_resident_mib = 1\npreset = "vllm"\nunit = "v.service"\n',
    "consumers.tts.url",
    'the preset "vllm" has no default url',
)
case(
    "model with a control character",
    '[consumers.tts]\nvram_resident_mib = 1\npreset = "ollama"\nmodel = "a\\u0000" #!\n',
    "consumers.tts.model",
    "control characters",
)
case(
    "unknown preset alone",
    '[consumers.tts]\nvram_resident_mib = 1\npreset = "nope" #!\nevict = ["http"]\n',
    "consumers.tts.preset",
    "see gpumanctl preset list",
)
case("quoted key", '["scheduler"]\n"cusion\\u005fmib" = 1 #!\n', "scheduler.cusion_mib", "unknown key", "cushion_mib")
case(
    "after a long text",
    '[consumers.tts]\nvram_resident_mib = 1\nurl = "http://h"\n'
    'load = { path = "/", json = """\n[gpu]\nx = 1\n""", met = 1 } #!\n',
    "consumers.tts.load.met",
    "unknown key",
    "method",
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
