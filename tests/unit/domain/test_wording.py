"""Messages that list what holds VRAM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain import budget
from gpumand.domain.decision import Requirement
from gpumand.domain.device import ProcessUse
from gpumand.domain.errors import InsufficientVram
from gpumand.domain.planning import decide
from gpumand.domain.wording import describe_process

from .build import absent, view


@pytest.mark.parametrize(
    ("process", "label"),
    [
        (ProcessUse(7, 1, "firefox", "s.scope", uid=1000, user="alice"), "firefox (user alice, unit s.scope, pid 7)"),
        (ProcessUse(7, 1, "firefox", uid=1000), "firefox (user 1000, pid 7)"),
        (ProcessUse(7, 1, uid=0), "a process (user 0, pid 7)"),
        (ProcessUse(7, 1), "a process (pid 7)"),
    ],
)
def test_a_foreign_process_is_described_by_everything_known(process: ProcessUse, label: str) -> None:
    assert describe_process(process) == label


def test_a_refusal_names_foreign_processes_with_their_users() -> None:
    state = view(absent("new", 24000))
    processes = (
        ProcessUse(8, 300, "Xorg", "display.service", uid=0, user="root"),
        ProcessUse(7, 2150, "firefox", "session-2.scope", uid=1000, user="alice"),
        ProcessUse(9, None, "shy"),
    )
    sample = replace(state.devices[0].with_processes(processes), free_mib=22000, used_mib=2564)

    decision = decide(replace(state, devices={0: sample}), Requirement("new"))

    assert decision.error is InsufficientVram
    assert decision.message.endswith(
        "held: 2.1 GiB by firefox (user alice, unit session-2.scope, pid 7), "
        "300 MiB by Xorg (user root, unit display.service, pid 8). Stop foreign processes to make room."
    )


def test_foreign_processes_are_sorted_by_size_with_unknown_sizes_last() -> None:
    processes = (ProcessUse(1, None), ProcessUse(2, 5), ProcessUse(3, 9, consumer="c"), ProcessUse(4, 7))
    sample = view().devices[0].with_processes(processes)

    assert [one.pid for one in budget.foreign_processes(sample)] == [4, 2, 1]
