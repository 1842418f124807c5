"""Every way to write a configuration wrong: what is written, the key, the words, and the name that was meant.

``#!`` marks the line at which the fault must be told.
"""

from __future__ import annotations

CASES: dict[str, tuple[str, str, str, str]] = {}


def case(name: str, text: str, key: str, words: str, hint: str = "") -> None:
    CASES[name] = (text, key, words, hint)


def consumer(name: str, line: str, key: str, words: str, hint: str = "") -> None:
    """A consumer that is right but for one line."""
    case(name, f'[consumers.tts]\nvram_resident_mib = 10\nunit = "t.service"\n{line} #!\n', key, words, hint)


def reached(name: str, line: str, key: str, words: str, hint: str = "") -> None:
    """A consumer with a url that is right but for one line."""
    case(name, f'[consumers.tts]\nvram_resident_mib = 10\nurl = "http://h"\n{line} #!\n', key, words, hint)


def unit(name: str, value: str, words: str, hint: str = "") -> None:
    text = f"[consumers.tts]\nvram_resident_mib = 10\nunit = {value} #!\n"
    case(f"unit {name}", text, "consumers.tts.unit", words, hint)


def url(name: str, value: str, words: str, hint: str = "") -> None:
    text = f"[consumers.tts]\nvram_resident_mib = 10\nurl = {value} #!\n"
    case(f"url {name}", text, "consumers.tts.url", words, hint)


case("unknown table", "[sheduler] #!\n", "sheduler", "no known table", "scheduler")
case("unknown root key", "verbose = true #!\n", "verbose", "no known key")
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
    case(f"listen at {_text}", f'[http]\nlisten = "{_text}" #!\n', "http.listen", "is no IP address with a port")
case("listen at a name", '[http]\nlisten = "localhost:80" #!\n', "http.listen", "is no IP address", "127.0.0.1:80")
case("listen at port 0", '[http]\nlisten = "127.0.0.1:0" #!\n', "http.listen", "0 is no port")
case("listen beyond ports", '[http]\nlisten = "127.0.0.1:65536" #!\n', "http.listen", "65536 is no port")
for _text in ("0.0.0.0:80", "192.0.2.1:80", "[::]:80", "[2001:db8::1]:80"):
    case(f"remote {_text}", f'[http]\nlisten = "{_text}" #!\n', "http.listen", "needs allow_remote = true")
case(
    "remote denied",
    '[http]\nallow_remote = false\nlisten = "0.0.0.0:80" #!\n',
    "http.listen",
    "needs allow_remote = true",
)
case("unknown http key", "[http]\nport = 80 #!\n", "http.port", "no known key")
case("unknown scheduler key", "[scheduler]\ncushion = 1 #!\n", "scheduler.cushion", "no known key", "cushion_mib")
case("dotted unknown key", "scheduler.cusion_mib = 1 #!\n", "scheduler.cusion_mib", "no known key", "cushion_mib")
case("table is a number", "scheduler = 3 #!\n", "scheduler", "must be a table, not a whole number")
case("table is a list", "[[gpu]] #!\n", "gpu", "must be a table, not a list")
case("text for a number", '[scheduler]\ncushion_mib = "256" #!\n', "scheduler.cushion_mib", "not a text")
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
case("unknown source", '[gpu]\nsource = "nvlm" #!\n', "gpu.source", 'one of "nvml", "simulated", "none"', "nvml")
case("source is a number", "[gpu]\nsource = 1 #!\n", "gpu.source", "not a whole number")
case(
    "no device simulated", "[gpu]\nsimulated_total_mib = [] #!\n", "gpu.simulated_total_mib", "1 to 64 elements, not 0"
)
case("bad simulated size", "[gpu]\nsimulated_total_mib = [8192,\n0] #!\n", "gpu.simulated_total_mib[1]", "not 0")
case("simulated size is text", '[gpu]\nsimulated_total_mib = "8192" #!\n', "gpu.simulated_total_mib", "not a text")
case("relative folder", '[gpu]\nsimulated_dir = "sim" #!\n', "gpu.simulated_dir", "absolute path")
case("consumers is a list", "[[consumers]] #!\n", "consumers", "one table for each consumer, not a list")
case("consumer is a number", "[consumers]\ntts = 4 #!\n", "consumers.tts", "must be a table, not a whole number")

for bad in ('""', "-tts", "_tts", '"my tts"', '".tts"', '"tts/2"', '"é"', "a" * 65):
    table = f'[consumers.{bad}] #!\nvram_resident_mib = 1\nunit = "t.service"\n'
    case(f"consumer named {bad}", table, f"consumers.{bad}", "no name of a consumer")
case(
    "consumer named with a control character",
    '[consumers."a\\u001bb"] #!\nvram_resident_mib = 1\nunit = "t.service"\n',
    'consumers."a\\x1bb"',
    'a\\x1bb" is no name',
)

for figure in ("0", "-5", "16777217"):
    text = f'[consumers.tts]\nunit = "t.service"\nvram_resident_mib = {figure} #!\n'
    case(f"footprint {figure}", text, "consumers.tts.vram_resident_mib", "from 1 to 16777216")
consumer("guess beside a footprint", "vram_guess_mib = 3", "consumers.tts.vram_guess_mib", "only where")
consumer("unknown consumer key", "prioritty = 3", "consumers.tts.prioritty", "no known key", "priority")
consumer("name as a key", 'name = "tts"', "consumers.tts.name", "no known key")
consumer("priority too high", "priority = 101", "consumers.tts.priority", "from -100 to 100, not 101")
consumer("priority too low", "priority = -101", "consumers.tts.priority", "not -101")
consumer("pinned is text", 'pinned = "yes"', "consumers.tts.pinned", "true or false, not a text")
consumer("vram_managed is a number", "vram_managed = 1", "consumers.tts.vram_managed", "true or false")
consumer("negative residual", "residual_mib = -1", "consumers.tts.residual_mib", "not -1")
consumer("residual of all", "residual_mib = 10", "consumers.tts.residual_mib", "not less than vram_resident_mib (10)")
consumer("negative idle time", "idle_timeout_sec = -1", "consumers.tts.idle_timeout_sec", "from 0 to 86400")
consumer("no time to load", "load_timeout_sec = 0", "consumers.tts.load_timeout_sec", "above 0")
consumer("no time to stop", "stop_timeout_sec = 0.0", "consumers.tts.stop_timeout_sec", "above 0")
consumer("text of nothing", 'preset = ""', "consumers.tts.preset", "must not be empty")
consumer("endless text", f'preset = "{"a" * 1025}"', "consumers.tts.preset", "longer than 1024 characters")

for device in ('"gpu0"', '"-1"', '"00"', '"GPU-"', '"GPU-a b"', '"GPU-é"'):
    consumer(f"device {device}", f"device = {device}", "consumers.tts.device", "neither the index")
consumer("device -1", "device = -1", "consumers.tts.device", "neither the index")
consumer("device is a boolean", "device = true", "consumers.tts.device", "must be a text, not a boolean")
consumer("more devices than named", "device = [0, 1]\ndevice_count = 3", "consumers.tts.device_count", "device names 2")
consumer("device twice", 'device = [0, "0"]', "consumers.tts.device", "names a device twice")
consumer("no device", "device = []", "consumers.tts.device", "1 to 64 elements")
consumer("no devices at all", "device_count = 0", "consumers.tts.device_count", "from 1 to 64")
consumer("parks by no route", "parks = true", "consumers.tts.parks", "needs an unload route")
consumer("host RAM of one that does not park", "parked_host_mib = 5", "consumers.tts.parked_host_mib", "of use only")
consumer("device is empty", 'device = ""', "consumers.tts.device", "must not be empty")

unit("without a type", '"comfyui"', "no name of a unit", "comfyui.service")
unit("of another type", '"comfyui.timer"', ".service, .scope, .slice, .target")
unit("with a slash", '"a/b.service"', "no name of a unit")
unit("with a space", '"a b.service"', "no name of a unit")
unit("with a wildcard", '"a*.service"', "no name of a unit")
unit("of no name", '".service"', "no name of a unit")
unit("of an instance alone", '"@one.service"', "no name of a unit")
unit("of our own", '"gpumand.service"', "is gpumand itself")
unit("with a template", '"llama@.service"', "is a template: name an instance, such as llama@one.service")
unit("with 256 characters", f'"{"a" * 248}.service"', "255 characters")
unit("with a newline", '"a.service\\n"', "control characters")
unit("that is a list", '["a.service"]', "must be a text, not a list")

url("without a scheme", '"127.0.0.1:8188"', "http://", "http://127.0.0.1:8188")
url("of another scheme", '"ftp://h/"', "http://")
url("of a file", '"file:///etc"', "http://")
url("of a socket", '"unix:/run/x"', "http://", "http://unix:/run/x")
url("without a host", '"http://"', "http://")
url("with a port alone", '"http://:80"', "no host")
url("with a user", '"http://me@h"', "credentials")
url("with a password", '"http://me:secret@h"', "credentials")
url("with a query", '"http://h/?a=1"', "query")
url("with an empty query", '"http://h/?"', "query")
url("with a fragment", '"http://h/#a"', "fragment")
url("with port 0", '"http://h:0"', "no host")
url("with a port too high", '"http://h:65536"', "no URL")
url("with a word for a port", '"http://h:http"', "no URL")
url("with a space", '"http://h /"', "no URL")
url("with a newline", '"http://h\\n"', "control characters")
url("with a bad host", '"http://a$b"', "no host")
url("with half an address", '"http://[::1"', "no URL")
url("beyond ASCII", '"http://hé"', "percent-encoded")

reached(
    "path without a slash", 'health = { path = "health" }', "consumers.tts.health.path", 'begin with "/"', "/health"
)
reached("path with a host", 'health = { path = "//evil/a" }', "consumers.tts.health.path", "another host")
reached("path is a url", 'load = { path = "http://h/a" }', "consumers.tts.load.path", 'begin with "/"')
reached("path with a newline", 'load = { path = "/a\\r\\nX: y" }', "consumers.tts.load.path", "control characters")
reached("path with a space", 'load = { path = "/a b" }', "consumers.tts.load.path", "percent-encoded")
reached("path with a fragment", 'load = { path = "/a#b" }', "consumers.tts.load.path", "fragment")
reached("path beyond ASCII", 'load = { path = "/é" }', "consumers.tts.load.path", "percent-encoded")
reached("route without a path", 'unload = { method = "POST" }', "consumers.tts.unload.path", "is missing")
reached("route is a text", 'unload = "/free"', "consumers.tts.unload", "must be a table, not a text")
reached(
    "unknown route key", 'unload = { path = "/f", metod = "GET" }', "consumers.tts.unload.metod", "no known", "method"
)
reached(
    "health has no method", 'health = { path = "/", method = "PUT" }', "consumers.tts.health.method", "no known key"
)
reached("method in small", 'load = { path = "/", method = "post" }', "consumers.tts.load.method", "capitals", "POST")
reached("method with a space", 'load = { path = "/", method = "GET /" }', "consumers.tts.load.method", "no HTTP method")
reached("no time", 'load = { path = "/", timeout_sec = 0 }', "consumers.tts.load.timeout_sec", "above 0")
reached("too much time", 'load.path = "/"\nload.timeout_sec = 1e6', "consumers.tts.load.timeout_sec", "up to 86400")
reached("date in JSON", 'load = { path = "/", json = { at = 2025-01-01 } }', "consumers.tts.load.json", "date or time")
reached("inf in JSON", 'load = { path = "/", json = [1, [inf]] }', "consumers.tts.load.json", "inf or nan")
deep = "[" * 40 + "]" * 40
reached("deep JSON", f'load = {{ path = "/", json = {deep} }}', "consumers.tts.load.json", "32 levels")
reached("long JSON", f'load = {{ path = "/", json = "{"a" * 70000}" }}', "consumers.tts.load.json", "64 KiB")
reached(
    "header with a newline",
    'load = { path = "/", headers = { X-Key = "a\\r\\nHost: b" } }',
    "consumers.tts.load.headers.X-Key",
    "control characters",
)
reached(
    "header name with a newline",
    'load = { path = "/", headers = { "X\\n" = "a" } }',
    'consumers.tts.load.headers."X\\n"',
    "control characters",
)
reached(
    "header name with a colon",
    'health = { path = "/", headers = { "X:" = "a" } }',
    'consumers.tts.health.headers."X:"',
    "no name of an HTTP header",
)
reached(
    "header twice",
    'health = { path = "/", headers = { X = "a", x = "b" } }',
    "consumers.tts.health.headers.x",
    "named twice",
)
reached(
    "header is a number",
    'health = { path = "/", headers = { X = 1 } }',
    "consumers.tts.health.headers.X",
    "must be a text",
)
reached(
    "headers are a list", 'health = { path = "/", headers = ["X"] }', "consumers.tts.health.headers", "table of texts"
)
many = ", ".join(f'X{number} = "a"' for number in range(33))
reached("many headers", f'load = {{ path = "/", headers = {{ {many} }} }}', "consumers.tts.load.headers", "at most 32")

for bad, words, hint in (
    ("loaded", "no JSON pointer", "/loaded"),
    ("/a~2", '"~" must be written ~0', ""),
    ("/a~", '"~" must be written ~0', ""),
    ("/a/[id]/b", "no selector", ""),
    ("/a/[id=]", "no selector", ""),
    ("/a/[=]", "no selector", ""),
    ("/a/[id=x", "no selector", ""),
):
    line = f'health = {{ path = "/", loaded = "{bad}" }}'
    reached(f"pointer {bad}", line, "consumers.tts.health.loaded", words, hint)
    line = f'health = {{ path = "/", last_used = "{bad}" }}'
    reached(f"last_used {bad}", line, "consumers.tts.health.last_used", words, hint)
line = 'health = { path = "/", loaded = "/a", loaded_equals = 1.5 }'
reached("loaded_equals is a decimal", line, "consumers.tts.health.loaded_equals", "boolean, whole number or text")

consumer("unknown method of eviction", 'evict = ["unit-sotp"]', "consumers.tts.evict[0]", "must be one of", "unit-stop")
consumer("no methods", "evict = []", "consumers.tts.evict", "1 to 64 elements, not 0")
consumer("method twice", 'evict = ["unit-stop", "unit-stop"]', "consumers.tts.evict[1]", '"unit-stop" is named twice')
consumer("evict is a text", 'evict = "unit-stop"', "consumers.tts.evict", "must be a list, not a text")
consumer("http without a route", 'evict = ["unit-stop", "http"]', "consumers.tts.evict[1]", "needs an unload route")
reached("stop without a unit", 'evict = ["unit-stop"]', "consumers.tts.evict[0]", "needs a unit")
consumer("route without a url", 'unload = { path = "/free" }', "consumers.tts.unload", "needs the consumer's url")
case(
    "many lines of methods",
    '[consumers.tts]\nvram_resident_mib = 1\nunit = "t.service"\n'
    'evict = [\n  "unit-stop",\n  # then\n  "http", #!\n]\n',
    "consumers.tts.evict[1]",
    "needs an unload route",
)
case(
    "neither unit nor url",
    "[consumers.tts] #!\nvram_resident_mib = 1\n",
    "consumers.tts",
    "needs a unit, a url, or both",
)
case(
    "route and nothing else",
    '[consumers.tts]\nvram_resident_mib = 1\nhealth.path = "/" #!\n',
    "consumers.tts.health",
    "needs the consumer's url",
)

consumer(
    "coexists with itself", 'can_coexist_with = ["tts"]', "consumers.tts.can_coexist_with[0]", "the consumer itself"
)
consumer("coexists with a number", "can_coexist_with = [3]", "consumers.tts.can_coexist_with[0]", "must be a text")
consumer("coexists with nobody known", 'can_coexist_with = ["x"]', "consumers.tts.can_coexist_with[0]", "no configured")
case(
    "coexists with a slip",
    '[consumers.ollama]\nvram_resident_mib = 1\nunit = "o.service"\n'
    '[consumers.tts]\nvram_resident_mib = 1\nunit = "t.service"\ncan_coexist_with = [\n  "olama"] #!\n',
    "consumers.tts.can_coexist_with[0]",
    '"olama" is no configured consumer',
    "ollama",
)
case(
    "one unit for two",
    '[consumers.a]\nvram_resident_mib = 1\nunit = "u.service"\n'
    '[consumers.b]\nvram_resident_mib = 1\nunit = "u.service" #!\n',
    "consumers.b.unit",
    'the unit of "a" already, at',
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
    "there are fewer simulated devices",
)
case(
    "more than there is",
    '[gpu]\ntotal_mib = 4096\n[consumers.a]\nunit = "u.service"\nvram_resident_mib = 4097 #!\n',
    "consumers.a.vram_resident_mib",
    "more than the 4096 MiB",
)

consumer("unknown preset", 'preset = "olama"', "consumers.tts.preset", '"olama" is no preset', "ollama")
consumer("model without a preset", 'model = "m"', "consumers.tts.model", "of use only to a preset")
consumer("model for nothing", 'preset = "comfyui"\nmodel = "m"', "consumers.tts.model", "names no model")
case(
    "preset without its model",
    '[consumers.tts] #!\nvram_resident_mib = 1\npreset = "llama-cpp-router"\nurl = "http://h"\nevict = ["http"]\n',
    "consumers.tts.model",
    "needs to know which model",
)
case(
    "preset without its url",
    '[consumers.tts] #!\nvram_resident_mib = 1\npreset = "vllm"\nunit = "v.service"\n',
    "consumers.tts.url",
    'the preset "vllm" has no default',
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
    "no preset (gpumanctl preset list has them)",
)
case("quoted key", '["scheduler"]\n"cusion\\u005fmib" = 1 #!\n', "scheduler.cusion_mib", "no known key", "cushion_mib")
case(
    "after a long text",
    '[consumers.tts]\nvram_resident_mib = 1\nurl = "http://h"\n'
    'load = { path = "/", json = """\n[gpu]\nx = 1\n""", met = 1 } #!\n',
    "consumers.tts.load.met",
    "no known key",
    "method",
)


_BUSY = "consumers.tts.busy"
reached("busy nowhere", 'busy = { path = "/q" }', _BUSY, "needs pointers or metrics")
reached("busy metric", 'busy = { path = "/q", metrics = ["a b"] }', f"{_BUSY}.metrics[0]", "no name of a Prometheus")
reached("busy pointer", 'busy = { path = "/q", pointers = ["a"] }', f"{_BUSY}.pointers[0]", "no JSON pointer", "/a")
reached("busy after", 'busy_after = "kill"', "consumers.tts.busy_after", 'must be one of "wait", "evict", "refuse"')
reached("success", 'load = { path = "/", success = "ok" }', "consumers.tts.load.success", "no JSON pointer", "/ok")
consumer("busy without url", 'busy = { path = "/q", pointers = "/a" }', _BUSY, "needs the consumer's url")
reached("key of nothing", 'key_header = "X: {key}"', "consumers.tts.key_header", "is of use only to a key_file")
reached("header without key", 'key_header = "X: key"', "consumers.tts.key_header", "is no header with a key in it")
reached("key not there", 'key_file = "/nonexistent/key"', "consumers.tts.key_file", "cannot be read: No such file")
reached("key in a folder", 'key_file = "/proc"', "consumers.tts.key_file", "cannot be read: it is no regular file")
reached("no key in it", 'key_file = "/dev/null"', "consumers.tts.key_file", "cannot be read: it is no regular file")
reached("key of many lines", 'key_file = "/proc/self/status"', "consumers.tts.key_file", "does not hold a key")
case(
    "unit only",
    '[consumers.tts] #!\nvram_resident_mib = 10\npreset = "infinity"\n',
    "consumers.tts.unit",
    'is missing: with the preset "infinity" only stopping its unit frees VRAM',
)
