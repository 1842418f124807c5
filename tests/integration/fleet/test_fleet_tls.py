"""Two real agents with TLS: rights by the name in the certificate, and refusals of certificates with words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpumand.fleet import certificates
from gpumand.fleet.certificates import KeyPair, create_ca, create_host
from tests.integration.fleet.live_fleet import Host, live_fleet, until, until_all_up
from tests.integration.fleet.plain_etcd import running_etcd
from tests.integration.fleet.tls_etcd import needs_etcd, written

pytestmark = needs_etcd

CA = create_ca("lab")
FOREIGN = create_ca("lab")


def with_common_name() -> KeyPair:
    """The certificate of a host that has a common name."""
    with pytest.MonkeyPatch.context() as patch:
        name = certificates._name
        patch.setattr(certificates, "_name", lambda fleet: name(fleet, "gpu1"))
        return create_host(CA, "lab", ("gpu1", "127.0.0.1"))


NAMED = with_common_name()
HOSTS = {"gpu1": {"near": 6000}, "gpu2": {"far": 6000}}
Fleet = dict[str, Host]


def certificate(
    folder: Path, name: str, *, ca: KeyPair = CA, days_ago: int = 0, pair: KeyPair | None = None
) -> list[str]:
    """Write the certificate of a host, and return its files."""
    now = datetime.now(UTC) - timedelta(days=days_ago)
    made = pair or create_host(ca, "lab", (name, "127.0.0.1"), now)
    files = written(folder, f"{name}-{len(list(folder.iterdir()))}", made, CA.certificate)
    return [str(files.ca), str(files.certificate), str(files.key)]


@pytest.fixture(scope="module")
def etcd_url() -> Iterator[str]:
    with running_etcd() as one:
        yield one.url


@pytest.fixture
def fleet(tmp_path: Path, etcd_url: str) -> Iterator[Fleet]:
    place = tmp_path / "certificates"
    place.mkdir()

    def with_tls(host: Host) -> dict[str, Any]:
        host.url = host.url.replace("http:", "https:")
        return {"url": host.url, "tls": certificate(place, host.name), "fleet": tmp_path.name.replace("_", "-")}

    with live_fleet(tmp_path, HOSTS, [etcd_url], each=with_tls) as hosts:
        yield hosts


def restart(host: Host, **config: Any) -> None:
    host.stop_agent()
    host.config |= config
    host.start_agent()
    until_all_up(host, set(HOSTS))


def test_lease_over_tls(fleet: Fleet) -> None:
    done = fleet["gpu1"].ctl("run", "far", "--", "sh", "-c", 'echo "$GPUMAND_HOST"')

    assert (done.returncode, done.stdout) == (0, "gpu2\n"), (done.stderr, fleet["gpu2"].log.read_text())


def test_host_without_the_right_is_refused_with_the_line_that_would_allow_it(fleet: Fleet) -> None:
    restart(fleet["gpu2"], allow={"*": ["acquire"], "gpu1": ["plan"]})

    for right, options in (("acquire", ("--timeout", "3s")), ("load", ("--on", "gpu2"))):
        done = fleet["gpu1"].ctl(right, "far", *options)
        assert done.returncode == 1
        assert f"gpu1 may not {right} on gpu2" in done.stderr, done.stderr
        assert f'gpu1 = ["{right}"] in [fleet.allow]' in done.stderr, done.stderr
    assert json.loads(fleet["gpu1"].ctl("plan", "far", "--json").stdout)["host"] == "gpu2"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"days_ago": 400}, "the certificate of this host has expired. Renew it: gpumanctl fleet invite"),
        ({"ca": FOREIGN}, "the certificate of this host is from another authority"),
        ({"pair": CA}, "the certificate of this host is none of a host"),
        ({"pair": NAMED}, "a host without a certificate of gpumanctl fleet may not acquire on gpu2"),
    ],
    ids=["expired", "foreign", "authority", "common-name"],
)
def test_unusable_certificate_is_refused_with_words(
    fleet: Fleet, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    files = certificate(tmp_path / "certificates", "gpu1", **options)
    restart(fleet["gpu1"], tls=files)

    def said() -> str:
        return fleet["gpu1"].ctl("acquire", "far", "--timeout", "2s").stderr

    until("the reason is given", lambda: expected in said(), lambda: (said(), fleet["gpu1"].log.read_text()[-3000:]))
