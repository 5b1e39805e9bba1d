import re

import pytest

from prefopt.bench import report
from prefopt.errors import ConfigError
from tests.bench.records import ERROR, TASKS, records


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for table in re.findall(r"(?:^\|.*\n)+", report.markdown(records()), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_leaderboard_and_a_table_of_every_task_are_there():
    text = report.markdown(records())
    assert re.search(r"^\| \*\*dpo\*\* \| 0\.\d{3} \[", text, re.MULTILINE)
    assert re.search(r"^\| \*\*ipo\*\* \| 0\.\d{3} \[[^|]*\| no difference found", text, re.MULTILINE)
    assert re.findall(r"<summary>(.*?)</summary>", text) == sorted([*TASKS, "sentiment"])
    assert text.count("<details>") == text.count("</details>") == len(TASKS) + 1


def test_failures_and_the_power_statement_are_there():
    text = report.markdown(records())
    assert ERROR in text
    assert "would have been found 4 times in 5" in text


def test_a_bar_or_markup_in_a_name_breaks_no_table():
    text = report.markdown(records(contenders={"a|b*c_<i>": 0.9, "dpo": 0.8}))
    assert "| **a\\|b\\*c\\_\\<i>** |" in text


def test_no_records_are_an_error_in_one_sentence():
    with pytest.raises(ConfigError, match="nothing to report"):
        report.markdown([])
