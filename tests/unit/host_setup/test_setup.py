"""The files of ``gpumanctl setup``: what belongs where, whose files are touched, and what root trusts."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.host_setup import apply, trust
from gpumand.host_setup.apply import apply_steps
from gpumand.host_setup.files import HELPERS, Installation, SetupFile, quoted_paths, system_files, user_files
from gpumand.host_setup.plan import Action, Manifest, Step, installation_steps, removal_steps
from gpumand.host_setup.trust import why_not_trusted

VENV = Installation(Path("/opt/pipx/venvs/gpumand/bin/python"), Path("/opt/pipx/venvs/gpumand/bin"))
ROOT = Path(__file__).parents[3]


class Host:
    """A folder as root of a host, and setup's record in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "gpumand/setup.json"

    def files(self, **contents: str) -> list[SetupFile]:
        return [SetupFile(self.root / "etc" / name, text.encode()) for name, text in contents.items()]

    def install(self, files: list[SetupFile]) -> dict[str, Action]:
        manifest = Manifest.read(self.record)
        steps = installation_steps(files, manifest)
        apply_steps(steps, self.record, manifest)
        return self._actions(steps)

    def remove(self) -> dict[str, Action]:
        manifest = Manifest.read(self.record)
        steps = removal_steps(manifest)
        apply_steps(steps, self.record, manifest)
        return self._actions(steps)

    def text(self, name: str) -> str:
        return (self.root / "etc" / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc" / name).write_text(text, encoding="utf-8")

    @staticmethod
    def _actions(steps: list[Step]) -> dict[str, Action]:
        return {one.place.name: one.action for one in steps}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# -- what belongs where ------------------------------------------------------------------------------------------------


def every_file() -> list[SetupFile]:
    return [*system_files(VENV), *user_files(VENV, Path("/home/alice"), {})]


def test_no_file_names_a_program_of_the_package() -> None:
    for one in every_file():
        code = "\n".join(line for line in one.content.decode().splitlines() if not line.startswith(("#", "//")))
        assert not re.search(r"/usr/(bin|libexec)/gpumand", code), one.place


def test_units_run_the_programs_of_this_installation() -> None:
    files = {one.place: one.content.decode() for one in every_file()}
    unit = files[Path("/usr/local/lib/systemd/system/gpumand.service")]
    assert "\nExecStart=/opt/pipx/venvs/gpumand/bin/gpumand\n" in unit
    helper = files[Path("/usr/local/lib/systemd/system/gpumand-containers.service")]
    assert "\nExecStart=/usr/local/libexec/gpumand-containers\n" in helper
    rules = files[Path("/etc/polkit-1/rules.d/org.gpumand1-units.rules")]
    assert '["/usr/local/libexec/gpumand-unit-allowed", verb, unit]' in rules
    own = files[Path("/home/alice/.local/share/systemd/user/gpumand.service")]
    assert "\nExecStart=/opt/pipx/venvs/gpumand/bin/gpumand --user\n" in own
    containers = files[Path("/home/alice/.local/share/systemd/user/gpumand-containers.service")]
    assert "\nExecStart=/home/alice/.local/share/gpumand/libexec/gpumand-containers --user\n" in containers


def test_helpers_run_with_this_interpreter_isolated_from_the_environment() -> None:
    files = {one.place.name: one for one in system_files(VENV)}
    for name in HELPERS:
        assert files[name].content.startswith(b"#!/opt/pipx/venvs/gpumand/bin/python -I\n")
        assert b"\nmain()\n" in files[name].content
        assert files[name].mode == 0o755


def test_every_unit_and_policy_of_the_package_is_among_the_files() -> None:
    """A file that only the Debian package installs would be missing on all other distributions."""
    sources = [*(ROOT / "systemd").glob("gpumand*"), *(ROOT / "dbus").glob("org.gpumand1*")]
    needed = {one.name for one in sources if one.suffix not in (".xml", ".catalog")}
    needed = {name.replace(".sysusers", ".conf") for name in needed}
    assert needed <= {one.place.name for one in system_files(VENV)}
    assert {one.name for one in (ROOT / "systemd/user").iterdir()} <= {
        one.place.name for one in user_files(VENV, Path("/home/alice"), {})
    }


@pytest.mark.parametrize("path", ["/opt/with space/bin", "/opt/%i/bin", "/opt/$HOME/bin", '/opt/"/bin', "/opt/ü/bin"])
def test_paths_that_units_cannot_contain_are_found(path: str) -> None:
    odd = Installation(Path(path) / "python", Path(path))
    assert quoted_paths(system_files(odd), odd) == [Path(path) / "python", Path(path)]
    assert quoted_paths(system_files(VENV), VENV) == []


# -- whose files are touched -------------------------------------------------------------------------------------------


def test_files_are_created_updated_and_removed_again(host: Host) -> None:
    before = set(host.root.rglob("*"))
    assert host.install(host.files(a="1", b="1")) == {"a": Action.CREATE, "b": Action.CREATE}
    assert host.install(host.files(a="1", b="2")) == {"a": Action.UNCHANGED, "b": Action.UPDATE}
    assert (host.text("a"), host.text("b")) == ("1", "2")
    assert host.remove() == {"a": Action.REMOVE, "b": Action.REMOVE}
    assert set(host.root.rglob("*")) - before == {host.root / "etc"}


def test_files_of_the_administrator_are_neither_replaced_nor_removed(host: Host) -> None:
    host.write("own", "mine")
    host.write("same", "1")
    host.install(host.files(own="1", same="1", changed="1"))
    host.write("changed", "mine")
    assert host.install(host.files(own="2", same="1", changed="2")) == {
        "own": Action.KEEP,
        "same": Action.UNCHANGED,
        "changed": Action.KEEP,
    }
    host.remove()
    assert (host.text("own"), host.text("same"), host.text("changed")) == ("mine", "1", "mine")


def test_a_masked_unit_and_other_links_stay(host: Host) -> None:
    (host.root / "etc").mkdir()
    (host.root / "etc/masked").symlink_to("/dev/null")
    (host.root / "etc/broken").symlink_to(host.root / "nothing")
    assert set(host.install(host.files(masked="1", broken="1")).values()) == {Action.KEEP}
    assert (host.root / "etc/masked").readlink() == Path("/dev/null")
    assert not (host.root / "nothing").exists()


def test_a_configuration_is_written_once_and_then_belongs_to_the_administrator(host: Host) -> None:
    def files(text: str) -> list[SetupFile]:
        return [replace(one, is_configuration=True) for one in host.files(config=text)]

    assert host.install(files("1")) == {"config": Action.CREATE}
    assert host.install(files("2")) == {"config": Action.KEEP}
    assert host.text("config") == "1"


def test_a_file_that_a_later_version_does_not_need_is_removed(host: Host) -> None:
    host.install(host.files(a="1", old="1"))
    assert host.install(host.files(a="1")) == {"a": Action.UNCHANGED, "old": Action.REMOVE}
    assert not (host.root / "etc/old").exists()


@pytest.mark.parametrize("killed_at", range(3))
def test_setup_that_was_killed_is_completed_by_the_next_run(
    host: Host, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.install(host.files(a="1", b="1"))
    writes = iter(range(10))
    original = apply._write

    def write(place: Path, content: bytes, mode: int) -> None:
        if next(writes) == killed_at + 1:
            raise KeyboardInterrupt
        original(place, content, mode)

    monkeypatch.setattr(apply, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        host.install(host.files(a="2", b="2"))
    monkeypatch.undo()

    assert Action.KEEP not in host.install(host.files(a="2", b="2")).values()
    assert (host.text("a"), host.text("b")) == ("2", "2")
    assert host.remove() == {"a": Action.REMOVE, "b": Action.REMOVE}


@pytest.mark.parametrize("record", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_damaged_record_makes_every_file_the_administrators(host: Host, record: str) -> None:
    host.install(host.files(a="1"))
    host.record.write_text(record, encoding="utf-8")
    assert host.install(host.files(a="2")) == {"a": Action.KEEP}


def test_files_have_their_modes_whatever_the_umask(host: Host) -> None:
    before = os.umask(0o077)
    try:
        host.install([replace(one, mode=0o755) for one in host.files(helper="1")])
    finally:
        os.umask(before)
    assert stat.S_IMODE((host.root / "etc/helper").stat().st_mode) == 0o755


# -- which installations root trusts -----------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can create files that belong to root")
    monkeypatch.setattr(trust, "HIDDEN", ())
    folder = tmp_path / "venv"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib/module.py").write_text("", encoding="utf-8")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_an_installation_of_root_is_trusted(installed: Path) -> None:
    assert why_not_trusted([installed]) == ""


@pytest.mark.parametrize("name", [".", "lib", "lib/module.py"])
@pytest.mark.parametrize("change", ["owner", "group", "others"])
def test_an_installation_that_others_can_change_is_not_trusted(installed: Path, name: str, change: str) -> None:
    path = installed / name
    if change == "owner":
        os.chown(path, 1000, 0)
    else:
        path.chmod(path.stat().st_mode | (0o020 if change == "group" else 0o002))
    assert why_not_trusted([installed]) == f"{path} can be changed by users other than root"


def test_a_folder_above_that_others_can_change_is_not_trusted(installed: Path) -> None:
    os.chown(installed.parent, 1000, 0)
    assert why_not_trusted([installed]) == f"{installed.parent} can be changed by users other than root"


def test_an_interpreter_behind_a_link_is_judged_where_it_is(installed: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "python3"
    elsewhere.write_text("", encoding="utf-8")
    elsewhere.chmod(0o777)
    (installed / "python").symlink_to(elsewhere)
    assert why_not_trusted([installed / "python"]) == f"{elsewhere} can be changed by users other than root"


@pytest.mark.parametrize("folder", ["/home/alice/.local/share/pipx", "/root/.local/share/pipx", "/tmp/venv"])
def test_an_installation_that_the_services_cannot_see_is_not_trusted(folder: str) -> None:
    assert "which is hidden from the services" in why_not_trusted([Path(folder)])
