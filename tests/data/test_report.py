import json

from prefopt.data.report import DataReport

REPORT = DataReport(
    source="pairs.jsonl[:-64]",
    kind="pairs",
    num_rows=1234,
    num_kept=1190,
    dropped={3: "chosen is empty", **dict.fromkeys(range(7, 50), "has prompt and chosen but no rejected")},
    truncated=tuple(range(100, 160)),
    shifted=(2, 5),
    ignored_columns=("id", "source"),
    num_prompt_tokens=12345,
    num_completion_tokens=6789,
)


def test_lines_abbreviate_long_lists():
    assert REPORT.lines() == [
        "pairs.jsonl[:-64]: 1,190 of 1,234 rows kept, read as pairs",
        "12,345 prompt tokens, 6,789 completion tokens",
        "43 rows dropped: has prompt and chosen but no rejected (7, 8, 9 and 40 more)",
        "1 row dropped: chosen is empty (3)",
        "60 rows truncated (100, 101, 102 and 57 more)",
        "2 rows with a shifted prompt boundary (2, 5)",
        "columns not read: id, source",
    ]


def test_dict_is_complete_and_of_json():
    values = REPORT.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["truncated"] == list(range(100, 160))
    assert len(values["dropped"]) == 44
    assert values["dropped"]["3"] == "chosen is empty"
    assert set(values) == set(DataReport.__dataclass_fields__)


def test_lines_say_nothing_of_what_did_not_happen():
    quiet = DataReport("list", "labels", 1, 1, {}, (), (), (), 1, 2)
    assert quiet.lines() == ["list: 1 of 1 row kept, read as labels", "1 prompt tokens, 2 completion tokens"]


def test_lines_stay_within_80_columns():
    reasons = {number: f"reason {number} " + "long " * 40 for number in range(1, 20)}
    report = DataReport("x" * 300, "pairs", 20, 1, reasons, (), (), tuple("column" * 40), 1, 2)
    assert max(map(len, report.lines())) <= 80
    assert any("14 rows dropped for other reasons (6, 7, 8 and 11 more)" in line for line in report.lines())
