"""The sentences users meet."""

import pytest

import prefopt
from prefopt.errors import in_one_line, nearest, unknown_name


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (prefopt.ConfigError, ValueError),
        (prefopt.DataError, ValueError),
        (prefopt.ModelError, ValueError),
        (prefopt.UnknownNameError, LookupError),
        (prefopt.NonFiniteLossError, ArithmeticError),
        (prefopt.PluginError, Exception),
    ],
)
def test_every_error_is_a_prefopt_error_and_a_builtin_one(error, builtin):
    assert issubclass(error, prefopt.PrefoptError)
    assert issubclass(error, builtin)


def test_unknown_name_is_printed_without_quotes_around_the_message():
    assert str(prefopt.UnknownNameError("unknown loss 'x'")) == "unknown loss 'x'"


def test_unknown_name_suggests_the_nearest_and_lists_the_rest_in_order():
    sentence = unknown_name("metric", "acuracy", ["margin", "accuracy"], then="; see the docs")
    assert sentence == "unknown metric 'acuracy'; did you mean 'accuracy'? available: accuracy, margin; see the docs"


def test_unknown_name_suggests_nothing_where_nothing_is_near():
    assert unknown_name("loss", "zzz", ["dpo", "ipo"]) == "unknown loss 'zzz'; available: dpo, ipo"
    assert unknown_name("loss", "dpo", []) == "unknown loss 'dpo'; available: none"


def test_nearest_is_none_where_nothing_is_near():
    assert nearest("zzz", ["dpo"]) is None
    assert nearest("simop", ["simpo", "ipo"]) == "simpo"


def test_a_message_is_one_line_of_characters_that_show():
    told = in_one_line("key 'a\nerror: b\x1b[31m\ud800\u202e' é中")
    assert told == r"key 'a\nerror: b\x1b[31m\ud800\u202e' é中"
