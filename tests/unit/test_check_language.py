"""scripts/check_language.py finds the listed words in the right files, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_language.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("check_language", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def words(script: ModuleType, text: str, file: str = "docs/page.md") -> list[tuple[int, str]]:
    return [(one.line, one.word) for one in script.findings(Path(file), text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Whoever waits gets it.", [(1, "Whoever")]),
        ("One line.\nA lease that nobody holds.", [(2, "nobody")]),
        ("def is_nobody() -> bool:", [(1, "nobody")]),
        ("NOBODY = 1", [(1, "NOBODY")]),
        ("The client is told.", [(1, "is told")]),
        ("# the client is\n# told\n", [(1, "is\n# told")]),
        ("The figures of the driver, and somebody.", [(1, "figures"), (1, "somebody")]),
    ],
)
def test_word_is_found_with_its_line(script: ModuleType, text: str, found: list[tuple[int, str]]) -> None:
    assert words(script, text) == found


@pytest.mark.parametrize(
    "text",
    [
        "recommend, amend and commendable",
        "configures and reconfigures",
        "molested",
        "a goods train",
        "```{figure} a.png",
    ],
)
def test_other_words_are_accepted(script: ModuleType, text: str) -> None:
    assert words(script, text) == []


def test_exception_allows_the_word_only_in_its_file_and_on_its_line(script: ModuleType) -> None:
    line = '{"check": name, "mend": one.fix}'
    assert words(script, line, "gpumand/cli/render/doctor.py") == []
    assert words(script, line, "gpumand/cli/render/plan.py") == [(1, "mend")]
    assert words(script, "how to mend it", "gpumand/cli/render/doctor.py") == [(1, "mend")]


def test_every_exception_is_still_needed(script: ModuleType) -> None:
    texts = [(one.relative_to(ROOT), one.read_text(encoding="utf-8").split("\n")) for one in script.files(ROOT)]
    for exception in script.EXCEPTIONS:
        assert exception.reason
        assert any(exception.matches(file, line) for file, lines in texts for line in lines), exception


def test_every_word_has_a_better_wording(script: ModuleType) -> None:
    for word, better in script.WORDS.items():
        (found,) = script.findings(Path("README.md"), f"a {word.replace(' ', chr(10))} b")
        assert str(found) == f"README.md:1: {word!r}: write {better}"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CHANGELOG.md",
        "docs/guide/page.md",
        "man/gpumand.8.md",
        "gpumand/arbiter/state.py",
        "gpumand/consumers/presets/ollama.toml",
        "dbus/org.gpumand1.Manager.xml",
        "systemd/user/gpumand.service",
        "examples/job.py",
    ],
)
def test_finding_in_a_checked_file_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("fine\nnobody\n", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stdout == f'{name}:2: \'nobody\': write "no consumer", "no process"\n'
    assert done.stderr == "1 found; exceptions are in scripts/check_language.py\n"


def test_other_and_generated_files_are_not_checked(tmp_path: Path) -> None:
    for name in ("tests/test_it.py", "docs/reference/generated/tables.md", "gpumand/__pycache__/it.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("nobody\n", encoding="utf-8")
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
