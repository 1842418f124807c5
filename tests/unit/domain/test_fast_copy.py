"""The short copy of a frozen dataclass equals that of the standard library, for each class that it is used for."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.decision import Decision
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.learning import Duration, LearnedTimes
from gpumand.domain.request import Verdict
from gpumand.domain.status import Stats
from gpumand.domain.view import ConsumerState

COPIED = (
    ConsumerState(ConsumerSpec("tts", 1024)),
    LearnedTimes(hold=Duration(2.0, 3.0, 4)),
    Stats(grants=3, wait_usec=7),
    Decision(Verdict.WAIT),
)


@pytest.mark.parametrize("value", COPIED, ids=lambda value: type(value).__name__)
def test_copy_equals_that_of_the_standard_library(value: Any, seed: int) -> None:
    draw, names = random.Random(seed), [field.name for field in fields(value) if field.init]
    for _ in range(200):
        # Any object will do, since neither way looks at the values.
        changes = {name: draw.random() for name in draw.sample(names, draw.randrange(len(names)))}
        copied = copy_with(value, **changes)
        assert copied == replace(value, **changes)
        assert type(copied) is type(value)
        assert list(copied.__dict__) == list(value.__dict__)


@pytest.mark.parametrize("value", COPIED, ids=lambda value: type(value).__name__)
def test_original_is_not_changed(value: Any) -> None:
    before = dict(value.__dict__)
    name = fields(value)[0].name
    copy_with(value, **{name: object()})

    assert value.__dict__ == before


@pytest.mark.parametrize("value", COPIED, ids=lambda value: type(value).__name__)
def test_copied_classes_have_all_values_in_their_dictionary_and_check_none(value: Any) -> None:
    assert is_dataclass(value)
    assert not hasattr(type(value), "__slots__")
    assert not hasattr(type(value), "__post_init__")
    assert {field.name for field in fields(value)} == set(value.__dict__)


def test_name_that_is_no_field_is_refused() -> None:
    with pytest.raises(AssertionError, match="Stats has no such field"):
        copy_with(Stats(), grnats=1)
