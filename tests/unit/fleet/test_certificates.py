"""The fleet's certificate authority and the certificates of its hosts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gpumand.fleet.certificates import BadCertificate, KeyPair, check_host, create_ca, create_host, read_host

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CA = create_ca("lab", NOW)
HOST = create_host(CA, "lab", ("gpu1", "gpu1.lan", "10.0.0.7", "fd00::7"), NOW)


def test_certificate_of_a_host_has_its_names_no_common_name_and_lasts_a_year() -> None:
    found = read_host(HOST.certificate)

    assert found.names == ("gpu1", "gpu1.lan", "10.0.0.7", "fd00::7")
    assert found.common_name == "", "the JSON gateway of etcd refuses clients with a common name"
    assert 364 <= found.days_left(NOW) <= 365


def test_it_is_valid_on_a_host_whose_clock_is_some_minutes_behind() -> None:
    assert check_host(HOST, CA.certificate, "gpu1", NOW - timedelta(minutes=5)).names[0] == "gpu1"


def with_common_name() -> KeyPair:
    return create_ca("lab", NOW)


@pytest.mark.parametrize(
    ("pair", "host", "now", "expected"),
    [
        (HOST, "gpu2", NOW, "is for gpu1, gpu1.lan, 10.0.0.7, fd00::7, not for gpu2"),
        (HOST, "gpu1.lan", NOW, "not for gpu1.lan"),
        (HOST, "gpu1", NOW + timedelta(days=366), "expired on 2027-04-30"),
        (create_host(create_ca("lab", NOW), "lab", ("gpu1",), NOW), "gpu1", NOW, "another certificate authority"),
        (KeyPair(HOST.certificate, CA.key), "gpu1", NOW, "private key does not belong"),
        (KeyPair(b"nonsense", CA.key), "gpu1", NOW, "not a certificate"),
        (KeyPair(HOST.certificate, b"nonsense"), "gpu1", NOW, "not a private key"),
        (with_common_name(), "gpu1", NOW, "has the common name 'gpumand fleet lab CA'"),
    ],
)
def test_unusable_certificate_is_refused_with_the_reason(
    pair: KeyPair, host: str, now: datetime, expected: str
) -> None:
    with pytest.raises(BadCertificate, match=expected):
        check_host(pair, CA.certificate, host, now)
