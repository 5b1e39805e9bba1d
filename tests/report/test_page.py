from __future__ import annotations

import re

import pytest

from prefopt.errors import ConfigError
from prefopt.report import read_runs, write
from prefopt.report.page import page
from tests.report.runs import write_run


@pytest.fixture
def runs(tmp_path):
    return read_runs([write_run(tmp_path / "dpo"), write_run(tmp_path / "simpo", loss="simpo", finished=False)])


def test_the_page_loads_nothing_and_runs_no_script_but_its_own(runs):
    text = page(runs)
    body = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|srcset|data|action)=\"(?!data:)", body.replace("data-", ""))
    assert {link for link in re.findall(r'href="([^"]*)"', body) if not link.startswith(("#", "data:"))} == set()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "@import" not in style
    assert "url(" not in style
    assert "default-src &#39;none&#39;; script-src &#39;sha256-" in text


def test_it_names_runs_remarks_and_differing_settings(runs):
    text = page(runs)
    for part in (
        "simpo: no run.json: the run is not finished",
        "training.max_steps",
        "different units",
        'class="units"',
    ):
        assert part in text, part


def test_runs_of_one_loss_have_one_unit_and_a_single_run_no_settings_that_differ(tmp_path):
    text = page(read_runs([write_run(tmp_path / "a")]))
    assert "different units" not in text
    assert 'id="settings"' not in text
    assert "To know before" not in text


def test_markup_in_a_name_is_text(tmp_path):
    text = page(read_runs([write_run(tmp_path / "<img src=x onerror=alert(1)>")]))
    assert "<img" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_an_earlier_page_is_replaced_and_nothing_else(runs, tmp_path):
    place = tmp_path / "pages" / "report.html"
    write(runs[:1], place)
    write(runs, place)
    assert "2 runs" in place.read_text()
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(
        ConfigError, match=r"mine.html' exists and is no page of `prefopt report`; choose another --output"
    ):
        write(runs, tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    with pytest.raises(ConfigError, match="is a folder; name a file in it"):
        write(runs, tmp_path)
    with pytest.raises(ConfigError, match="cannot write the report"):
        write(runs, tmp_path / "mine.html" / "report.html")
