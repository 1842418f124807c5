"""Invalid configurations: tables, [http], [scheduler] and [gpu]."""

from __future__ import annotations

from tests.unit.config.refusal_cases import case

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
