"""``gpumanctl simulate``: tables, JSON, and one-line errors for unreadable files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpumand.cli.app import gpumanctl
from gpumand.cli.commands.simulate import KINDS, POLICIES
from gpumand.simulation.generate import GENERATORS
from gpumand.simulation.report import POLICY_NAMES

HOST = "devices = [10]\n" + "".join(
    f"[consumers.{name}]\nvram_resident_mib = 8\nload_sec = 5\nunload_sec = 1\n" for name in "ab"
)
DEMAND = "".join(
    json.dumps({"t": t, "consumer": name, "hold_sec": 10}) + "\n" for t, name in ((0, "a"), (2, "b"), (3, "a"))
)


ONE_AT_A_TIME = ("--concurrent-leases", "1", "--min-turn", "0")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "host.toml").write_text(HOST)
    (tmp_path / "demand.jsonl").write_text(DEMAND)
    return [
        str(tmp_path / "demand.jsonl"),
        "--consumers",
        str(tmp_path / "host.toml"),
        "--cushion",
        "0",
        *ONE_AT_A_TIME,
    ]


def simulated(*args: str) -> Result:
    return CliRunner().invoke(gpumanctl, ["simulate", *args])


def test_options_offer_every_generator_and_policy() -> None:
    assert (tuple(KINDS), tuple(POLICIES)) == (tuple(GENERATORS), tuple(POLICY_NAMES))


def test_demand_from_a_file_as_json(files: list[str]) -> None:
    result = simulated(*files, "--json", "--policy", "lru", "--policy", "adaptive")

    assert result.exit_code == 0, result.output
    lru, adaptive = json.loads(result.output)["policies"]
    assert (lru["policy"], adaptive["policy"]) == ("lru", "adaptive")
    assert lru["requests"] == 3
    assert lru["total_wait_sec"] == pytest.approx(5 + (15 - 2 + 6) + (31 - 3 + 6))
    assert lru["evictions"] == 2
    assert adaptive["total_wait_sec"] == pytest.approx(5 + (15 - 3) + (25 - 2 + 6)), "the second a passes b"
    assert adaptive["ratios"]["total_wait_sec"] == pytest.approx(46 / 58, abs=1e-4)
    wanted = {"mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec", "evictions", "load_seconds"}
    assert wanted <= lru.keys()


def test_the_table_has_one_line_per_policy() -> None:
    result = simulated("--generate", "pipeline", "--requests", "50")

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == ["POLICY", *POLICIES]
    assert " x" not in lines[1]
    assert all(" x" in line for line in lines[2:])


def test_the_same_seed_gives_the_same_result() -> None:
    first, second, other = (
        simulated("--generate", "zipf", "--requests", "60", "--seed", seed, "--json").output for seed in "112"
    )

    assert first == second != other


@pytest.mark.parametrize("overtake", ["0", "30"])
def test_the_overtake_budget_is_applied(files: list[str], overtake: str) -> None:
    result = simulated(*files, "--policy", "adaptive", "--overtake-budget", overtake, "--json")

    waited = json.loads(result.output)["policies"][0]["total_wait_sec"]
    assert waited == pytest.approx(46 if overtake == "30" else 58)


def test_wrong_usage_exits_2_in_simulate(files: list[str]) -> None:
    for args in (
        [],
        ["--generate", "zipf", *files],
        files[:1],
        ["--generate", "nothing"],
        [*files, "--policy", "fifo"],
    ):
        assert simulated(*args).exit_code == 2, args


@pytest.mark.parametrize(
    ("name", "content"),
    [("host.toml", "nonsense"), ("demand.jsonl", "{}"), ("demand.jsonl", DEMAND.replace('"b"', '"stranger"'))],
)
def test_a_file_that_cannot_be_used_is_named(files: list[str], name: str, content: str) -> None:
    path = Path(files[0]).with_name(name)
    path.write_text(content)

    result = simulated(*files)

    assert result.exit_code == 2
    assert str(path) in str(result.exception) or str(path) in result.output


def test_a_file_that_cannot_be_parsed_is_named_in_one_line(files: list[str]) -> None:
    host, demand = Path(files[2]), Path(files[0])
    for path, content in ((demand, b"\xff\xfe\n"), (host, b"devices = " + b"[" * 100_000)):
        before = path.read_bytes()
        path.write_bytes(content)
        result = simulated(*files)
        path.write_bytes(before)

        assert result.exit_code == 2
        assert str(path) in str(result.exception) or str(path) in result.output
        assert "\n" not in str(result.exception)


CONFIG = """
[scheduler]
cushion_mib = 0
concurrent_leases = 2
overlap = "on"
[gpu]
total_mib = 20000
[consumers.a]
vram_resident_mib = 8000
unit = "a.service"
device = "GPU-5"
[consumers.b]
vram_resident_mib = 8000
unit = "b.service"
device = "GPU-5"
[consumers.ollama]
vram_resident_mib = 6144
unit = "ollama.service"
vram_managed = true
"""


def test_a_demand_log_is_replayed_with_the_daemons_configuration(files: list[str]) -> None:
    """Requests for self-managed consumers are skipped with a message, UUIDs count as devices, settings are defaults."""
    folder = Path(files[0]).with_name("conf")
    folder.mkdir()
    (folder / "gpumand.toml").write_text(CONFIG)
    Path(files[0]).write_text(DEMAND + '{"t": 4, "consumer": "ollama", "hold_sec": 1, "priority": 0}\n')

    result = simulated(files[0], "--consumers", str(folder), "--policy", "lru", "--json")

    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)["policies"][0]
    assert (metrics["requests"], metrics["refused"], metrics["evictions"]) == (3, 0, 0)
    assert result.stderr == "Skipped 1 request for a consumer with vram_managed = true: ollama\n"
    one_at_a_time = simulated(
        files[0], "--consumers", str(folder), "--policy", "lru", "--json", "--concurrent-leases=1"
    )
    assert json.loads(one_at_a_time.stdout)["policies"][0]["total_wait_sec"] > metrics["total_wait_sec"]


def test_load_times_are_estimated_for_a_daemon_configuration(files: list[str]) -> None:
    config = Path(files[0]).with_name("gpumand.toml")
    tables = "".join(f'[consumers.{name}]\nvram_resident_mib = 8000\nunit = "{name}.service"\n' for name in "ab")
    config.write_text("[scheduler]\ncushion_mib = 0\n" + tables)

    words = ("--consumers", str(config), "--device-mib", "10000", "--policy", "lru", "--json")
    result = simulated(files[0], *words, *ONE_AT_A_TIME)

    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["policies"][0]["loads"] == 3
