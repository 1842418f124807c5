"""Which units the user of gpumand may start and stop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumand import config
from gpumand.root_helpers import trusted_files, unit_allowed
from gpumand.root_helpers.unit_allowed import is_allowed


class Host:
    """Configuration files and unit files in a temporary directory."""

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.units = folder / "units"
        self.units.mkdir()
        self._folder = folder

    def configure(self, text: str, mode: int = 0o644) -> Path:
        file = self._folder / f"{len(self.files)}.toml"
        file.write_text(text)
        file.chmod(mode)
        self.files.append(file)
        return file

    def unit_file(self, name: str) -> None:
        (self.units / name).write_text("[Service]\nExecStart=true\n")

    def allows(self, verb: str, unit: str, owner_uid: int | None = None) -> bool:
        uid = os.getuid() if owner_uid is None else owner_uid
        return is_allowed(verb, unit, self.files, [self.units], uid)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    instance = Host(tmp_path)
    instance.configure('[consumers.a]\nunit = "a.service"\n[consumers.b]\nunit = "vllm@b.service"\n[consumers.c]\n')
    for name in ("a.service", "vllm@.service", "other.service"):
        instance.unit_file(name)
    return instance


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
@pytest.mark.parametrize("unit", ["a.service", "vllm@b.service"])
def test_unit_of_a_consumer_is_allowed(host: Host, verb: str, unit: str) -> None:
    assert host.allows(verb, unit)


@pytest.mark.parametrize("unit", ["other.service", "vllm@other.service", "a", "A.service", "", "../a.service", "a.*"])
def test_other_unit_is_refused(host: Host, unit: str) -> None:
    assert not host.allows("stop", unit)
    assert not host.allows("start", unit)


@pytest.mark.parametrize("verb", ["", "reload", "kill", "set-property", "clean", "START"])
def test_other_verb_is_refused(host: Host, verb: str) -> None:
    assert not host.allows(verb, "a.service")


def test_unit_without_unit_file_may_be_stopped_but_not_started(host: Host) -> None:
    host.configure('[consumers.d]\nunit = "d.service"\n[consumers.e]\nunit = "absent@e.service"\n')
    for unit in ("d.service", "absent@e.service"):
        assert host.allows("stop", unit)
        assert not host.allows("start", unit)
        assert not host.allows("restart", unit)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_file_writable_by_others_is_ignored(host: Host, mode: int) -> None:
    host.configure('[consumers.x]\nunit = "other.service"\n', mode)
    assert not host.allows("stop", "other.service")
    assert host.allows("stop", "a.service")


def test_file_of_another_owner_is_ignored(host: Host) -> None:
    assert not host.allows("stop", "a.service", owner_uid=os.getuid() + 1)


@pytest.mark.parametrize(
    "text",
    [
        "not [ toml",
        "consumers = 1",
        "[consumers]\nx = 'other.service'",
        "[consumers.x]\nunit = ['other.service']",
        "\0",
        f"x = {'[' * 10_000}",
    ],
)
def test_malformed_file_does_not_affect_other_files(host: Host, text: str) -> None:
    host.configure(text)
    assert not host.allows("stop", "other.service")
    assert host.allows("stop", "a.service")


def test_missing_file_is_ignored(host: Host) -> None:
    host.files.append(host.units / "absent.toml")
    assert host.allows("stop", "a.service")


def test_configuration_files_are_those_of_the_daemon() -> None:
    assert (trusted_files.DEFAULT_FILE, trusted_files.DEFAULT_FOLDER) == (config.DEFAULT_FILE, config.DEFAULT_FOLDER)


def test_directories_of_transient_units_are_not_searched() -> None:
    assert not any("transient" in str(folder) for folder in unit_allowed.UNIT_FOLDERS)


@pytest.mark.parametrize("arguments", [[], ["start"], ["start", "a.service", "b.service"]])
def test_command_requires_a_verb_and_a_unit(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        unit_allowed.main(arguments)
    assert end.value.code not in (0, None)


def test_command_refuses_an_unconfigured_unit() -> None:
    with pytest.raises(SystemExit) as end:
        unit_allowed.main(["start", "gpumand-no-such-unit.service"])
    assert end.value.code == 1
