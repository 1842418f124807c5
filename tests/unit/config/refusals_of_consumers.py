"""Invalid configurations: keys of a consumer, its unit, its place, its evictions and its preset."""

from __future__ import annotations

from tests.unit.config.refusal_cases import case, consumer, consumer_with_url, unit

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
