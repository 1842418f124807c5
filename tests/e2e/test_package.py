"""The Debian package: build, lintian, installation on Debian 12 and 13, upgrade under load, removal and purge."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from gpumand.version import VERSION
from tests.e2e import debian as packages
from tests.e2e.client import MANAGER, NAME, ROOT, Client
from tests.e2e.container import REPOSITORY
from tests.e2e.debfile import dependencies
from tests.e2e.debian import APT, TEST_PACKAGES, Package, install, put, traces, why_no_package
from tests.e2e.machine import Machine
from tests.e2e.trees import tree, why_no_tree

SUITES = ("bookworm", "trixie")
WHY_NOT = why_no_package() or why_no_tree()
CONFIG = "/etc/gpumand/gpumand.toml"
DROP_IN = "/etc/gpumand/conf.d/e2e.toml"
VRAM_DIR = "/run/e2e-vram"
HOLDER = f"/usr/bin/python3 -m gpumand.testing.consumer --simulator-dir={VRAM_DIR} --mib=16000 --loaded-at-start"
UNITS = ("gpumand.service", "gpumand.socket", "gpumand-containers.socket")

pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"e2e: {WHY_NOT}"),
    pytest.mark.timeout(900),  # the first time, a tree is made
]


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The package of this checkout, with its source package."""
    return packages.build(REPOSITORY, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def earlier(current: Package, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The same package with a lower version."""
    return packages.build_earlier(current, tmp_path_factory.mktemp("earlier"))


def booted(suite: str, package: Package) -> Iterator[Machine]:
    one = Machine(tree(suite, (*TEST_PACKAGES, *dependencies(package.deb))))
    one.boot()
    one.remove("/var/lib/man-db/auto-update")  # indexing manuals takes longer than the rest of an installation
    try:
        yield one
    finally:
        one.kill()


@pytest.fixture(params=SUITES)
def debian(request: pytest.FixtureRequest, current: Package) -> Iterator[Machine]:
    """A fresh Debian with the dependencies of the package, without gpumand."""
    yield from booted(request.param, current)


@pytest.fixture(scope="module", params=SUITES)
def installed(request: pytest.FixtureRequest, current: Package) -> Iterator[Machine]:
    """A fresh Debian with the package installed; shared by tests that do not change it."""
    for one in booted(request.param, current):
        install(one, current)
        yield one


def simulate(machine: Machine, *names: str) -> None:
    """Configure a simulated device and consumers of which only one fits at a time."""
    config = f'[gpu]\nsource = "simulated"\nsimulated_total_mib = 24576\nsimulated_dir = "{VRAM_DIR}"\n'
    machine.run(["mkdir", "-p", VRAM_DIR])
    for name in names:
        config += f'[consumers.{name}]\nvram_resident_mib = 16000\nunit = "{name}.service"\n'
        unit = f"[Service]\nType=exec\nExecStart={HOLDER} --name={name}\n"
        machine.write_file(f"/run/systemd/system/{name}.service", unit)
    machine.write_file(DROP_IN, config)
    machine.systemctl("daemon-reload")
    machine.systemctl("reload-or-restart", "gpumand.service")


def state(machine: Machine, unit: str) -> str:
    return machine.show(unit, "ActiveState")


# -- the package itself ------------------------------------------------------------------------------------------------


def test_lintian_finds_neither_errors_nor_warnings(current: Package) -> None:
    (changes,) = current.folder.glob("*.changes")
    built = {file.name.split("_")[0] for file in current.folder.glob("*.deb")}
    assert {"gpumand", "gpumand-gateway", "gpumand-fleet", "gpumand-doc"} <= built  # lintian checks all of them
    argv = ["lintian", "--allow-root", "--fail-on=error,warning", "--info", "--tag-display-limit=0", str(changes)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("^[EW]: ", done.stdout, re.MULTILINE), done.stdout


def test_package_has_the_version_of_the_program(current: Package) -> None:
    assert current.version == VERSION


def test_build_fails_when_the_changelog_has_another_version(current: Package, tmp_path: Path) -> None:
    packages.unpack(current, tmp_path / "tree")
    (tmp_path / "tree/gpumand/version.py").write_text('VERSION = "99.1"\n', encoding="utf-8")
    with pytest.raises(AssertionError, match=r"debian/changelog has .*, gpumand/version\.py has 99\.1"):
        packages.build(tmp_path / "tree", tmp_path / "out")


def test_man_pages_are_set_without_a_warning(current: Package, tmp_path: Path) -> None:
    for deb in (current.deb, current.gateway, current.fleet):
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path], check=True)
    pages = sorted((tmp_path / "usr/share/man").glob("*/*"))
    assert [page.name for page in pages] == [
        "gpumanctl.1.gz",
        "fleet.toml.5.gz",
        "gateway.toml.5.gz",
        "gpumand.toml.5.gz",
        "org.gpumand1.5.gz",
        "gpumand-fleet.8.gz",
        "gpumand-gateway.8.gz",
        "gpumand-notify.8.gz",
        "gpumand.8.gz",
    ]
    for page in pages:
        argv = ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(page)]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, env={"MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
        )
        assert done.stderr == ""
        assert "SEE ALSO" in done.stdout


def test_every_link_of_the_packaged_readme_and_of_the_documentation_exists(current: Package, tmp_path: Path) -> None:
    for deb in (current.deb, current.documentation):
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path], check=True)
    folder = tmp_path / "usr/share/doc/gpumand"
    readme = gzip.decompress((folder / "README.md.gz").read_bytes()).decode()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", readme)
    assert len(links) > 3
    assert [link for link in links if not (folder / link).exists()] == []
    pages = sorted((folder / "html").rglob("*.html"))
    assert len(pages) > 15
    broken = [f"{page.name}: {target}" for page in pages for target in local_targets(page) if not exists(page, target)]
    assert broken == []


def local_targets(page: Path) -> set[str]:
    """The files that a page refers to, without those on the web."""
    found = re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8"))
    return {unquote(one) for one in found if not one.startswith(("http:", "https:", "mailto:", "data:"))}


def exists(page: Path, target: str) -> bool:
    """Whether a target exists, or is a link to a file of libjs-sphinxdoc, on which the package depends."""
    path = page.parent / target
    return path.exists() or (path.is_symlink() and "javascript" in str(path.readlink()))


def test_documentation_is_found_by_doc_base_and_by_the_man_pages(current: Package, tmp_path: Path) -> None:
    for deb in (current.deb, current.gateway, current.documentation):
        subprocess.run(["dpkg-deb", "--extract", deb, tmp_path], check=True)
    index = re.search(
        r"^Index: (\S+)$", (tmp_path / "usr/share/doc-base/gpumand-doc.gpumand").read_text(), re.MULTILINE
    )
    assert index is not None
    assert (tmp_path / index[1].lstrip("/")).exists()
    for page in (tmp_path / "usr/share/man").glob("*/*.gz"):
        text = gzip.decompress(page.read_bytes()).decode().replace("\\", "")
        assert index[1] in text, page.name
        assert "gpumand-doc" in text, page.name


# -- on a machine ------------------------------------------------------------------------------------------------------


def test_installed_package_runs_without_any_configuration_of_ours(installed: Machine) -> None:
    assert {unit: state(installed, unit) for unit in UNITS} == dict.fromkeys(UNITS, "active")
    assert installed.systemctl("is-enabled", *UNITS).split() == ["enabled"] * len(UNITS)
    assert Client(installed).status()["consumers"] == []
    assert "gpumand" in installed.run(["gpumanctl", "version"]).stdout
    installed.run(["gpumanctl", "config-check"])
    assert installed.show("gpumand.service", "User") == "_gpumand"
    assert "gpumand" in installed.run(["journalctl", "--list-catalog"]).stdout
    for page in ("gpumand.8", "gpumanctl.1", "gpumand.toml.5", "org.gpumand1.5", "gpumand-notify.8"):
        installed.run(["man", "--where", page])


@pytest.mark.parametrize("flags", [(), ("--faults",)])
def test_demo_works_for_a_user_of_the_package_without_a_gpu(installed: Machine, flags: tuple[str, ...]) -> None:
    said = installed.run(["gpumanctl", "demo", *flags], user="nobody", timeout=150)
    assert said.stderr == ""
    assert re.search(r"All \d+ (checks passed|faults had the expected outcome)", said.stdout), said.stdout
    assert installed.run(["pgrep", "-u", "nobody"], check=False).stdout == ""


def test_installed_interface_is_what_the_daemon_shows(installed: Machine) -> None:
    for path, interface in ((ROOT, "Manager"), (f"{ROOT}/device/0", "Device")):
        live = installed.run(
            ["gdbus", "introspect", "--system", "--xml", f"--dest={NAME}", f"--object-path={path}"]
        ).stdout
        shipped = installed.run(["cat", f"/usr/share/dbus-1/interfaces/org.gpumand1.{interface}.xml"]).stdout
        members = re.findall(r'<(method|signal|property) name="(\w+)"', shipped)
        assert members
        assert set(members) <= set(re.findall(r'<(method|signal|property) name="(\w+)"', live))


def test_zsh_and_fish_complete_from_the_first_time_on(installed: Machine) -> None:
    assert "evict" in installed.run(["fish", "-c", 'complete -C "gpumanctl ev"']).stdout
    typed = "autoload -Uz compinit && compinit -u -D\ngpumanctl evi\t --help\nexit\n"
    shown = installed.run(["script", "--quiet", "--return", "--command", "zsh -f -i", "/dev/null"], stdin=typed).stdout
    assert "Usage: gpumanctl evict" in shown


def test_upgrade_keeps_leases_waiting_requests_the_socket_and_an_edited_configuration(
    debian: Machine, earlier: Package, current: Package
) -> None:
    install(debian, earlier)
    edited = debian.run(["cat", CONFIG]).stdout + "[scheduler]\ncushion_mib = 100\n"
    debian.write_file(CONFIG, edited)
    simulate(debian, "one", "two")
    client = Client(debian)
    lease, _ = client.acquire("one")
    waiting = debian.start(["gpumanctl", "acquire", "two", "--timeout=5min"])
    debian.wait_until(lambda: client.status()["queue"], "two waits for its turn")
    before = debian.run(["stat", "--format=%i", "/run/gpumand.sock"]).stdout
    pid = debian.main_pid("gpumand.service")

    said = install(debian, current)

    assert f"({current.version}) over ({earlier.version})" in said
    assert debian.run(["cat", CONFIG]).stdout == edited
    assert {unit: state(debian, unit) for unit in UNITS} == dict.fromkeys(UNITS, "active")
    assert debian.main_pid("gpumand.service") not in (0, pid)
    assert list(client.leases()) == [lease]
    assert state(debian, "one.service") == "active"
    assert debian.run(["stat", "--format=%i", "/run/gpumand.sock"]).stdout == before
    assert waiting.poll() is None, waiting.communicate()
    debian.wait_until(lambda: client.status()["queue"], "two has its place again")
    client.release(lease)
    granted, errors = waiting.communicate(timeout=50)
    assert waiting.returncode == 0, errors
    assert {key: one["consumer"] for key, one in client.leases().items()} == {granted.strip(): "two"}
    assert state(debian, "one.service") != "active"


def test_removed_package_keeps_the_configuration_and_its_return_finds_it(debian: Machine, current: Package) -> None:
    install(debian, current)
    simulate(debian, "one")
    debian.run([*APT, "remove", "gpumand"], timeout=60)
    left = debian.run(["dpkg", "--listfiles", "gpumand"]).stdout.split()
    assert [path for path in left if "gpumand" in path] == ["/etc/gpumand", "/etc/gpumand/conf.d", CONFIG]
    assert debian.run(["find", "/run/gpumand", "/run/gpumand.sock"], check=False).stdout == ""
    gone = debian.run(["busctl", "call", NAME, ROOT, MANAGER, "GetStatus"], check=False)
    assert gone.returncode != 0
    assert "was not provided by any .service files" in gone.stderr
    install(debian, current)
    assert [one["name"] for one in Client(debian).status()["consumers"]] == ["one"]


def test_purged_package_leaves_nothing_behind(debian: Machine, current: Package) -> None:
    before = traces(debian)
    install(debian, current)
    simulate(debian, "one")
    client = Client(debian)
    client.release(client.acquire("one")[0])
    client.call("Pin", "s", "one")
    client.acquire("one")
    assert len(traces(debian).accounts - before.accounts) > 2

    debian.systemctl("stop", "one.service")
    debian.remove(DROP_IN, "/run/systemd/system/one.service", VRAM_DIR)  # ours, not the package's
    debian.run([*APT, "purge", "gpumand"], timeout=60)

    after = traces(debian)
    assert after.files - before.files == frozenset()
    assert before.files - after.files == frozenset()
    assert after.accounts == before.accounts
    assert after.units == frozenset()
    assert debian.systemctl("is-system-running", check=False).strip() == "running"


def test_purged_gateway_leaves_nothing_behind_and_gpumand_running(debian: Machine, current: Package) -> None:
    install(debian, current)
    before = traces(debian)
    said = install(debian, current, "gateway")
    assert "gpumand-gateway" in said
    debian.write_file("/etc/gpumand/gateway.toml", '[gateway.listeners.one]\nlisten = "127.0.0.1:21434"\n')
    debian.systemctl("restart", "gpumand-gateway.service")
    debian.write_file("/etc/gpumand/gateway-keys.toml", "# keys\n", mode="0640")
    debian.run(["chgrp", "_gpumand-gateway", "/etc/gpumand/gateway-keys.toml"])
    assert state(debian, "gpumand-gateway.service") == "active"

    debian.run([*APT, "purge", "gpumand-gateway"], timeout=60)

    after = traces(debian)
    assert after.files - before.files == frozenset()
    assert before.files - after.files == frozenset()
    assert after.accounts == before.accounts
    assert after.units == before.units
    assert state(debian, "gpumand.service") == "active"


def test_upgrade_restarts_the_gateway_and_keeps_its_sockets(
    debian: Machine, earlier: Package, current: Package
) -> None:
    install(debian, earlier)
    install(debian, earlier, "gateway")
    before = debian.run(["stat", "--format=%i", "/run/gpumand-gateway.sock"]).stdout
    pid = debian.main_pid("gpumand-gateway.service")
    debian.write_file("/etc/gpumand/gateway.toml", "# ours\n")
    debian.run([*APT, "install", put(debian, current.deb), put(debian, current.gateway)], timeout=120)
    assert debian.main_pid("gpumand-gateway.service") not in (0, pid)
    assert debian.run(["stat", "--format=%i", "/run/gpumand-gateway.sock"]).stdout == before
    assert debian.run(["cat", "/etc/gpumand/gateway.toml"]).stdout == "# ours\n"


def test_purge_keeps_files_of_others_and_the_accounts_that_they_belong_to(debian: Machine, current: Package) -> None:
    install(debian, current)
    simulate(debian, "one")
    debian.write_file("/etc/gpumand/key", "secret\n", mode="0640")
    debian.run(["chgrp", "_gpumand", "/etc/gpumand/key"])
    said = debian.run([*APT, "purge", "gpumand"], timeout=60)
    assert "kept the user _gpumand and its groups, since they own /etc/gpumand/key" in said.stdout + said.stderr
    assert set(debian.run(["find", "/etc/gpumand", "-type", "f"]).stdout.split()) == {DROP_IN, "/etc/gpumand/key"}
    assert debian.run(["stat", "--format=%G", "/etc/gpumand/key"]).stdout.strip() == "_gpumand"


def test_autopkgtests_of_the_installed_package_pass(installed: Machine, current: Package) -> None:
    install(installed, current, "gateway")
    install(installed, current, "fleet")
    description, _ = (put(installed, file) for file in current.source)
    options = ["--no-built-binaries", "--ignore-restrictions=isolation-container", "--output-dir=/run/autopkgtest"]
    done = installed.run(["autopkgtest", *options, description, "--", "null"], check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    results = dict(line.split()[:2] for line in done.stdout.splitlines() if re.match(r"\w+ +(PASS|FAIL|SKIP)", line))
    assert results == dict.fromkeys(("activation", "leases", "hardening", "completion", "gateway", "fleet"), "PASS")
