from __future__ import annotations

import pydantic
import pytest

from prefopt.config import CheckpointsConfig
from prefopt.errors import ConfigError
from prefopt.section import explain
from prefopt.yaml_file import parse_yaml


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 2026-99-99", "month must be in 1..12"),
        ("a: 2026-01-01 99:00:00", "hour must be in 0..23"),
        ("a: !!int x", "invalid literal for int"),
        ("a: !!float x", "could not convert string to float"),
        ("a: !!bool x", "'x'"),
        ('a: "\\UFFFFFFFF"', "too large"),
        ("a: " + "[" * 5000, "recursion"),
        ("a: '\0'", "special characters are not allowed in"),
        ('a: "\\ud800"', "is not valid Unicode"),
        ("a: 9223372036854775808", "a whole number of 19 digits"),
        ("a: {b: 1, b: 2}", "key 'b' is given twice"),
    ],
)
def test_whatever_pyyaml_raises_is_one_sentence(text, why):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml")
    assert why in message
    assert "\n" not in message


def test_the_largest_whole_number_is_read():
    assert parse_yaml("[9223372036854775807, -9223372036854775807, 1e-6]", "") == [2**63 - 1, 1 - 2**63, 1e-6]


def test_a_value_made_huge_by_aliases_is_shown_in_short():
    laugh = "keep_last: [&a [z, z, z, z, z, z, z, z, z]"
    for before, own in zip("abcdefgh", "bcdefghi", strict=True):
        laugh += f", &{own} [{', '.join([f'*{before}'] * 9)}]"
    with pytest.raises(pydantic.ValidationError) as caught:  # its own text would take gigabytes
        CheckpointsConfig.model_validate(parse_yaml(laugh + "]", ""))
    assert len(explain(caught.value, CheckpointsConfig)) < 3000
