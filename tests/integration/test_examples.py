"""The examples, unchanged, against the real daemon."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpumand.client import SyncClient
from gpumand.config import load
from gpumand.domain.consumer import EvictionMethod
from gpumand.testing.daemon import PrivateGpumand

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PAIR = EXAMPLES / "comfyui-and-ollama"
SHELL = ["busctl-lease.sh", "gdbus-lease.sh"]
PYTHON = ["job_sync.py", "job_async.py"]
DEADLINE_SEC = 30.0
TOTAL_MIB = 16384

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def gpumand() -> Iterator[PrivateGpumand]:
    with PrivateGpumand({"comfyui": 13312, "ollama": 6144}, total_mib=TOTAL_MIB) as started:
        yield started


@pytest.fixture
def client(gpumand: PrivateGpumand) -> Iterator[SyncClient]:
    with SyncClient(gpumand.address) as connected:
        yield connected
        leases = connected.status().leases
        assert leases == (), "an example left a lease behind"


def start(gpumand: PrivateGpumand, *command: str) -> subprocess.Popen[str]:
    """Start an example with the bus of this gpumand as its system bus."""
    environ = os.environ | gpumand.environ | {"PYTHONPATH": str(REPOSITORY)}
    interpreter = [sys.executable] if command[0].endswith(".py") else []
    pipe = subprocess.PIPE
    line = [*interpreter, str(EXAMPLES / command[0]), *command[1:]]
    return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=environ)


def run(gpumand: PrivateGpumand, *command: str) -> tuple[int, str, str]:
    """Run an example to its end; returns exit status, stdout and stderr."""
    with start(gpumand, *command) as process:
        out, err = process.communicate(timeout=DEADLINE_SEC)
        return process.returncode, out, err


def await_leases(client: SyncClient, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_SEC
    while len(client.status().leases) != count:
        assert time.monotonic() < deadline, f"the number of leases never was {count}"
        time.sleep(0.05)


def test_readme_lists_exactly_the_existing_examples() -> None:
    listed = set(re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text()))
    existing = {f"{one.name}/" if one.is_dir() else one.name for one in EXAMPLES.iterdir()}
    assert listed == existing - {"README.md", "__pycache__"}


@pytest.mark.parametrize("script", SHELL)
def test_shell_script_holds_a_lease_while_its_command_runs(
    gpumand: PrivateGpumand, client: SyncClient, script: str
) -> None:
    client.load("ollama")
    code, out, err = run(gpumand, script, "comfyui", "sh", "-c", "echo $GPUMAND_LEASE; echo $GPUMAND_ENDPOINT")
    assert (code, err) == (0, "")
    lease, endpoint = out.split()
    assert endpoint == gpumand.urls["comfyui"]
    entries = client.history(consumer="comfyui", limit=3)
    assert [(one.kind, one.lease) for one in entries[:2]] == [("end", lease), ("grant", lease)]


@pytest.mark.parametrize("script", SHELL)
def test_shell_script_returns_the_exit_status_of_its_command(
    gpumand: PrivateGpumand, client: SyncClient, script: str
) -> None:
    assert run(gpumand, script, "comfyui", "sh", "-c", "exit 7") == (7, "", "")


@pytest.mark.parametrize("script", SHELL)
def test_terminated_shell_script_releases_its_lease(gpumand: PrivateGpumand, client: SyncClient, script: str) -> None:
    with start(gpumand, script, "comfyui", "sleep", "0.5") as process:
        await_leases(client, 1)
        assert client.status().leases[0].reason == "sleep"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_SEC)
    assert process.returncode == 143
    await_leases(client, 0)


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("script", SHELL)
def test_shell_script_that_is_terminated_before_it_has_read_its_lease_releases_it(
    gpumand: PrivateGpumand, client: SyncClient, tmp_path: Path, script: str, shell: str
) -> None:
    """The tool holds back the reply of Acquire until the signal has been sent."""
    tool, gate = script.partition("-")[0], tmp_path / "gate"
    os.mkfifo(gate)
    held_back = f'out=$({shutil.which(tool)} "$@") || exit\ncase $* in *Acquire*) cat {gate} ;; esac\n'
    (tmp_path / tool).write_text(f'#!/bin/sh\n{held_back}printf "%s\\n" "$out"\n')
    (tmp_path / tool).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environ = os.environ | gpumand.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    command = [shell, str(EXAMPLES / script), "comfyui", "sleep", "60"]
    with subprocess.Popen(command, env=environ) as process:
        await_leases(client, 1)
        process.send_signal(signal.SIGTERM)
        gate.write_text("")
        process.wait(DEADLINE_SEC)
    assert process.returncode == 143
    await_leases(client, 0)


@pytest.mark.parametrize("script", SHELL)
def test_lease_whose_reply_is_lost_ends_after_a_minute(script: str) -> None:
    """A signal to the whole process group ends the tool as well, possibly after the lease was granted."""
    acquire, _, rest = (EXAMPLES / script).read_text().partition("manager Renew")
    assert re.search(r"ttl_usec.{1,12}\b60000000\b", acquire)
    assert " 7200000000 " in rest


@pytest.mark.parametrize("script", [*SHELL, *PYTHON])
def test_unknown_consumer_is_an_error(gpumand: PrivateGpumand, client: SyncClient, script: str) -> None:
    code, out, err = run(gpumand, script, "comfy", "true" if script in SHELL else "1")
    assert code != 0
    assert "comfy" in err
    assert out == ""


def test_python_program_of_the_readme_works(gpumand: PrivateGpumand, client: SyncClient, tmp_path: Path) -> None:
    section = (REPOSITORY / "README.md").read_text().partition("## From Python\n")[2].partition("\n## ")[0]
    program = section.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "readme.py").write_text(program)
    assert run(gpumand, str(tmp_path / "readme.py")) == (0, f"rendering at {gpumand.urls['comfyui']}\n", "")


def test_job_sync_works_and_prints_evicted_consumers(gpumand: PrivateGpumand, client: SyncClient) -> None:
    client.load("ollama")
    code, out, err = run(gpumand, "job_sync.py", "comfyui")
    assert (code, err) == (0, "")
    assert ", evicted: ollama" in out
    assert f"{gpumand.urls['comfyui']} answers 200" in out


def test_job_async_works(gpumand: PrivateGpumand, client: SyncClient) -> None:
    code, out, err = run(gpumand, "job_async.py", "comfyui", "0.2")
    assert (code, err) == (0, "")
    assert out == f"working with comfyui at {gpumand.urls['comfyui']}\n"


def test_job_async_stops_when_its_lease_is_revoked(gpumand: PrivateGpumand, client: SyncClient) -> None:
    with start(gpumand, "job_async.py", "comfyui", "60") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("working with comfyui")
        client.evict("comfyui", force=True)
        _, err = process.communicate(timeout=DEADLINE_SEC)
    assert (process.returncode, err) == (1, "stopped: the lease on comfyui was lost (revoked)\n")


@contextlib.contextmanager
def server(name: str, mib: int, simulated: Path) -> Iterator[str]:
    """Run one of the two servers as a process; yields its URL."""
    flags = ["--mib", str(mib), "--device-total", str(TOTAL_MIB), "--simulator-dir", str(simulated)]
    command = [sys.executable, "-m", "tests.integration.pair_servers", name, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline().partition('port=')[2])}"
        finally:
            process.kill()


def test_comfyui_and_ollama_are_used_in_turn(tmp_path: Path) -> None:
    """The servers fail like CUDA if both are loaded, so a wrong order of operations fails a step."""
    simulated = tmp_path / "simulated"
    with server("comfyui", 13312, simulated) as comfyui, server("ollama", 6144, simulated) as ollama:
        # There is no systemd on this bus; tests/e2e/test_example_pair.py uses the example with its units.
        config = re.sub(r"^unit = .+$", "", (PAIR / "gpumand.toml").read_text(), flags=re.MULTILINE)
        for preset, url in (("comfyui", comfyui), ("ollama", ollama)):
            config = config.replace(f'preset = "{preset}"', f'preset = "{preset}"\nurl = "{url}"')
        with PrivateGpumand({}, total_mib=TOTAL_MIB, config=config, simulated_dir=simulated) as gpumand:
            code, out, err = run(gpumand, "comfyui-and-ollama/alternate.py", "a lighthouse", "a harbour")
            assert (code, err) == (0, "")
            assert out.splitlines() == [
                "a lighthouse: prompt: Describe a painting of a lighthouse in one line.",
                "a lighthouse: pair_job-1.png",
                "a harbour: prompt: Describe a painting of a harbour in one line.",
                "a harbour: pair_job-2.png",
            ]
            with SyncClient(gpumand.address) as client:
                evicted = [one.consumer for one in client.history(kinds=["eviction"])]
                assert evicted == ["ollama", "comfyui", "ollama"]
                assert client.status().leases == ()


@pytest.mark.parametrize("file", [EXAMPLES / "gpumand.toml", PAIR / "gpumand.toml"])
def test_ollama_and_comfyui_of_the_configurations_can_be_evicted_and_have_their_memory_attributed(file: Path) -> None:
    """Without a unit, nothing shows which memory is whose; with vram_managed, ollama is never evicted for ComfyUI."""
    consumers = load(file).consumers
    for name in ("ollama", "comfyui"):
        assert consumers[name].unit == f"{name}.service"
        assert not consumers[name].vram_managed
        assert consumers[name].evict == (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
    load_route = consumers["ollama"].load
    assert load_route is not None
    assert load_route.json == {"model": "llama3.1:8b"}
    assert [one.name for one in consumers.values() if one.vram_managed and not one.unit] == []


def test_model_of_the_program_is_that_of_its_configuration(tmp_path: Path) -> None:
    """The program requests the model that its configuration loads."""
    program = (PAIR / "alternate.py").read_text()
    model = re.search(r'^model = "(.+)"$', (PAIR / "gpumand.toml").read_text(), re.MULTILINE)
    assert model is not None
    assert f'MODEL = "{model[1]}"' in program
