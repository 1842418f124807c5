"""Kinds of messages. A message quotes names, answers and log lines, so that the report has only what kind it is."""

from __future__ import annotations

import re

from gpumand.cli.issue_report.safe import WITHHELD

OTHER = "another message"
MAX_MESSAGE = 4096
"""Longer messages are not searched beyond this many characters."""

READING_ERRORS = frozenset(
    {"amdgpu-missing", "amdgpu-unreadable", "driver-lost", "driver-mismatch", "driver-not-loaded", "driver-unreadable"}
    | {"gone", "gpu-lost", "gpu-not-found", "gpu-reset-required", "memory-info-not-supported", "no-devices", "no-dmem"}
    | {"no-host-ram", "no-source", "nvml-error", "nvml-hangs", "nvml-library-missing", "released", "simulator-failed"}
    | {"simulator-hangs", "sysfs-failed", "sysfs-hangs", "xe-missing"}
)
"""Words at the beginning of errors of readings."""

_KINDS = (
    ("not loaded within the time limit", r"not loaded after [0-9.e+]+ s"),
    ("the unit ended while the model was being loaded", r" ended while .{1,300} was loading"),
    ("nothing listens on the port of the active unit", r"nothing listens on its port although"),
    ("the unit was not restarted, since it is in use", r" is not restarted, since "),
    ("the unit was not started beside its former process", r" was not started beside its former process"),
    ("systemd does not permit it", r"systemd does not allow gpumand to "),
    ("the unit does not exist", r"cannot (start|stop|restart) .{1,300}(not found|NoSuchUnit)"),
    ("the unit is masked", r"cannot (start|stop|restart) .{1,300}masked"),
    ("systemd is not available", r"no systemd on this bus|systemd does not answer"),
    ("another error of systemd", r"cannot (start|stop|restart) "),
    ("the health route cannot be asked", r"The server runs, but gpumand cannot see whether it is loaded"),
    ("the server reported that the load failed", r"the load failed: "),
    ("the memory does not show the model", r"(health check|runs)\b.{0,300}, but "),
    ("the memory stayed in use after the processes ended", r"[Pp]rocesses have ended, but [0-9]+ MiB stay"),
    ("the memory was not freed", r"(freed only|stay in use|still holds|did not free|was not freed)"),
    ("a route answered with an HTTP error", r"answered [45][0-9][0-9]\b"),
    ("the connection was refused", r"[Cc]onnection refused|Connect call failed"),
    ("a route did not answer in time", r"([Tt]imed out|no answer|timeout) ?(after|within)?"),
    ("out of memory", r"[Oo]ut of memory|out-of-memory|OutOfMemory|oom-kill"),
)
_SEARCHES = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _KINDS)
_NVML = re.compile(r"\(NVML error ([0-9]{1,3})\)")
_HTTP = re.compile(r"answered ([45][0-9][0-9])\b")


def kind_of(message: str) -> str:
    """The kind of an error message of a load or an eviction, with HTTP's status if it names one; never its text."""
    text = message[:MAX_MESSAGE]
    kind = next((kind for kind, search in _SEARCHES if search.search(text)), OTHER)
    status = _HTTP.search(text)
    return f"{kind} (HTTP {status[1]})" if status else kind


def reading_error(message: str) -> str:
    """The word of an error of readings, with NVML's code if it names one; "none" where there is no error."""
    if not message:
        return "none"
    word = message.partition(":")[0]
    code = _NVML.search(message[:MAX_MESSAGE])
    return (word if word in READING_ERRORS else WITHHELD) + (f" (NVML error {code[1]})" if code else "")
