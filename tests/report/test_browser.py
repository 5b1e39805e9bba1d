"""The page in a real browser: headless Chromium, driven through its own driver."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("selenium", reason="selenium is not installed (the extra `develop` brings it)")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from prefopt.report import read_runs, write
from tests.bench.report.test_browser import BROWSER, DRIVER, background, browser, find, opened, until
from tests.report.runs import write_run

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with a chromedriver on the PATH")
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = [
        write_run(folder / "dpo"),
        write_run(folder / "kto", loss="kto", finished=False, cut=True, seed=1),
        write_run(folder / "simpo", loss="simpo", learning_rate=3e-6, num_steps=40, seed=2),
    ]
    write(read_runs(runs), folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    return opened(browser, address)


def plot(page, title):
    """The plot of that title, marked or not, scrolled to and drawn."""
    figures = page.find_elements(By.CSS_SELECTOR, "figure")
    titles = [figure.find_element(By.TAG_NAME, "h3").text.split(" own units")[0] for figure in figures]
    element = figures[titles.index(title)].find_element(By.CLASS_NAME, "plot")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    until(page, lambda: page.execute_script("return Boolean(arguments[0].querySelector('.main-svg'))", element))
    return element


def traces(page, element):
    """(name, y) of every line that is drawn."""
    return json.loads(
        page.execute_script("return JSON.stringify(arguments[0].data.map(({name, y}) => [name, [...y]]))", element)
    )


def slide(page, value):
    script = "smoothing.value = arguments[0]; smoothing.dispatchEvent(new Event('input'))"
    page.execute_script(script, value)


def test_every_plot_is_drawn_without_an_error_and_without_a_request(page, address):
    titles = [each.text.split(" own units")[0] for each in page.find_elements(By.CSS_SELECTOR, "figure h3")]
    for title in dict.fromkeys(titles):
        plot(page, title)
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert address in asked
    assert [url for url in asked if not url.startswith(("data:", "blob:", address))] == []


def test_hovering_tells_the_step_and_the_values_of_every_run(page):
    element = plot(page, "rewards")
    ActionChains(page).move_to_element_with_offset(element, -150, 0).move_to_element_with_offset(
        element, -140, 0
    ).perform()
    label = until(page, lambda: "step" in texts(page, element) and texts(page, element))
    for part in ("dpo, chosen", "dpo, rejected", "kto, chosen", "simpo, rejected"):
        assert part in label


def texts(page, element):
    return page.execute_script(
        "return [...arguments[0].querySelectorAll('.hoverlayer text')].map((text) => text.textContent).join(' ')",
        element,
    )


def test_a_run_is_switched_off_and_on_in_every_plot_by_keyboard(page):
    loss, margin = plot(page, "loss"), plot(page, "held-out reward margin")
    assert {name for name, _ in traces(page, loss)} == {"dpo", "kto", "simpo"}
    button = page.find_elements(By.CSS_SELECTOR, ".legend button")[1]
    button.send_keys(Keys.ENTER)
    for element in (loss, margin):
        assert {name for name, _ in traces(page, element)} == {"dpo", "simpo"}
    focused = page.switch_to.active_element
    assert (focused.text, focused.get_attribute("aria-pressed")) == ("kto", "false")
    focused.send_keys(Keys.SPACE)
    assert {name for name, _ in traces(page, loss)} == {"dpo", "kto", "simpo"}


def test_smoothing_draws_the_mean_that_forgets_over_the_raw_line(page):
    element = plot(page, "loss")
    raw = dict(traces(page, element))["dpo"]
    slide(page, 0.9)
    drawn = traces(page, element)
    assert len(drawn) == 6
    expected, total, weight = [], 0.0, 0.0
    for value in raw:
        total, weight = 0.9 * total + value, 0.9 * weight + 1
        expected.append(total / weight)
    assert dict(drawn)["dpo"] == pytest.approx(expected, rel=1e-9)
    assert find(page, "output").text == "0.90"
    rate = plot(page, "learning rate")
    assert len(traces(page, rate)) == 3, "what carries no noise is not smoothed"


def test_curves_can_stand_against_rows(page):
    element = plot(page, "loss")
    Select(find(page, "#axis")).select_by_value("rows")
    assert page.execute_script("return arguments[0].data[0].x.slice(0, 3)", element) == [16, 32, 48]
    assert page.execute_script("return arguments[0].layout.xaxis.title.text", element) == "rows"


def test_intervals_of_held_out_accuracy_are_drawn(page):
    element = plot(page, "held-out reward accuracy")
    low = page.execute_script("return arguments[0].data[0].error_y.arrayminus", element)
    assert low == pytest.approx([0.06] * len(low))


@pytest.mark.parametrize("dark", [False, True])
def test_page_and_plots_follow_the_system_and_the_button(browser, address, dark):
    page = opened(browser, address, dark=dark)
    element, body = plot(page, "loss"), find(page, "body")
    paper = "return arguments[0].layout.paper_bgcolor"
    before = background(page, body)
    assert page.execute_script(paper, element) == before
    page.execute_script("scrollTo(0, 0)")
    find(page, "#theme").click()
    assert background(page, body) != before
    until(page, lambda: page.execute_script(paper, element) == background(page, body))


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_the_page_is_as_wide_as_the_window(browser, address, width):
    page = opened(browser, address, width=width)
    plot(page, "loss")
    wide, seen = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide == seen


def test_a_name_that_is_markup_is_shown_and_does_nothing(browser, tmp_path):
    name = "<img src=x onerror='window.harmed=1'>&amp;"
    write(read_runs([write_run(tmp_path / name)]), tmp_path / "report.html")
    page = opened(browser, (tmp_path / "report.html").as_uri())
    element = plot(page, "rewards")
    ActionChains(page).move_to_element_with_offset(element, -150, 0).move_to_element_with_offset(
        element, -140, 0
    ).perform()
    until(page, lambda: name in texts(page, element))
    assert page.execute_script("return window.harmed") is None
    assert name in find(page, ".legend").text
