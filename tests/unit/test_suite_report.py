"""What scripts/test.py says about a suite: a second attempt is named, and never makes a failed test pass."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test.py"
FLAKY = """
from pathlib import Path
import pytest

def test_fails_once():
    mark = Path(__file__).with_name("mark")
    first = not mark.exists()
    mark.touch()
    assert not first

def test_fails_always():
    raise AssertionError("always")

@pytest.mark.parametrize("number", range({number}))
def test_fails_too(number):
    raise AssertionError("always")

def test_skipped():
    pytest.skip("no GPU")
"""


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    found = importlib.util.spec_from_file_location("gpumand_test_runner", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("attempts", "names"), [(1, ["test_fails_once"]), (0, [])])
def test_test_that_needed_a_second_attempt_is_named_and_a_failing_one_still_fails(
    runner: ModuleType, tmp_path: Path, attempts: int, names: list[str]
) -> None:
    tests = tmp_path / "test_flaky.py"
    tests.write_text(FLAKY.format(number=1), encoding="utf-8")
    step = runner.suite(tmp_path, "integration", second_attempts=attempts * runner.SECOND_ATTEMPTS)
    step.command = [*(str(tests) if str(part) == "tests/integration" else part for part in step.command)]
    runner.Runner().run(step)
    assert not step.passed
    report = runner.read_report(step.report)
    assert [one.rpartition("::")[2] for one in report.second_attempts] == names
    assert report.total == 4
    assert report.skipped == {"no GPU": 1}
    named = [line for line in step.summary() if "passed only at the second attempt" in line]
    assert [line.rpartition("::")[2] for line in named] == names


def test_number_of_second_attempts_is_limited(runner: ModuleType, tmp_path: Path) -> None:
    tests = tmp_path / "test_broken.py"
    tests.write_text(FLAKY.format(number=20), encoding="utf-8")
    step = runner.suite(tmp_path, "integration")
    step.command = [*(str(tests) if str(part) == "tests/integration" else part for part in step.command)]
    step.command[step.command.index(f"--numprocesses={runner.WORKERS}")] = "--numprocesses=1"
    runner.Runner().run(step)
    assert not step.passed
    assert step.log.read_text(encoding="utf-8").count("\nRERUN ") == runner.SECOND_ATTEMPTS
