"""Patterns of cgroup paths."""

from __future__ import annotations

import time

import pytest

from gpumand.domain.cgroup_glob import matches_cgroup

POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12ab.slice/cri-containerd-9f.scope"


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/lxc/gpu", "/lxc/gpu", True),
        ("/lxc/gpu", "/lxc/gpu/system.slice/a.service", True),
        ("/lxc/gpu", "/lxc/gpu2", False),
        ("/lxc/gpu", "/user.slice/lxc/gpu", False),
        ("/lxc/*", "/lxc/gpu/a", True),
        ("/lxc/*/a", "/lxc/x/y/a", False),
        ("/kubepods.slice/**/*pod12ab.slice", POD, True),
        ("/**/cri-containerd-9f.scope", POD, True),
        ("/**/cri-?.scope", POD, False),
        ("/kubepods*", POD, True),
        ("/a/**/b/**/c", "/a/b/x/b/c", True),
        ("/lxc", "", False),
        ("/lxc", "lxc", False),
        ("/lxc", "/lxc" + "/a" * 4096, False),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert matches_cgroup(pattern, path) is matches


def test_hostile_names_take_little_time() -> None:
    pattern, path = "/" + "*a" * 200 + "b", "/" + "a" * 4000
    began = time.process_time()
    assert not matches_cgroup(pattern, path)
    assert not matches_cgroup("/**/a" * 100 + "/b", "/a" * 2000)
    assert time.process_time() - began < 5
