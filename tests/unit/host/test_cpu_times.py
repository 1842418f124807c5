"""Processor time of processes."""

from __future__ import annotations

import os
from pathlib import Path

from gpumand.host.cpu_times import ProcCpuTimes


async def test_own_processor_time_grows_and_that_of_an_ended_process_is_left_out() -> None:
    times = ProcCpuTimes()
    before = (await times.used_sec([os.getpid(), 2**22 + 1]))[os.getpid()]
    end = os.times().user + os.times().system + 0.05
    while os.times().user + os.times().system < end:
        pass

    after = await times.used_sec([os.getpid(), 2**22 + 1])

    assert set(after) == {os.getpid()}
    assert after[os.getpid()] > before


async def test_name_with_spaces_and_parentheses_shifts_no_field(tmp_path: Path) -> None:
    for pid, text in {
        1: "1 (a) b (c) R " + " ".join(str(number) for number in range(4, 40)),
        2: "2 (cut) S 1 2 3",
        3: "",
        4: "4 (x) S 1 2 3 4 5 6 7 8 9 10 many more",
    }.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(text)

    used = await ProcCpuTimes(tmp_path).used_sec([1, 2, 3, 4])

    assert used == {1: (14 + 15) / os.sysconf("SC_CLK_TCK")}
