import io
import re

import pytest
from rich.console import Console

from prefopt.bench import report
from prefopt.errors import ConfigError
from tests.bench.records import CONTENDERS, ERROR, records


def summary(made, width=80):
    console = Console(file=io.StringIO(), width=width)
    report.print_summary(made, console)
    return console.file.getvalue()


LONG = {"unlikelihood_token": 0.9, "infonca_list": 0.9, "unlikelihood_seq": 0.3, "dpo": 0.88}


@pytest.mark.parametrize("contenders", [CONTENDERS, LONG])
@pytest.mark.parametrize("width", [80, 200])
def test_no_line_is_longer_than_80_columns(contenders, width):
    lines = summary(records(contenders=contenders), width).splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("contenders", [CONTENDERS, LONG])
def test_every_method_has_one_line(contenders):
    lines = summary(records(contenders=contenders)).splitlines()
    for method in (*contenders, "reference", "optimum", "best_of_n"):
        (line,) = [line for line in lines if re.match(rf"[*=^ +]*{method} +\d\.\d{{3}} \[", line)]
        assert re.search(r"best|bound|no difference found, p = \d|-\d\.\d{3}, p", line)


def test_the_summary_says_what_could_have_been_found_and_what_failed():
    text = " ".join(summary(records()).split())
    assert re.search(
        r"With 4 seeds a true difference of 0\.\d{3} from the best would have been found 4 times in 5", text
    )
    assert "between it and ipo no difference was found" in text
    assert text.count(f"failed: label_noise, simpo: {ERROR}") == 1


def test_errors_with_square_brackets_are_printed_as_they_are():
    odd = [record | {"error": record["error"] and "[red]a[/red] [b"} for record in records()]
    assert "[red]a[/red] [b" in summary(odd)


def test_many_failures_are_counted_not_all_printed():
    failed = [record | {"status": "failed", "error": ERROR, "metrics": {}} for record in records()]
    text = " ".join(summary(failed).split())
    assert text.count("failed: ") == 10
    assert "20 more failed; see the page" in text
    assert "no leaderboard" in text


def test_no_records_are_an_error_in_one_sentence():
    with pytest.raises(ConfigError, match="nothing to report"):
        summary([])
