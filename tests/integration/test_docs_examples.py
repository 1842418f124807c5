"""The examples in the generated references: every key has one, and the readers accept each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpumand.config import load
from gpumand.config.presets import preset_names
from gpumand.config.schema import TABLES
from gpumand.config.table_schema import keys_of
from gpumand.fleet.config import TABLES as FLEET_TABLES
from gpumand.fleet.config import load as load_fleet
from gpumand.gateway.config import TABLES as GATEWAY_TABLES
from gpumand.gateway.config import load as load_gateway
from gpumand.notify.config import TABLES as NOTIFY_TABLES
from gpumand.notify.config import load as load_hooks

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "scripts")]

from generated import tables_with_examples  # noqa: E402 - found by the line above
from key_examples import EXAMPLES, example  # noqa: E402
from preset_pages import configuration, preset_pages  # noqa: E402

ALL_TABLES = {**TABLES, **GATEWAY_TABLES, **NOTIFY_TABLES, **FLEET_TABLES}
KEYS = [(name, key) for name, keys in EXAMPLES.items() for key in keys]

API_KEY = f'[keys.x]\nsha256 = "{"0" * 64}"\n'
CONSUMER = {"vram_resident_mib": "8000", "unit": '"x.service"', "url": '"http://127.0.0.1:1"'}
TABLE_OF_CONSUMER = ["[consumers.x]", *(f"{key} = {value}" for key, value in CONSUMER.items())]
OTHER = ["[consumers.whisper]", 'unit = "whisper.service"', "vram_resident_mib = 2000"]
UNLOAD = {"unload": '{ path = "/unload" }'}
FLEET = {"url": '"https://gpu1:8447"'} | {
    name: f'"/etc/gpumand/fleet/{name}.pem"' for name in ("ca", "certificate", "key")
}
ETCD = ["[fleet.etcd]", 'endpoints = ["https://gpu1:2379"]', 'user = "gpu1"', 'password_file = "/etc/gpumand/fleet/pw"']

NAMES = {"gpu.device.NAME": 'gpu.device."0000:0c:00.0"'}
BEFORE = {
    "consumers.NAME": TABLE_OF_CONSUMER,
    "fleet": ["[fleet]", *(f"{key} = {value}" for key, value in FLEET.items())],
}
"""Table -> lines that its inner tables need before them."""
AFTER = {"consumers.NAME": OTHER, "fleet": ETCD, "fleet.allow": ETCD}
"""Table -> lines that it needs behind it."""

NEEDED: dict[str, dict[str, str]] = {
    "consumers.NAME": CONSUMER,
    "consumers.NAME.health": {"path": '"/health"'},
    "consumers.NAME.busy": {"path": '"/busy"', "pointers": '["/jobs"]'},
    "consumers.NAME.load": {"path": '"/load"'},
    "consumers.NAME.unload": {"path": '"/unload"'},
    "gateway.listeners.NAME": {"listen": '"127.0.0.1:1"'},
    "gateway.models.NAME": {"consumer": '"x"'},
    "gateway.routes.PATH": {"consumer": '"x"'},
    "hooks.NAME": {"command": '["/usr/bin/true"]'},
    "fleet": FLEET,
    "fleet.etcd": {
        "endpoints": '["https://gpu1:2379"]',
        "user": '"gpu1"',
        "password_file": '"/etc/gpumand/fleet/pw"',
    },
}
"""Further keys that a table must have."""

WITH: dict[tuple[str, str], dict[str, str]] = {
    ("consumers.NAME.health", "size"): {"size_vram": '"/size_vram"'},
    ("consumers.NAME.health", "size_vram"): {"size": '"/size"'},
    ("consumers.NAME", "vram_guess_mib"): {"vram_resident_mib": '"auto"'},
    ("consumers.NAME", "model"): {"preset": '"ollama"'},
    ("consumers.NAME", "evict"): UNLOAD,
    ("consumers.NAME", "parks"): UNLOAD,
    ("consumers.NAME", "parked_host_mib"): UNLOAD | {"parks": "true"},
    ("consumers.NAME", "residual_mib"): UNLOAD,
    ("consumers.NAME", "key_header"): {"key_file": '"/etc/gpumand/keys/x"'},
    ("consumers.NAME", "busy_grace_sec"): {"busy": '{ path = "/busy", pointers = ["/jobs"] }'},
    ("consumers.NAME", "busy_after"): {"busy": '{ path = "/busy", pointers = ["/jobs"] }'},
    ("consumers.NAME.health", "loaded_equals"): {"loaded": '"/state"'},
    ("consumers.NAME.health", "unloaded_equals"): {"loaded": '"/state"'},
    ("consumers.NAME.health", "failed_equals"): {"failed": '"/failed"'},
    ("consumers.NAME.health", "loading"): {"loaded": '"/state"'},
    ("consumers.NAME.health", "loading_equals"): {"loaded": '"/state"', "loading": '"/state"'},
    ("consumers.NAME.health", "sleeping_equals"): {"sleeping": '"/sleeping"'},
    ("consumers.NAME.health", "sleeping_path"): {"sleeping": '"/sleeping"'},
    ("consumers.NAME.load", "success_equals"): {"success": '"/status"'},
    ("consumers.NAME.unload", "success_equals"): {"success": '"/status"'},
    ("gateway.listeners.NAME", "reserved_slots"): {"slots": "4"},
    ("http", "allow_remote"): {"listen": '"0.0.0.0:9876"'},
    ("gateway", "require_key"): {"keys_file": '"/etc/gpumand/gateway-keys.toml"'},
    ("gateway", "allow_remote"): {"keys_file": '"/etc/gpumand/gateway-keys.toml"'},
}
"""Key -> keys that it needs beside it."""

ALONE = {("hooks.NAME", "webhook"), ("fleet.etcd", "domain")}
"""Keys that stand in place of those that their table needs otherwise."""


def test_every_key_has_an_example_and_no_example_is_left_over() -> None:
    keys = {(name, key) for name, table in ALL_TABLES.items() for key in keys_of(table)}
    assert set(KEYS) == keys


def document(table: str, key: str, folder: Path) -> str:
    """A configuration with the example of a key, and with all tables and keys that it needs."""
    needed = {} if (table, key) in ALONE else NEEDED.get(table, {}) | WITH.get((table, key), {})
    lines = [f"{name} = {value}" for name, value in needed.items() if name != key]
    head = NAMES.get(table, table.replace("NAME", "x").replace("PATH", '"/v1/tts"'))
    text = [*BEFORE.get(table.rpartition(".")[0], []), f"[{head}]", *lines, example(table, key), *AFTER.get(table, [])]
    return "\n".join(text).replace("/etc/gpumand", str(folder))


def reader(table: str) -> Callable[[Path], Any]:
    first = table.partition(".")[0]
    readers: dict[str, Callable[[Path], Any]] = {"gateway": load_gateway, "hooks": load_hooks, "fleet": load_fleet}
    return readers.get(first, load)


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_example_of_the_key_is_accepted(table: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    for name in ("comfyui", "x", "fleet"):
        (tmp_path / "keys" / name).write_text("secret", encoding="utf-8")
    (tmp_path / "gateway-keys.toml").write_text(API_KEY, encoding="utf-8")
    file = tmp_path / "one.toml"
    file.write_text(document(table, key, tmp_path), encoding="utf-8")
    assert reader(table)(file) is not None


def test_reference_does_not_list_a_key_of_load_routes_for_unload_routes() -> None:
    shown = {
        name: tables_with_examples({name: TABLES[name]}) for name in ("consumers.NAME.load", "consumers.NAME.unload")
    }
    assert [name for name, text in shown.items() if "async_load" in text] == ["consumers.NAME.load"]


def test_reference_shows_the_example_below_its_key() -> None:
    assert "Example: `idle_timeout_sec = 600`" in tables_with_examples(TABLES)


@pytest.mark.parametrize("name", preset_names())
def test_configuration_on_the_page_of_a_preset_is_accepted(name: str, tmp_path: Path) -> None:
    from gpumand.config.presets import preset

    lines = configuration(preset(name))
    assert "\n".join(lines) in preset_pages()[name]
    file = tmp_path / "one.toml"
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / name).write_text("secret", encoding="utf-8")
    file.write_text("\n".join(lines).replace("/etc/gpumand", str(tmp_path)), encoding="utf-8")
    assert load(file).consumers[name].preset == name
