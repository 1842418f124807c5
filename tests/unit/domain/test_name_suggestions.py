"""Wrong names."""

from __future__ import annotations

import time

import pytest

from gpumand.domain.name_suggestions import nearest, no_such_consumer


@pytest.mark.parametrize(
    ("name", "meant"),
    [("comfyu", "comfyui"), ("ComfyUI", "comfyui"), ("VLLM", "vLLM"), ("qqq", ""), ("", ""), ("mvoice", "mvoice")],
)
def test_the_nearest_name_is_meant_whatever_its_case(name: str, meant: str) -> None:
    assert nearest(name, ["mvoice", "comfyui", "vLLM"]) == meant


def test_a_wrong_consumer_is_told_with_the_nearest() -> None:
    assert no_such_consumer("comfyu", ["comfyui"]).message == "no consumer is named 'comfyu'; did you mean comfyui?"
    assert no_such_consumer("x", []).message == "no consumer is named 'x'"


def test_a_hostile_name_costs_nothing() -> None:
    began = time.perf_counter()
    nearest("ab" * 100_000, [f"{'ab' * 30}{number}" for number in range(100)])
    assert time.perf_counter() - began < 1.0
