"""The list of invalid configurations, and functions that add to it; the modules ``refusals_of_*`` fill it.

Each case has the key, a part of the message and the hint that must be reported; ``#!`` marks the line at which the
problem must be reported.
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
