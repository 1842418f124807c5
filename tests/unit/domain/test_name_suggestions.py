"""Suggestions for misspelled names."""

from __future__ import annotations

import time

import pytest

from gpumand.domain.name_suggestions import nearest, no_such_consumer


@pytest.mark.parametrize(
    ("name", "meant"),
    [("comfyu", "comfyui"), ("ComfyUI", "comfyui"), ("VLLM", "vLLM"), ("qqq", ""), ("", ""), ("mvoice", "mvoice")],
)
def test_nearest_known_name_is_suggested_ignoring_case(name: str, meant: str) -> None:
    assert nearest(name, ["mvoice", "comfyui", "vLLM"]) == meant


def test_unknown_consumer_error_suggests_the_nearest_name() -> None:
    assert no_such_consumer("comfyu", ["comfyui"]).message == "no consumer is named 'comfyu'; did you mean comfyui?"
    assert no_such_consumer("x", []).message == "no consumer is named 'x'"


def test_very_long_name_is_compared_quickly() -> None:
    began = time.thread_time()  # a busy machine takes longer
    nearest("ab" * 100_000, [f"{'ab' * 30}{number}" for number in range(100)])
    assert time.thread_time() - began < 0.3
