import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from prefopt.data.sources import read_rows, row_kind, source_name
from prefopt.errors import DataError

ROWS = [{"prompt": f"p{n}", "chosen": "c", "rejected": "r"} for n in range(5)]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def numbers(source):
    return [number for number, _ in read_rows(source)]


def write_parquet(path, rows=ROWS):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_every_source_gives_the_same_numbered_rows(tmp_path, jsonl):
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps(ROWS))
    lines = tmp_path / "lines.json"
    lines.write_bytes(jsonl.read_bytes())
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(tmp_path / "splits")
    expected = list(enumerate(ROWS, 1))
    sources = [
        ROWS,
        dataset,
        jsonl,
        str(jsonl),
        str(listed),
        str(lines),
        str(write_parquet(tmp_path / "pairs.parquet")),
        str(tmp_path / "saved"),
        str(tmp_path / "splits"),
    ]
    for source in sources:
        assert list(read_rows(source)) == expected, source
    assert numbers(f"{tmp_path / 'splits'}:test") == [1]


def test_a_folder_of_files_is_read_in_sorted_order(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "b.jsonl").write_text(json.dumps(ROWS[3]))
    write_parquet(folder / "a.parquet", ROWS[:3])
    (folder / "notes.txt").write_text("not data")
    assert list(read_rows(str(folder))) == list(enumerate(ROWS[:4], 1))
    assert numbers(f"{folder}[-2:]") == [3, 4]


def test_a_folder_without_rows_says_so(tmp_path):
    with pytest.raises(DataError, match=r"holds no saved dataset and no file of rows"):
        read_rows(str(tmp_path))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("window", [":-2", "-2:", "1:3", ":", "-4:-1", ":99", "-99:2", "4:2"])
def test_a_slice_keeps_the_numbers_of_the_source(tmp_path, suffix, window):
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        write_parquet(path)
    elif suffix == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    start, stop = (int(bound) if bound else None for bound in window.split(":"))
    assert numbers(f"{path}[{window}]") == [1, 2, 3, 4, 5][start:stop]


@pytest.mark.parametrize("window", ["3", "::2", "a:b", "", "1:2:3", ":²", f":{10**30}"])
def test_a_slice_of_another_form_is_refused(jsonl, window):
    with pytest.raises(DataError, match="is no slice;"):
        read_rows(f"{jsonl}[{window}]")


def test_a_file_whose_name_ends_like_a_slice_is_read_whole(tmp_path, jsonl):
    folder = tmp_path / "x[1:2]"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(jsonl.read_bytes())
    assert numbers(str(folder)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'a': 1}", "is not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"[1]", "is a list, not a mapping of columns"),
        (b'{"weight": NaN}', "is not JSON: NaN is no JSON number"),
        (b'{"weight": -Infinity}', "is not JSON: -Infinity is no JSON number"),
        (b'{"weight": 1, "weight": 2}', "is not JSON: the key 'weight' is given twice"),
        (b'{"a": [{"role": 1, "role": 2}]}', "is not JSON: the key 'role' is given twice"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b"  ", "is a blank line"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_its_reason(tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert list(read_rows(path)) == [(1, {"a": 1}), (2, reason), (3, {"a": 2})]


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n\r\n\r\n')
    assert list(read_rows(path)) == [(1, {"a": 1}), (2, {"a": 2})]


def test_a_list_holds_mappings():
    assert list(read_rows([["prompt"]])) == [(1, "is a list, not a mapping of columns")]


def test_a_broken_json_file_is_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},')
    with pytest.raises(DataError, match=r"rows\.json' is not JSON"):
        read_rows(path)


def test_a_broken_parquet_file_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    with pytest.raises(DataError, match=r"rows\.parquet' cannot be read as parquet"):
        list(read_rows(path))


def test_another_file_type_is_refused_by_name(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b")
    with pytest.raises(DataError, match=r"rows\.csv' is not a file of rows; those end in \.jsonl"):
        read_rows(path)


def test_a_missing_file_suggests_the_nearest_name(jsonl):
    wrong = str(jsonl.with_name("pair.jsonl"))
    with pytest.raises(DataError) as raised:
        read_rows(wrong + "[:3]")
    assert str(raised.value) == (
        f"no rows at {wrong!r}: neither a file, a folder nor a dataset id that can be reached; "
        f"did you mean {str(jsonl)!r}?"
    )


def test_a_missing_folder_has_no_suggestion(tmp_path):
    with pytest.raises(DataError, match=r"can be reached$"):
        read_rows(str(tmp_path / "nowhere" / "pairs.jsonl"))


@pytest.mark.parametrize("name", ["prefopt-tests/no-such-set", "prefopt-tests/no-such-set:test[:9]"])
def test_a_dataset_id_that_cannot_be_reached_says_why(name):
    with pytest.raises(DataError, match=r"nor a dataset id that can be reached \(.*no-such-set"):
        read_rows(name)


def test_a_relative_path_with_a_suffix_is_no_dataset_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"can be reached$"):
        read_rows("data/pairs.jsonl")


def test_the_format_of_a_dataset_is_set_aside():
    dataset = datasets.Dataset.from_list([{"prompt_ids": [1, 2]}]).with_format("numpy")
    ((_, row),) = read_rows(dataset)
    assert type(row["prompt_ids"]) is list


def test_a_dataset_dict_asks_for_a_split():
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))
    with pytest.raises(DataError, match="mapping of train; pass one of its splits"):
        read_rows(splits)


def test_a_generator_is_refused_because_it_is_read_twice():
    with pytest.raises(DataError, match="is a generator; pass a path, a dataset or a list"):
        read_rows(row for row in ROWS)


def test_the_name_of_a_source_is_what_the_user_wrote(jsonl):
    assert source_name(jsonl) == str(jsonl)
    assert source_name("a.jsonl[:2]") == "a.jsonl[:2]"
    assert source_name(ROWS) == "list"
    assert source_name(datasets.Dataset.from_list(ROWS)) == "dataset"


def test_row_kind_is_that_of_the_first_row_that_makes_one():
    label = {"prompt": "p", "completion": "c", "label": True}
    assert row_kind(ROWS) == "pairs"
    assert row_kind([{"prompt": "p"}, label, *ROWS]) == "labels"


def test_row_kind_reads_no_further_than_it_must(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + "no json\n" * 3)
    assert row_kind(path) == "pairs"


def test_row_kind_of_nothing_usable_names_the_first_row():
    with pytest.raises(DataError, match=r"^list row 1: has prompt and chosen but no rejected$"):
        row_kind([{"prompt": "p", "chosen": "c"}, {"a": 1}])


def test_row_kind_of_an_empty_source():
    with pytest.raises(DataError, match=r"^list has no rows$"):
        row_kind([])


def test_the_splits_of_a_folder_are_kept_apart(tmp_path):
    for split, text in (("train-00000", "a"), ("train-00001", "b"), ("test", "c")):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"prompt": "p", "chosen": text, "rejected": "z"}) + "\n")
    chosen = [row["chosen"] for _, row in read_rows(f"{tmp_path}:train")]
    assert chosen == ["a", "b"]
    with pytest.raises(DataError, match="holds the splits test, train; name one"):
        list(read_rows(str(tmp_path)))
    with pytest.raises(DataError, match="has no split 'nonsense'; it has: test, train"):
        list(read_rows(f"{tmp_path}:nonsense"))
