"""Bus options in messages of the daemon, as options of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dbus_fast import Variant

from gpumand.bus import options as bus_options
from gpumand.bus.options import acquire_options
from gpumand.cli.option_names import COMMAND_LINE_OPTIONS, with_command_line_options
from gpumand.domain.errors import GpumandError

CODE = Path(__file__).parents[3] / "gpumand"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "comfyui is leased. Use the option 'force' to revoke its leases.",
            "comfyui is leased. Use --force to revoke its leases.",
        ),
        (
            "comfyui is pinned. Unpin it, or use the option 'force'.",
            "comfyui is pinned. Unpin it, or use --force.",
        ),
        (
            "option 'priority' must be from -100 to 100, not 101",
            "--priority must be from -100 to 100, not 101",
        ),
        (
            "option 'ttl_usec' must be greater than 0 and at most 31622400000000, not 34560000000000",
            "--ttl must be greater than 0 and at most 366 d, not 400 d",
        ),
        ("option 'ttl_usec' needs lifetime 'ttl', not 'unit'", "--ttl needs --lifetime ttl, not 'unit'"),
        ("timeout_usec is too large", "--timeout is too large"),
        (
            "lifetime 'unit' needs a caller that runs in a systemd unit",
            "--lifetime unit needs a caller that runs in a systemd unit",
        ),
        ("unknown option 'token': valid options are device", "unknown option 'token': valid options are device"),
        ("no consumer is named 'force'", "no consumer is named 'force'"),
        ("option 'method' must be a string (s)", "option 'method' must be a string (s)"),
    ],
)
def test_option_names_are_translated(message: str, expected: str) -> None:
    assert with_command_line_options(message) == expected


def test_every_option_of_a_method_is_translated_or_has_no_counterpart() -> None:
    tables = [one for name, one in vars(bus_options).items() if name.endswith("_OPTIONS") and isinstance(one, dict)]
    known = {name for table in tables for name in table}
    assert known == COMMAND_LINE_OPTIONS.keys() | {"method", "within", "bound", "on_behalf"}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("ttl_usec", Variant("t", 0), "--ttl must be"),
        ("priority", Variant("i", 1000), "--priority must be"),
        ("lifetime", Variant("s", "x"), "--lifetime must be"),
        ("reason", Variant("s", "a\nb"), "--reason must be one line"),
        ("device", Variant("s", "x" * 2000), "--device is longer"),
        ("token", Variant("b", True), "--token must be a string"),
    ],
)
def test_errors_of_the_bus_name_options_in_a_form_that_is_translated(
    option: str, value: Variant, expected: str
) -> None:
    with pytest.raises(GpumandError) as refusal:
        acquire_options({option: value})
    assert option in refusal.value.message
    assert with_command_line_options(refusal.value.message).startswith(expected)


def test_daemon_never_names_an_option_of_gpumanctl() -> None:
    """Bus callers have no options with dashes; the messages of refusals are in these packages."""
    named = re.compile(r"--(?:force|timeout|ttl|lifetime|priority|device|reason|token)\b")
    files = [file for part in ("arbiter", "bus", "domain") for file in (CODE / part).rglob("*.py")]
    assert files
    assert not [str(file) for file in files if named.search(file.read_text(encoding="utf-8"))]
