"""The configuration of the fleet in the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.config import validators
from gpumand.config.files import read_key_file
from gpumand.config.problems import Place, ProblemList
from gpumand.config.table_schema import INVALID, key, keys_table, read_keys, with_defaults
from gpumand.config.value_types import Boolean, Text

DEFAULT_SOCKET = "/run/gpumand-fleet/fleet.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The fleet; the fields are the keys of ``FleetTable``.

    Attributes:
        key: content of ``key_file``.
    """

    enabled: bool = False
    socket: str = DEFAULT_SOCKET
    key_file: str = ""
    key: str = field(default="", repr=False)


_DEFAULTS = FleetSettings()


@keys_table
class FleetTable:
    """``[gateway.fleet]``: requests for models of other hosts, with gpumand-fleet."""

    enabled: bool = key(
        Boolean(),
        "Use of the fleet: requests for a model that this host does not have, or that another host has loaded already, "
        "are passed on to the gateway of that host (gateway_url in its fleet.toml).",
        default=_DEFAULTS.enabled,
    )
    socket: str = key(
        Text("absolute path", validators.absolute_path), "Socket of gpumand-fleet.", default=_DEFAULTS.socket
    )
    key_file: str = key(
        Text("absolute path", validators.absolute_path),
        "File with the API key that the gateways of other hosts require, in one line. They get it instead of the "
        "client's key. The user of the gateway must be able to read it.",
        default=_DEFAULTS.key_file,
    )


def read_fleet(raw: object, place: Place, problems: ProblemList) -> FleetSettings:
    """Read ``[gateway.fleet]``."""
    values: dict[str, Any] = with_defaults(FleetTable, read_keys(FleetTable, raw, place, problems))
    file = values["key_file"]
    secret = read_key_file(Path(file), place.at("key_file"), problems) if file and file is not INVALID else ""
    return FleetSettings(key=secret, **values)
