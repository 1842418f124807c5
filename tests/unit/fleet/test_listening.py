"""Addresses of the agent that the host does not have yet, or that another program uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.domain.errors import ConfigInvalid
from gpumand.fleet.listening import bind_all

needs_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6 in the kernel")


@pytest.mark.parametrize("address", ["192.0.2.1:0", pytest.param("[2001:db8::1]:0", marks=needs_ipv6)])
def test_address_that_the_host_does_not_have_yet_is_listened_on(address: str, caplog: pytest.LogCaptureFixture) -> None:
    (listener,) = bind_all([address])
    with listener:
        assert listener.getsockname()[1] > 0
    assert "is no address of this host at present" in caplog.text


def test_address_in_use_is_refused_and_nothing_stays_open() -> None:
    (first,) = bind_all(["127.0.0.1:0"])
    with first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigInvalid, match=f"cannot listen on 127.0.0.1:{port}"):
            bind_all(["127.0.0.1:0", f"127.0.0.1:{port}"])
