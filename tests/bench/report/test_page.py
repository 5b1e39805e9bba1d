import re
from html.parser import HTMLParser

import pytest

from prefopt.bench import report
from prefopt.bench.report import tables
from prefopt.bench.report.figures import figures
from prefopt.bench.report.page import page
from prefopt.bench.results import Results
from prefopt.errors import ConfigError
from tests.bench.records import CONTENDERS, ERROR, FAILED, records


class Outline(HTMLParser):
    """Tags with their attributes, and the text of every row of every table, scripts left out."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside in ("script", "style"):
            return
        self.text.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(records(), path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(written):
    return Outline(written)


def test_the_page_holds_every_method_and_lists_every_cell(outline):
    listed = {attributes["id"] for tag, attributes in outline.tags if tag == "tr" and "id" in attributes}
    assert listed == {f"cell-{record['cell']}" for record in records()}
    text = " ".join(outline.text)
    for method in {record["method"] for record in records()}:
        assert method in text


def test_every_link_to_a_cell_leads_to_its_line(outline):
    listed = {attributes["id"] for tag, attributes in outline.tags if tag == "tr" and "id" in attributes}
    links = {attributes["href"] for tag, attributes in outline.tags if tag == "a"}
    to_cells = {link.removeprefix("#") for link in links if link.startswith("#cell-")}
    assert to_cells
    assert to_cells <= listed


def test_the_page_loads_nothing(written, outline):
    loading = [
        attributes[name]
        for tag, attributes in outline.tags
        for name in ("src", "href", "data", "action", "poster", "srcset")
        if name in attributes and not attributes[name].startswith(("#", "data:"))
    ]
    assert loading == []
    assert {tag for tag, _ in outline.tags} & {"img", "iframe", "object", "embed"} == set()
    style = re.search(r"<style>(.*?)</style>", written, re.DOTALL)[1]
    assert "@import" not in style
    assert "url(" not in style
    policy = next(attributes for tag, attributes in outline.tags if "http-equiv" in attributes)["content"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_markdown_and_page_show_the_same_numbers(outline):
    on_page = {tuple(text.strip("●≈◇†") for text in row[:-1]) for row in outline.rows}
    lines = [line for line in report.markdown(records()).splitlines() if line.startswith("| ")]
    rows = [[re.sub(r"\\(.)", r"\1", text.strip(" *†")) for text in line[2:-2].split(" | ")] for line in lines]
    numbers = [row for row in rows if any(re.search(r"\d\.\d{3} \[", text) for text in row)]
    num_scores = len(Results.of(records()).scores)
    assert len(numbers) == num_scores + len(CONTENDERS) + 3  # all boards, and the leaderboard with reference and bounds
    for row in numbers:
        assert tuple(row) in on_page


def test_a_failed_cell_is_shown_with_its_reason(outline):
    text = " ".join(outline.text)
    assert ERROR in text
    failed = [row for row in outline.rows if "failed" in row]
    assert len(failed) == 2
    assert all(FAILED[1] in row and ERROR in row[-1] for row in failed)


def test_what_is_not_significantly_behind_is_marked_in_words_and_by_a_sign(outline):
    found = {row[0].strip("●≈"): row for row in reversed(outline.rows) if len(row) == 9 and "[" in row[1]}
    dpo, ipo, kto = (found[name] for name in ("dpo", "ipo", "kto"))
    assert (dpo[0], dpo[2]) == ("●dpo", "best")
    assert ipo[0] == "≈ipo"
    assert ipo[2].startswith("no difference found")
    assert kto[0] == "kto"
    assert re.match(r"-0\.\d{3}, p < 0.001", kto[2])


def test_methods_that_know_the_reward_stand_apart_and_are_not_ranked():
    board = tables.leaderboard(Results.of(records()))
    assert {line.method for line in board.bounds} == {"optimum", "best_of_n"}
    assert [line.kind for line in board.lines[-2:]] == ["bound", "bound"]
    assert all(line.fields["rank"].text == "" for line in board.bounds)
    assert all(line.fields["best"].text == "bound" for line in board.bounds)


def test_a_method_that_did_not_run_on_all_tasks_is_marked():
    board = tables.leaderboard(Results.of(records()))
    assert [line.method for line in board.lines if line.partial] == [FAILED[1]]


def test_language_models_stay_out_of_the_leaderboard_and_have_gains_for_ratios():
    results = Results.of(records())
    assert {line.fields["blocks"].text for line in tables.leaderboard(results).contenders} == {"3 of 3", "2 of 3"}
    sentiment = next(setting for setting in results.settings if setting.task == "sentiment")
    titles = [column.title for column in tables.of_setting(results, sentiment).columns]
    assert "mean gain" in titles
    assert "area ratio" not in titles
    assert "gap at equal KL" not in titles


def test_exploitability_is_a_column_where_it_was_measured_and_nowhere_else():
    results = Results.of(records())
    with_it = [
        setting.task
        for setting in results.settings
        if "exploitability" in {column.key for column in tables.of_setting(results, setting).columns}
    ]
    assert with_it == ["intransitive"]


def test_the_best_few_the_bounds_and_the_landmarks_are_visible_from_the_start():
    results = Results.of(records(language_model=False))
    for landmarks, expected in (((), set()), (("sft",), {"sft"})):
        shown = {setting["label"]: set(setting["shown"]) for setting in figures(results, landmarks)["settings"]}
        assert shown["bradley_terry"] == {"dpo", "ipo", "kto", "simpo", "optimum", "best_of_n"} | expected


def test_every_interval_lies_on_its_axis():
    results = Results.of(records())
    for table in [tables.leaderboard(results), *(tables.of_setting(results, setting) for setting in results.settings)]:
        low, high = table.reach
        assert all(low <= end <= high for line in table.lines for end in (line.area.mean, *line.area.interval))


HOSTILE = "<script>alert('harm')</script>"


def test_names_and_errors_that_are_markup_stay_text():
    hostile = [
        record | {"error": record["error"] and HOSTILE} for record in records(contenders={HOSTILE: 0.9, "dpo": 0.8})
    ]
    text = page(hostile)
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(" in text
    plain = page(records())
    assert text.count("<script") == plain.count("<script")
    assert "<script" not in report.markdown(hostile).replace("\\<script", "")


def test_no_records_are_an_error_in_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="nothing to report: no cell has been recorded"):
        report.write([], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_cells_that_all_failed_still_make_a_page():
    failed = [record | {"status": "failed", "error": ERROR, "metrics": {}} for record in records()]
    text = page(failed)
    assert ERROR in text
    assert 'id="leaderboard"' not in text


def test_one_seed_alone_makes_a_page_without_intervals():
    text = page([one_seed(record) for record in records(failed=None)])
    assert "With fewer than two seeds" in text
    assert '"low":null' in text


def one_seed(record):
    metrics = {name: [trial[:1] for trial in values] for name, values in record["metrics"].items()}
    optimum = record["optimum"] and record["optimum"] | {"reward": record["optimum"]["reward"][:1]}
    first = {name: record[name][:1] for name in ("seeds", "reference_reward")}
    return record | first | {"metrics": metrics, "optimum": optimum}


def test_a_page_that_cannot_be_written_leaves_the_old_one_and_says_so(tmp_path):
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "report.html.partial").mkdir()
    with pytest.raises(ConfigError, match="cannot write the report to .*report.html"):
        report.write(records(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_same_records_in_any_order_make_the_same_page(written):
    assert page(reversed(records())) == written
