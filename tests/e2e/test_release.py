"""scripts/release: the signed apt repository, from which Debian and Ubuntu install and upgrade gpumand over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.container import REPOSITORY
from tests.e2e.debfile import dependencies
from tests.e2e.debian import TEST_PACKAGES, Package, unpack, why_no_package
from tests.e2e.machine import Machine
from tests.e2e.repository import MISSING, SOURCES, URL, WEB, Releases, apt, publish, with_key
from tests.e2e.trees import UBUNTU, tree, why_no_tree

# Ubuntu has a make target of its own: its trees take minutes to make, and its archive may be out of reach.
SUITES = ("bookworm", "trixie", *(UBUNTU if os.environ.get("GPUMAND_UBUNTU") else ()))
WHY_NOT = why_no_package() or why_no_tree() or (f"needs the packages {', '.join(MISSING)}" if MISSING else "")

pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"e2e: {WHY_NOT}"),
    pytest.mark.timeout(1200),  # the first time, a tree is made
]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    with with_key(tmp_path_factory.mktemp("gnupg")) as made:
        yield made


def checkout_of(package: Package, folder: Path, version: str) -> Path:
    """The source of a package with another version, as a checkout."""
    unpack(package, folder)
    changelog = folder / "debian/changelog"
    entry = changelog.read_text(encoding="utf-8")
    changelog.write_text(entry.replace(f"({package.version})", f"({version})", 1), encoding="utf-8")
    return folder


@dataclass(frozen=True, slots=True)
class Published:
    """Two states of one repository.

    Attributes:
        first, second: folders after the first and after the second release.
        source: checkout of the second release.
    """

    first: Path
    second: Path
    source: Path

    @property
    def package(self) -> Package:
        """The package of the first release, which is that of this checkout."""
        (deb,) = self.first.glob("pool/**/gpumand_*.deb")
        return Package(deb)

    @property
    def versions(self) -> tuple[str, str]:
        """The versions of the package in the two releases."""
        return self.package.version, f"{self.package.version}+later"


@pytest.fixture(scope="module")
def published(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("release")
    first, second = folder / "first", folder / "second"
    done = releases.add(REPOSITORY, first)
    assert done.returncode == 0, done.stderr
    one = Published(first, second, folder / "source")
    shutil.copytree(first, second)
    done = releases.add(checkout_of(one.package, one.source, one.versions[1]), second)
    assert done.returncode == 0, done.stderr
    return one


@pytest.fixture(params=SUITES)
def system(request: pytest.FixtureRequest, published: Published) -> Iterator[Machine]:
    """A machine with the dependencies of the package, without gpumand and without other sources of packages."""
    # The trees are those of the other tests of the package.
    extra = ("curl", "polkitd") if request.param in UBUNTU else TEST_PACKAGES
    one = Machine(tree(request.param, (*extra, *dependencies(published.package.deb))))
    one.boot()
    one.remove("/var/lib/man-db/auto-update", "/etc/apt/sources.list")
    one.run(["find", "/etc/apt/sources.list.d", "-type", "f", "-delete"])
    yield one
    one.kill()


def test_gpumand_installs_and_upgrades_as_the_readme_says(system: Machine, published: Published) -> None:
    first, second = published.versions
    publish(system, published.first)

    system.run(["curl", "-fsSLo", SOURCES, f"{URL}/gpumand.sources"])
    apt(system, "-o", "APT::Update::Error-Mode=any", "update")
    apt(system, "install", "gpumand")

    assert Client(system).status()["version"] == first.partition("+")[0]
    assert system.systemctl("is-active", "gpumand.service", "gpumand.socket").split() == ["active", "active"]

    publish(system, published.second)
    apt(system, "-o", "APT::Update::Error-Mode=any", "update")
    assert f"({second}) over ({first})" in apt(system, "upgrade")
    assert system.systemctl("is-active", "gpumand.service", "gpumand.socket").split() == ["active", "active"]


@pytest.mark.parametrize("system", ["bookworm"], indirect=True)
def test_lists_that_were_changed_after_the_release_are_refused(system: Machine, published: Published) -> None:
    publish(system, published.first)
    system.run(["curl", "-fsSLo", SOURCES, f"{URL}/gpumand.sources"])
    for name in ("Release", "InRelease"):
        system.run(["sed", "-i", "s/^Origin: gpumand/Origin: another/", f"{WEB}/dists/stable/{name}"])
    assert "signature" in apt(system, "-o", "APT::Update::Error-Mode=any", "update", check=False)
    assert "Unable to locate package gpumand" in apt(system, "install", "gpumand", check=False)


@pytest.mark.parametrize("system", ["bookworm"], indirect=True)
def test_a_package_that_was_changed_after_the_release_is_refused(system: Machine, published: Published) -> None:
    publish(system, published.first)
    system.run(["curl", "-fsSLo", SOURCES, f"{URL}/gpumand.sources"])
    apt(system, "update")
    path = f"{WEB}/{published.package.deb.relative_to(published.first)}"
    system.run(["dd", "if=/dev/zero", f"of={path}", "bs=1", "count=100", "seek=5000", "conv=notrunc"])
    assert "Hash Sum mismatch" in apt(system, "install", "gpumand", check=False)
    assert system.run(["dpkg", "--status", "gpumand"], check=False).returncode != 0


def test_released_wheels_are_listed_with_a_signature(published: Published, releases: Releases) -> None:
    folder = published.second / "python"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    assert {path.name for path in folder.glob("*.whl")} == {
        line.split()[1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    }
    environment = dict(os.environ) | {"GNUPGHOME": str(releases.gnupghome)}
    subprocess.run(["gpg", "--verify", "SHA256SUMS.asc", "SHA256SUMS"], cwd=folder, env=environment, check=True)


def test_a_release_may_be_repeated_but_not_changed(published: Published, releases: Releases, tmp_path: Path) -> None:
    checkout = Path(shutil.copytree(published.source, tmp_path / "source", symlinks=True))
    repository = Path(shutil.copytree(published.second, tmp_path / "repository"))
    assert releases.add(checkout, repository).returncode == 0

    (checkout / "README.md").write_text("changed\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    done = releases.add(checkout, repository)

    assert done.returncode == 1
    assert "is in the repository already, with other content. Raise the version in" in done.stderr
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--url", URL), "no key was named"),
        (("--key", "nobody", "--url", URL), "there is no secret key nobody"),
        (("--key", "test archive"), "is no URL"),
        (("--key", "test archive", "--url", "ftp://host/"), "is no URL"),
        (("--sign",), "unknown option --sign"),
    ],
)
def test_a_release_without_a_key_or_an_address_is_refused_before_anything_is_built(
    releases: Releases, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = releases.run(REPOSITORY, *arguments, tmp_path / "repository")
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
    assert not (tmp_path / "repository").exists()
