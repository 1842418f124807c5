"""Configured values arrive as values of the domain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpumand.config import load
from gpumand.domain.consumer import (
    UNKNOWN_MIB,
    BusyAfter,
    BusyRoute,
    ConsumerSpec,
    EvictionMethod,
    HealthRoute,
    Overlap,
    Policy,
    Route,
    SchedulerSettings,
    Settings,
)
from gpumand.domain.gpu_settings import DeviceOptions, GpuSettings, PoolChoice
from gpumand.domain.output_settings import HttpSettings

EXAMPLE = Path(__file__).parents[3] / "examples" / "gpumand.toml"


def loaded(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "gpumand.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


MEASURED = '[consumers.tts]\nunit = "t.service"\n'


@pytest.mark.parametrize("line", ["", 'vram_resident_mib = "auto"', "vram_guess_mib = 4000"])
def test_measured_footprint_need_not_be_configured(tmp_path: Path, line: str) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text(MEASURED + line, encoding="utf-8")
    tts = load(file, measured=lambda spec: 5000 if spec.unit == "t.service" else None).consumers["tts"]
    assert (tts.vram_resident_mib, tts.vram_auto) == (4000 if "guess" in line else 5000, True)


@pytest.mark.parametrize("line", ["", 'vram_resident_mib = "auto"'])
def test_footprint_that_is_neither_configured_nor_measured_is_unknown_without_error(tmp_path: Path, line: str) -> None:
    tts = loaded(tmp_path, MEASURED + line).consumers["tts"]
    assert (tts.vram_resident_mib, tts.vram_auto) == (UNKNOWN_MIB, True)


def test_guessed_footprint_is_used_until_it_is_measured(tmp_path: Path) -> None:
    tts = loaded(tmp_path, MEASURED + "vram_guess_mib = 4000").consumers["tts"]
    assert (tts.vram_resident_mib, tts.vram_auto) == (4000, True)


def spec(tmp_path: Path, text: str) -> ConsumerSpec:
    return loaded(tmp_path, f"[consumers.tts]\nvram_resident_mib = 2867\n{text}\n").consumers["tts"]


def test_every_key_of_a_consumer_arrives(tmp_path: Path) -> None:
    text = """
        [consumers.llm]
        vram_resident_mib = 1
        unit = "llm.service"

        [consumers."tts-1.x_y"]
        unit = 'tts@a\\x2db:1.service'
        url = "https://[::1]:9200/base/"
        vram_resident_mib = 2867
        vram_managed = true
        residual_mib = 300
        can_coexist_with = ["llm"]
        evict = ["unit-stop", "http"]
        idle_timeout_sec = 0
        load_timeout_sec = 90
        stop_timeout_sec = 0.5
        priority = -100
        pinned = true
        device = "GPU-8a56a4bc-1184-4f5a-a7d8-2b4bdd52ae3b"

        [consumers."tts-1.x_y".health]
        path = "/health?full=1"
        loaded = "/models/[name=a~1b]/up"
        loaded_equals = 3
        last_used = "/last_used"
        headers.Authorization = "Bearer x=="
        timeout_sec = 1

        [consumers."tts-1.x_y".load]
        path = "/load"
        method = "PUT"
        json = { model = "a", sizes = [1, 2.5, { deep = false }] }
        headers = { X-A = "1", X-B = "zwei" }
        timeout_sec = 86400

        [consumers."tts-1.x_y".unload]
        path = "/"
    """

    assert loaded(tmp_path, text).consumers["tts-1.x_y"] == ConsumerSpec(
        name="tts-1.x_y",
        vram_resident_mib=2867,
        unit="tts@a\\x2db:1.service",
        url="https://[::1]:9200/base",
        health=HealthRoute(
            path="/health?full=1",
            loaded="/models/[name=a~1b]/up",
            loaded_equals=3,
            last_used="/last_used",
            headers=(("Authorization", "Bearer x=="),),
            timeout_sec=1.0,
        ),
        load=Route(
            path="/load",
            method="PUT",
            json={"model": "a", "sizes": [1, 2.5, {"deep": False}]},
            headers=(("X-A", "1"), ("X-B", "zwei")),
            timeout_sec=86400.0,
        ),
        unload=Route(path="/"),
        evict=(EvictionMethod.UNIT_STOP, EvictionMethod.HTTP),
        can_coexist_with=frozenset({"llm"}),
        vram_managed=True,
        residual_mib=300,
        idle_timeout_sec=0.0,
        load_timeout_sec=90.0,
        stop_timeout_sec=0.5,
        priority=-100,
        pinned=True,
        devices=("GPU-8a56a4bc-1184-4f5a-a7d8-2b4bdd52ae3b",),
    )


def test_every_key_of_scheduler_and_gpu_arrives(tmp_path: Path) -> None:
    text = """
        [scheduler]
        cushion_mib = 0
        max_evictions = 7
        settle_timeout_sec = 1
        concurrent_leases = 0
        lease_ttl_sec = 60.5
        health_interval_sec = 0.1
        aging_sec = 9
        policy = "adaptive"
        overtake_budget_sec = 0
        overlap = "measured"
        host_ram_reserve_mib = 1
        min_turn_sec = 7
        [gpu]
        source = "simulated"
        sample_interval_sec = 0.05
        total_mib = 100
        simulated_total_mib = [8192, 8192]
        simulated_dir = "/run/sim"
        idle_release_sec = 0
    """

    settings = loaded(tmp_path, text)

    assert settings.scheduler == SchedulerSettings(
        0, 7, 1.0, 0, 60.5, 0.1, 9.0, Policy.ADAPTIVE, 0.0, Overlap.MEASURED, 1, 7.0
    )
    assert settings.gpu == GpuSettings("simulated", 0.05, 100, (8192, 8192), "/run/sim", 0.0)
    assert settings.gpu.sources == ("simulated",)
    assert type(settings.scheduler.settle_timeout_sec) is float


def test_several_sources_and_options_of_devices_arrive(tmp_path: Path) -> None:
    text = """
        [gpu]
        source = ["nvml", "amdgpu"]
        [gpu.device."PCI-0000:C6:00.0"]
        pool = "vram"
        reserve_mib = 1024
        [gpu.device."AMD-5e1f0c3a9b7d2468"]
        ignore = true
    """

    gpu = loaded(tmp_path, text).gpu

    assert gpu.sources == ("nvml", "amdgpu")
    assert gpu.device == (
        ("PCI-0000:c6:00.0", DeviceOptions(PoolChoice.VRAM, 1024)),
        ("AMD-5e1f0c3a9b7d2468", DeviceOptions(ignore=True)),
    )


@pytest.mark.parametrize(
    ("written", "listen"),
    [
        ('listen = "127.0.0.1:9876"', "127.0.0.1:9876"),
        ('listen = "127.1.2.3:1"', "127.1.2.3:1"),
        ('listen = "[::1]:65535"', "[::1]:65535"),
        ('listen = "[0:0:0:0:0:0:0:1]:80"', "[::1]:80"),
        ('listen = "0.0.0.0:9876"\nallow_remote = true', "0.0.0.0:9876"),
        ('listen = "[2001:db8::1]:9876"\nallow_remote = true', "[2001:db8::1]:9876"),
    ],
)
def test_http_listen_address_arrives(tmp_path: Path, written: str, listen: str) -> None:
    settings = loaded(tmp_path, f"[http]\n{written}\n")
    assert settings.http == HttpSettings(listen, "allow_remote" in written)


def test_http_has_no_listen_address_by_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[gpu]\n").http == HttpSettings("", allow_remote=False)


def test_simulated_size_may_be_a_single_number(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[gpu]\nsimulated_total_mib = 16384\n").gpu.simulated_total_mib == (16384,)


def test_defaults_match_the_domain(tmp_path: Path) -> None:
    expected = ConsumerSpec("tts", 2867, unit="tts.service", evict=(EvictionMethod.UNIT_STOP,))

    assert spec(tmp_path, 'unit = "tts.service"') == expected


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ('url = "http://h"', ()),
        ('unit = "t.service"', (EvictionMethod.UNIT_STOP,)),
        ('url = "http://h"\nunload.path = "/u"', (EvictionMethod.HTTP,)),
        ('url = "http://h"\nunload.path = "/u"\nunit = "t.service"', (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)),
        ('url = "http://h"\nload.path = "/l"\nunit = "t.service"', (EvictionMethod.UNIT_STOP,)),
    ],
)
def test_default_eviction_methods_follow_from_route_and_unit(
    text: str, methods: tuple[EvictionMethod, ...], tmp_path: Path
) -> None:
    assert spec(tmp_path, text).evict == methods


@pytest.mark.parametrize(
    ("written", "device"), [("0", "0"), ('"12"', "12"), ('"SIM-0"', "SIM-0"), ('"MIG-GPU-a/1/0"', "MIG-GPU-a/1/0")]
)
def test_device_is_an_index_or_a_uuid(written: str, device: str, tmp_path: Path) -> None:
    assert spec(tmp_path, f'unit = "t.service"\ndevice = {written}').devices == (device,)


@pytest.mark.parametrize(
    ("written", "devices", "count"),
    [
        ("", (), 1),
        ("device_count = 2", (), 2),
        ("device = [0, 1]", ("0", "1"), 2),
        ('device = [0, "GPU-1", 2]\ndevice_count = 2', ("0", "GPU-1", "2"), 2),
    ],
)
def test_device_count_defaults_to_the_length_of_the_device_list(
    written: str, devices: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    read = spec(tmp_path, f'unit = "t.service"\n{written}')

    assert (read.devices, read.device_count) == (devices, count)


def test_parking_keys_arrive(tmp_path: Path) -> None:
    read = spec(tmp_path, 'url = "http://h"\nunload = { path = "/sleep" }\nparks = true\nparked_host_mib = 900')

    assert (read.parks, read.parked_host_mib) == (True, 900)
    assert not spec(tmp_path, 'preset = "vllm"\nurl = "http://h"\nparks = false').parks


@pytest.mark.parametrize(
    "unit",
    [
        "tts.service",
        "a@b@c.service",
        "-.slice",
        "run-r1.scope",
        "ai.target",
        "a:b_c\\x2d.service",
        "a" * 247 + ".service",
    ],
)
def test_valid_unit_names_are_accepted(unit: str, tmp_path: Path) -> None:
    assert spec(tmp_path, f"unit = '{unit}'").unit == unit


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://127.0.0.1:8188/", "http://127.0.0.1:8188"),
        ("HTTP://localhost", "HTTP://localhost"),
        ("http://tts.local.:1/a/b//", "http://tts.local.:1/a/b"),
    ],
)
def test_trailing_slashes_of_a_url_are_removed(written: str, url: str, tmp_path: Path) -> None:
    assert spec(tmp_path, f'url = "{written}"').url == url


@pytest.mark.parametrize(("written", "value"), [("true", True), ("false", False), ('"loaded"', "loaded"), ("0", 0)])
def test_loaded_equals_keeps_its_type(written: str, value: bool | str | int, tmp_path: Path) -> None:
    text = f'url = "http://h"\nhealth = {{ path = "/", loaded = "/a", loaded_equals = {written} }}'

    health = spec(tmp_path, text).health

    assert health is not None
    assert (type(health.loaded_equals), health.loaded_equals) == (type(value), value)


def test_footprint_as_large_as_the_largest_simulated_device_is_accepted(tmp_path: Path) -> None:
    gpu = '[gpu]\nsource = "simulated"\nsimulated_total_mib = [10, 20]\n'
    text = '[consumers.a]\nvram_resident_mib = 20\nunit = "a.service"\n'

    assert loaded(tmp_path, gpu + text).consumers["a"].vram_resident_mib == 20


def test_total_mib_does_not_limit_other_devices(tmp_path: Path) -> None:
    text = '[gpu]\ntotal_mib = 10\n[consumers.a]\nvram_resident_mib = 20\ndevice = 1\nunit = "a.service"'

    assert loaded(tmp_path, text).consumers["a"].devices == ("1",)


def test_example_file_has_the_consumers_of_the_manual(tmp_path: Path) -> None:
    settings = load(EXAMPLE)

    assert list(settings.consumers) == ["ollama", "comfyui", "mvoice", "coder", "embeddings", "tei"]
    assert settings.scheduler == SchedulerSettings()
    assert settings.gpu == GpuSettings()


def test_commented_lines_of_the_example_are_the_defaults(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    commented = [line for line in lines if re.match(r"# [a-z_]+ = ", line) and "total_mib" not in line]
    text = "\n".join(line.removeprefix("# ") if line in commented else line for line in lines)

    assert len(commented) == 15
    assert loaded(tmp_path, text) == load(EXAMPLE)


def test_busy_keys_arrive(tmp_path: Path) -> None:
    text = """
        url = "http://127.0.0.1:1"
        busy = { path = "/slots", pointers = "/*/is_processing", equals = true, metrics = ["a:b"], timeout_sec = 1 }
        busy_grace_sec = 0
        busy_after = "evict"
        unload = { path = "/u", success = "/ok", success_equals = "yes" }
    """

    one = spec(tmp_path, text)

    assert one.busy == BusyRoute("/slots", ("/*/is_processing",), True, ("a:b",), timeout_sec=1.0)
    assert (one.busy_grace_sec, one.busy_after) == (0.0, BusyAfter.EVICT)
    assert one.unload == Route("/u", success="/ok", success_equals="yes")


def test_api_key_is_added_to_its_header_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    keys = f'url = "http://h"\nheaders = {{ X-Own = "1", authorization = "Basic x" }}\nkey_file = "{tmp_path}/key"'

    one = spec(tmp_path, keys)
    other = spec(tmp_path, keys + '\nkey_header = "X-Admin-Key: {key}"')

    assert one.headers == (("X-Own", "1"), ("Authorization", "Bearer s3cret"))
    assert other.headers == (("X-Own", "1"), ("authorization", "Basic x"), ("X-Admin-Key", "s3cret"))
    assert "s3cret" not in repr(one)
