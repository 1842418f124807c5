"""Which files are read, in which order, how their tables are merged, and which files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gpumand.config
from gpumand.config import ConfigProblem, ConfigProblems, load
from gpumand.config.files import OTHER_PROGRAMS
from gpumand.domain.consumer import SchedulerSettings, Settings
from gpumand.domain.gpu_settings import GpuSettings

TTS = '[consumers.tts]\nvram_resident_mib = 2867\nunit = "tts.service"\n'
LLM = '[consumers.llm]\nvram_resident_mib = 6144\nunit = "llm.service"\n'


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that replaces /etc/gpumand."""
    monkeypatch.setattr(gpumand.config, "DEFAULT_FILE", tmp_path / "gpumand.toml")
    monkeypatch.setattr(gpumand.config, "DEFAULT_FOLDER", tmp_path / "conf.d")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path | None) -> tuple[ConfigProblem, ...]:
    with pytest.raises(ConfigProblems) as caught:
        load(path)
    return caught.value.problems


def test_default_paths_match_the_manual() -> None:
    assert Path("/etc/gpumand/gpumand.toml") == gpumand.config.DEFAULT_FILE
    assert Path("/etc/gpumand/conf.d") == gpumand.config.DEFAULT_FOLDER


def test_missing_files_give_default_settings(etc: Path) -> None:
    assert load() == Settings(SchedulerSettings(), GpuSettings(), {})


def test_empty_file_gives_default_settings(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a.toml", "")) == Settings()


def test_main_file_comes_before_drop_ins_in_name_order(etc: Path) -> None:
    write(etc / "conf.d" / "20-a.toml", TTS)
    write(etc / "conf.d" / "10-b.toml", LLM)
    write(etc / "gpumand.toml", '[consumers.first]\nvram_resident_mib = 1\nunit = "f.service"\n')

    assert list(load().consumers) == ["first", "llm", "tts"]


def test_drop_ins_are_read_without_a_main_file(etc: Path) -> None:
    write(etc / "conf.d" / "tts.toml", TTS)

    assert list(load().consumers) == ["tts"]


def test_user_option_reads_the_users_files_and_not_the_systems(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(etc / "gpumand.toml", TTS)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert load(user=True) == Settings()
    write(tmp_path / "config" / "gpumand" / "conf.d" / "llm.toml", LLM)
    assert list(load(user=True).consumers) == ["llm"]
    write(tmp_path / "config" / "gpumand" / "gpumand.toml", TTS)
    assert list(load(user=True).consumers) == ["tts", "llm"]
    assert list(load(etc / "gpumand.toml", user=True).consumers) == ["tts"]


@pytest.mark.parametrize("config_home", ["", "relative", None])
def test_user_folder_is_dot_config_without_a_valid_xdg_config_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_home: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if config_home is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", config_home)
    assert gpumand.config.user_folder() == tmp_path / ".config" / "gpumand"


def test_hidden_and_other_files_are_not_drop_ins(etc: Path) -> None:
    for name in (".hidden.toml", "tts.toml.dpkg-old", "tts.toml~", "README"):
        write(etc / "conf.d" / name, "not = valid = toml")

    assert load() == Settings()


def test_folder_with_conf_d_is_read_like_etc_gpumand(tmp_path: Path) -> None:
    write(tmp_path / "conf.d" / "a.toml", TTS)
    write(tmp_path / "gpumand.toml", LLM)
    write(tmp_path / "old.toml", "not = valid = toml")

    assert list(load(tmp_path).consumers) == ["llm", "tts"]


def test_files_of_other_programs_beside_the_main_file_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "gpumand.toml", LLM)
    write(tmp_path / "tts.toml", TTS)
    for name in OTHER_PROGRAMS:
        write(tmp_path / name, "[gateway]\n[fleet]\n[hooks]\n")

    assert list(load(tmp_path).consumers) == ["llm", "tts"]


def test_file_with_the_name_of_another_program_is_read_where_it_cannot_be_that(tmp_path: Path) -> None:
    write(tmp_path / "gateway.toml", LLM)

    assert list(load(tmp_path).consumers) == ["llm"]


def test_any_other_folder_is_read_in_name_order(tmp_path: Path) -> None:
    write(tmp_path / "b.toml", TTS)
    write(tmp_path / "a.toml", LLM)

    assert list(load(tmp_path).consumers) == ["llm", "tts"]


def test_tables_of_several_files_are_merged(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", "[scheduler]\ncushion_mib = 1\n[gpu]\nsource = 'none'\n")
    write(tmp_path / "b.toml", "[scheduler]\nmax_evictions = 2\n[gpu]\ntotal_mib = 3\n")

    settings = load(tmp_path)

    assert settings.scheduler == SchedulerSettings(cushion_mib=1, max_evictions=2)
    assert settings.gpu == GpuSettings(source="none", total_mib=3)


def test_key_set_in_two_files_is_refused_and_names_both_places(tmp_path: Path) -> None:
    first = write(tmp_path / "a.toml", "\n[scheduler]\ncushion_mib = 1\n")
    second = write(tmp_path / "b.toml", "[scheduler]\nmax_evictions = 2\ncushion_mib = 1\n")

    (problem,) = problems_of(tmp_path)

    assert (problem.file, problem.line, problem.key) == (str(second), 3, "scheduler.cushion_mib")
    assert problem.message == f"is already set at {first}:3: remove one of the two"


def test_consumer_in_two_files_is_refused_and_names_both_places(tmp_path: Path) -> None:
    first = write(tmp_path / "a.toml", "\n" + TTS)
    second = write(tmp_path / "b.toml", "[consumers.tts]\nvram_resident_mib = 0\nunit = 'other.service'\n")

    footprint, twice = sorted(problems_of(tmp_path), key=lambda problem: problem.line, reverse=True)

    assert (twice.file, twice.line, twice.key) == (str(second), 1, "consumers.tts")
    assert twice.message == f"is already configured at {first}:2: remove one of the two"
    assert footprint.key == "consumers.tts.vram_resident_mib", "problems of the second table are reported too"


def test_consumer_of_another_file_may_be_named(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", TTS + 'can_coexist_with = ["llm"]\n')
    write(tmp_path / "b.toml", LLM)

    assert load(tmp_path).consumers["tts"].can_coexist_with == {"llm"}


def test_unit_may_serve_several_consumers(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", TTS)
    write(tmp_path / "b.toml", LLM.replace("llm.service", "tts.service"))

    assert {spec.unit for spec in load(tmp_path).consumers.values()} == {"tts.service"}


def test_problems_of_all_files_are_reported_in_reading_order(tmp_path: Path) -> None:
    write(tmp_path / "conf.d" / "a.toml", "[gpu]\nsource = 1\n")
    write(tmp_path / "conf.d" / "b.toml", "broken")
    write(tmp_path / "gpumand.toml", "\n[scheduler]\nmax = 1\ncushion = 2\n")

    found = [(Path(problem.file).name, problem.line) for problem in problems_of(tmp_path)]

    assert found == [("gpumand.toml", 3), ("gpumand.toml", 4), ("a.toml", 2), ("b.toml", 1)]


def test_name_is_not_called_unknown_if_an_unreadable_file_may_define_it(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", TTS + 'can_coexist_with = ["llm"]\n')
    write(tmp_path / "b.toml", LLM + "oops")

    (problem,) = problems_of(tmp_path)

    assert (Path(problem.file).name, problem.line) == ("b.toml", 4)


def test_invalid_consumer_is_still_a_known_name(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", TTS + 'can_coexist_with = ["llm"]\n')
    write(tmp_path / "b.toml", LLM.replace("6144", "-1"))

    (problem,) = problems_of(tmp_path)

    assert problem.key == "consumers.llm.vram_resident_mib"


def test_missing_path_is_reported(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "none.toml")

    assert str(problem) == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"


def test_default_file_that_is_a_dangling_link_is_reported(etc: Path) -> None:
    (etc / "gpumand.toml").symlink_to(etc / "gone.toml")

    (problem,) = problems_of(None)

    assert "No such file" in problem.message


def test_symbolic_links_are_followed(etc: Path) -> None:
    (etc / "gpumand.toml").symlink_to(write(etc / "elsewhere" / "g.toml", TTS))

    assert list(load().consumers) == ["tts"]


def test_link_to_itself_is_reported_and_the_other_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    write(tmp_path / "z.toml", "[sheduler]\n")

    loop, unknown = problems_of(tmp_path)

    assert (loop.line, loop.message) == (0, "cannot be read: Too many levels of symbolic links")
    assert unknown.hint == "scheduler"


def test_folder_with_the_name_of_a_file_is_refused(etc: Path) -> None:
    (etc / "conf.d" / "a.toml").mkdir(parents=True)

    (problem,) = problems_of(None)

    assert problem.message == "cannot be read: not a regular file"


def test_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")

    (problem,) = problems_of(tmp_path)

    assert problem.message == "cannot be read: not a regular file"


def test_drop_in_folder_that_is_a_file_is_refused(etc: Path) -> None:
    write(etc / "conf.d", "")

    (problem,) = problems_of(None)

    assert problem.message == "cannot be listed: Not a directory"


def test_file_of_one_mebibyte_is_read_and_a_larger_one_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", TTS + "#" * (1024 * 1024 - len(TTS)))
    assert list(load(file).consumers) == ["tts"]

    write(file, TTS + "#" * (1024 * 1024 - len(TTS) + 1))
    (problem,) = problems_of(file)

    assert problem.message == "is larger than 1024 KiB, the maximum"


def test_more_than_512_files_are_refused(tmp_path: Path) -> None:
    for number in range(513):
        (tmp_path / f"{number:03}.toml").touch()

    (problem,) = problems_of(tmp_path)

    assert (problem.file, problem.message) == (str(tmp_path), "contains 513 files, more than the maximum of 512")

    (tmp_path / "000.toml").unlink()
    assert load(tmp_path) == Settings()


def test_crlf_line_endings_keep_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"[scheduler]\r\n\r\ncushion = 1\r\n")

    (problem,) = problems_of(file)

    assert problem.line == 3
