"""/proc is read with the rights of the user, and never believed for another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gpumand.cli.top.processes import MAX_COMMAND, MAX_PROCESSES, Expected, ProcessReader, expected_in
from tests.unit.cli.top import busy_host

PYTHON = Expected("python3")

STAT = "7 ({comm}) S 1 7 7 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 {started} 0 {pages} 0"


def write(
    root: Path, pid: int, *, comm: str = "python3", ticks: int = 0, started: int = 5, command: bytes = b"a"
) -> None:
    folder = root / str(pid)
    folder.mkdir(exist_ok=True)
    text = STAT.format(comm=comm, user=ticks, system=0, started=started, pages=512)
    (folder / "stat").write_text(text)
    (folder / "status").write_text("Name:\tx\nUid:\t1000\t1000\t1000\t1000\n")
    (folder / "cmdline").write_bytes(command)


def test_command_line_of_an_own_process() -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--model", "a b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        facts = ProcessReader().read({process.pid: Expected(Path(os.readlink(f"/proc/{process.pid}/exe")).name)})
        process.communicate()
    assert facts[process.pid].command.endswith("--model a b")
    assert facts[process.pid].ram_mib > 0
    assert facts[process.pid].cpu_percent is None


def test_cpu_time_is_measured_between_two_looks(tmp_path: Path) -> None:
    reader = ProcessReader(str(tmp_path))
    write(tmp_path, 7)
    assert reader.read({7: PYTHON})[7].cpu_percent is None
    look = reader._looks[7]
    reader._looks[7] = type(look)(look.at - 10.0, look.ticks, look.started, None)
    write(tmp_path, 7, ticks=5 * os.sysconf("SC_CLK_TCK"))
    percent = reader.read({7: PYTHON})[7].cpu_percent
    assert percent is not None
    assert 45 < percent <= 50
    assert reader.read({7: PYTHON})[7].cpu_percent == percent  # too soon for another measurement


def test_reused_pid_starts_again(tmp_path: Path) -> None:
    reader = ProcessReader(str(tmp_path))
    write(tmp_path, 7, ticks=100)
    reader.read({7: PYTHON})
    write(tmp_path, 7, ticks=5000, started=99)
    assert reader.read({7: PYTHON})[7].cpu_percent is None


def test_process_of_another_name_is_not_the_one_of_the_daemon(tmp_path: Path) -> None:
    write(tmp_path, 7, comm="sshd", command=b"sshd: secret\0")
    assert ProcessReader(str(tmp_path)).read({7: PYTHON}) == {}


def test_process_of_the_reported_user_is_recognised_whatever_it_calls_itself(tmp_path: Path) -> None:
    write(tmp_path, 7, comm="VLLM::EngineCor", command=b"VLLM::EngineCore\0")
    reader = ProcessReader(str(tmp_path))
    assert reader.read({7: Expected("python3.11", 1000)})[7].command == "VLLM::EngineCore"
    assert reader.read({7: Expected("python3.11", 1000)})[7].uid == 1000
    assert reader.read({7: Expected("VLLM::EngineCore", 0)}) == {}


def test_process_that_the_simulator_names_is_believed(tmp_path: Path) -> None:
    write(tmp_path, 7)
    assert set(ProcessReader(str(tmp_path)).read({7: Expected("comfyui", is_simulated=True)})) == {7}


def test_names_that_the_kernel_cuts_and_programs_match(tmp_path: Path) -> None:
    write(tmp_path, 7, comm="ollama_llama_se", command=b"/usr/lib/ollama/ollama_llama_server\0--port\0001\0")
    write(tmp_path, 8, comm="a) b", command=b"\0")
    reader = ProcessReader(str(tmp_path))
    assert set(reader.read({7: Expected("ollama_llama_server"), 8: Expected("a) b")})) == {7, 8}


def test_vanished_and_unreadable_processes_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, 7)
    (tmp_path / "7" / "stat").write_text("7 (python3) S")
    assert ProcessReader(str(tmp_path)).read({7: PYTHON, 8: Expected("gone")}) == {}


def test_long_command_lines_and_lists_are_capped(tmp_path: Path) -> None:
    write(tmp_path, 1, command=b"x" * 100_000)
    for pid in range(2, MAX_PROCESSES + 50):
        write(tmp_path, pid)
    found = ProcessReader(str(tmp_path)).read(dict.fromkeys(range(1, MAX_PROCESSES + 50), PYTHON))
    assert len(found) == MAX_PROCESSES
    assert len(found[1].command) == MAX_COMMAND


def test_names_come_from_all_devices_and_units_as_a_whole_have_none() -> None:
    whole = busy_host.process(0, "", 5, unit="a.service")
    devices = [busy_host.device(), busy_host.device(1, processes=[whole], foreign=[])]
    assert expected_in({"devices": devices})[4101] == Expected("python3", 1000)
    assert 0 not in expected_in({"devices": devices})
    assert expected_in({}) == {}
