"""The page in a real browser: headless Chromium, driven through its own driver."""

import json
import shutil

import pytest

pytest.importorskip("selenium", reason="selenium is not installed (the extra `develop` brings it)")

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from prefopt.bench import report
from tests.bench.records import FAILED, records

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with a chromedriver on the PATH")


@pytest.fixture(scope="module")
def browser():
    options = Options()
    options.binary_location = BROWSER
    # --no-sandbox: in containers, where tests run as root, Chromium cannot start its sandbox
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(records(), path)
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    return opened(browser, address)


def opened(browser, address, *, width=1400, dark=False):
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    return browser


def find(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def drawn(page, selector):
    """The plot, scrolled to and drawn."""
    element = find(page, selector)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    until(page, lambda: page.execute_script("return Boolean(arguments[0].querySelector('.main-svg'))", element))
    return element


def until(page, condition):
    """The condition's value once it is true."""
    return WebDriverWait(page, 20).until(lambda _: condition())


def names(page, body):
    rows = page.find_elements(By.CSS_SELECTOR, f"#leaderboard .board tbody:nth-of-type({body}) tr:not(.divider) th")
    return [row.text.strip("●≈◇†") for row in rows]


def head(page, title):
    heads = page.find_elements(By.CSS_SELECTOR, "#leaderboard .board thead th")
    return next(each for each in heads if each.text.startswith(title))


def labels(page):
    return page.execute_script(
        "return [...document.querySelectorAll('.hovertext .line')].map((line) => line.textContent).join(' ')"
    )


def hover(page, element):
    ActionChains(page).move_to_element_with_offset(element, 3, 3).move_to_element(element).perform()


def background(page, element):
    return page.execute_script("return getComputedStyle(arguments[0]).backgroundColor", element)


def test_the_page_loads_without_an_error_on_the_console(page):
    for plot in ("#tasks .frontier", "#tasks .sensitivity", "#language-models .frontier", ".heat-map"):
        drawn(page, plot)
    severe = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_the_page_asks_for_nothing_but_itself(page, address):
    drawn(page, "#tasks .frontier")
    drawn(page, ".heat-map")
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert address in asked
    assert [url for url in asked if not url.startswith(("data:", "blob:", address))] == []


def test_a_click_on_a_head_sorts_and_a_second_one_reverses(page):
    before, bounds = names(page, 1), names(page, 2)
    share = head(page, "trials near best")
    share.click()
    ascending = names(page, 1)
    assert share.get_attribute("aria-sort") == "ascending"
    assert ascending != before
    assert sorted(ascending) == sorted(before)
    share.click()
    assert share.get_attribute("aria-sort") == "descending"
    assert names(page, 1) != ascending
    assert names(page, 1)[-1] == ascending[-1] == "reference", "what has no value stays last"
    assert sorted(names(page, 2)) == sorted(bounds)


def test_a_head_sorts_by_keyboard_and_by_number(page):
    area = head(page, "area ratio")
    area.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert area.get_attribute("aria-sort") == "ascending"
    shown = page.find_elements(By.CSS_SELECTOR, "#leaderboard .board tbody:first-of-type td:nth-of-type(1)")
    areas = [float(each.text.split()[0]) for each in shown]
    assert areas == sorted(areas)
    assert areas[0] != areas[-1]
    method = head(page, "method")
    method.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert names(page, 1) == sorted(names(page, 1))
    assert area.get_attribute("aria-sort") is None


def test_the_selector_redraws_the_plots_and_shows_the_table_of_its_task(page):
    frontier = drawn(page, "#tasks .frontier")
    curves = "return JSON.stringify(arguments[0].data.map((trace) => trace.y))"
    before = page.execute_script(curves, frontier)
    Select(find(page, "#tasks .setting")).select_by_visible_text("intransitive")
    assert page.execute_script(curves, frontier) != before
    shown = [each for each in page.find_elements(By.CSS_SELECTOR, "#tasks .of-setting") if each.is_displayed()]
    assert [each.find_element(By.TAG_NAME, "h3").text for each in shown] == ["intransitive"]
    assert "exploitability" in shown[0].text


def test_hovering_over_a_point_names_method_kl_reward_trial_and_cells(page):
    frontier = drawn(page, "#tasks .frontier")
    hover(page, frontier.find_elements(By.CSS_SELECTOR, ".points path")[4])
    label = until(page, lambda: "trial" in labels(page) and labels(page))
    method = label.split()[0]
    of_method = [each for each in records() if (each["task"], each["method"]) == ("bradley_terry", method)]
    assert len(of_method) == 2
    for part in ("KL", "nats", "reward", "step", *(each["cell"] for each in of_method)):
        assert part in label


def test_hovering_over_the_heat_map_tells_numbers_and_failures(page):
    heat_map = drawn(page, ".heat-map")
    hover(page, heat_map.find_element(By.CSS_SELECTOR, ".points path"))
    label = until(page, lambda: labels(page))
    assert FAILED[1] in label
    assert "not finite" in label
    methods, columns = page.execute_script("return [figures.heat_map.methods, figures.heat_map.settings]")
    hover(page, heat_map.find_element(By.CSS_SELECTOR, ".xy .nsewdrag, .nsewdrag"))
    label = until(page, lambda: "[" in labels(page) and labels(page))
    assert label.split()[0] in methods
    assert any(column in label for column in columns)


def test_a_click_on_the_heat_map_chooses_the_task(page):
    heat_map = drawn(page, ".heat-map")
    hover(page, heat_map.find_element(By.CSS_SELECTOR, ".points path"))
    until(page, lambda: labels(page))
    ActionChains(page).click().perform()
    chosen = Select(find(page, "#tasks .setting"))
    until(page, lambda: chosen.first_selected_option.text == FAILED[0])


def test_the_legend_shows_and_hides_a_method_in_both_plots(page):
    frontier, sensitivity = drawn(page, "#tasks .frontier"), find(page, "#tasks .sensitivity")
    shown = "return arguments[0].data.some((trace) => trace.name === 'dpo')"
    assert page.execute_script(shown, frontier)
    assert page.execute_script(shown, sensitivity)
    switch = next(
        each for each in page.find_elements(By.CSS_SELECTOR, "#tasks .legend button") if each.text.startswith("dpo")
    )
    switch.send_keys(Keys.ENTER)
    assert not page.execute_script(shown, frontier)
    assert not page.execute_script(shown, sensitivity)
    assert page.switch_to.active_element.get_attribute("aria-pressed") == "false"


def test_another_hyperparameter_moves_the_points_of_the_sensitivity_plot(page):
    sensitivity = drawn(page, "#tasks .sensitivity")
    values = "return JSON.stringify(arguments[0].data.map((trace) => trace.x))"
    before = page.execute_script(values, sensitivity)
    Select(find(page, "#tasks .hyperparameter")).select_by_visible_text("learning_rate")
    assert page.execute_script(values, sensitivity) != before


@pytest.mark.parametrize("dark", [False, True])
def test_page_and_plots_follow_the_system_and_the_button(browser, address, dark):
    page = opened(browser, address, dark=dark)
    frontier, body = drawn(page, "#tasks .frontier"), find(page, "body")
    paper = "return arguments[0].layout.paper_bgcolor"
    before = background(page, body)
    assert page.execute_script(paper, frontier) == before
    page.execute_script("scrollTo(0, 0)")
    find(page, "#theme").click()
    after = background(page, body)
    assert after != before
    until(page, lambda: page.execute_script(paper, frontier) == after)


def test_the_light_and_the_dark_page_differ(browser, address):
    light = background(browser, find(opened(browser, address), "body"))
    assert background(browser, find(opened(browser, address, dark=True), "body")) != light


def test_a_cell_of_a_row_leads_to_its_line_in_the_list(page):
    find(page, "#leaderboard td.cells summary").click()
    link = find(page, "#leaderboard td.cells a")
    cell = link.text
    link.click()
    line = find(page, f"#cell-{cell}")
    until(page, line.is_displayed)
    assert line.text.startswith(cell)


def test_the_search_narrows_the_list_of_cells(page):
    find(page, "#cells summary").click()
    find(page, "input[data-table=ledger]").send_keys("dpo intransitive")
    lines = [line for line in page.find_elements(By.CSS_SELECTOR, "#ledger tbody tr") if line.is_displayed()]
    assert len(lines) == 2
    assert all("dpo" in line.text and "intransitive" in line.text for line in lines)


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_is_as_wide_as_the_window_and_tables_scroll_in_their_box(browser, address, width):
    page = opened(browser, address, width=width)
    drawn(page, ".heat-map")
    wide, seen = page.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide == seen


def test_a_name_that_is_markup_is_shown_and_does_nothing(browser, tmp_path):
    name = "<i>&amp;</i><img src=x onerror='window.harmed=1'><script>window.harmed=1</script>"
    hostile = records(contenders={name: 0.9, "dpo": 0.8}, failed=("label_noise", name))
    for record in hostile:
        if record["error"]:
            record["error"] = name
    report.write(hostile, tmp_path / "report.html")
    page = opened(browser, (tmp_path / "report.html").as_uri())
    frontier = drawn(page, "#tasks .frontier")
    drawn(page, ".heat-map")
    hover(page, frontier.find_elements(By.CSS_SELECTOR, ".points path")[0])
    until(page, lambda: name in labels(page))
    assert page.execute_script("return window.harmed") is None
    assert name in find(page, "#leaderboard").text
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
