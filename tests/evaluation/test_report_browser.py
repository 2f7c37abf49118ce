"""The page as a visitor's browser sees it: headless Chromium, on a desk, on a phone and on paper."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
CUT_OFF = """return [...document.querySelectorAll("td, th, dd, figcaption, img, p, li, h1, h2, h3, h4, summary")]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != "inline")
    .map(e => e.outerHTML.slice(0, 80))"""
"""What is wider than its own box."""
OUTSIDE = """return [...document.querySelectorAll("main *, header *")]
    .filter(e => !e.closest(".scroll") && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.outerHTML.slice(0, 80))"""
"""What reaches beyond the screen without being in a box that scrolls."""
FAINT = """
function parts(color) { return color.match(/[\\d.]+/g).map(Number) }
function luminance(rgb) {
  const [r, g, b] = rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function background(element) {
  for (let e = element; e; e = e.parentElement) {
    const [r, g, b, a] = parts(getComputedStyle(e).backgroundColor);
    if (a === undefined || a === 1) return [r, g, b];
  }
  return [255, 255, 255];
}
return [...document.querySelectorAll("body *")]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.checkVisibility())
  .map(e => {
    const colors = [parts(getComputedStyle(e).color).slice(0, 3), background(e)];
    const [light, dark] = colors.map(luminance).sort((a, b) => b - a);
    return [(light + .05) / (dark + .05), e.outerHTML.slice(0, 80)];
  }).filter(([contrast]) => contrast < 4.5)"""
"""Text whose contrast is below WCAG 2's 4.5."""


OWN = ("chrome:", "chrome-untrusted:")
"""Chromium's own pages: its empty first tab may still be loading when ours is asked for."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=["report", "crowded_report"])
def page(
    browser: webdriver.Chrome, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> webdriver.Chrome:
    """The browser with a report's page open, alone in a folder."""
    file = request.getfixturevalue(request.param) / "index.html"
    browser.get_log("performance")
    browser.get(Path(shutil.copy(file, tmp_path_factory.mktemp("alone"))).as_uri())
    return browser


def test_nothing_is_requested_and_nothing_goes_wrong(page: webdriver.Chrome) -> None:
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    requests = [event["request"]["url"] for event in sent if not event["documentURL"].startswith(OWN)]
    assert page.current_url in requests  # the log does record requests
    assert {url for url in requests if not url.startswith("data:")} == {page.current_url}
    assert page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert page.get_log("browser") == []


def test_all_pictures_and_tables_are_there(page: webdriver.Chrome) -> None:
    widths = page.execute_script("return [...document.images].map(image => image.naturalWidth)")
    scenes = page.execute_script(
        "return [...document.querySelectorAll('.scene')].map(s => s.querySelectorAll('img').length)"
    )
    charts = page.find_elements(By.CSS_SELECTOR, "img.chart")
    methods, places, strip, chart_count, groups, columns, cards = (
        (3, 6, 5, 11, 3, 8, 3 * 4 * 2) if page.title.startswith("toy") else (10, 4, 2, 11, 4, 6, 0)
    )
    assert len(charts) == chart_count
    assert set(scenes) == {columns}  # image and truth, prediction and errors of each method shown
    assert len(page.find_elements(By.CSS_SELECTOR, "#predictions h3")) in (groups, groups - 1)
    assert len(widths) == strip + len(charts) + len(scenes) * columns + cards
    assert min(widths) > 0
    assert all(image.get_attribute("alt") for image in page.find_elements(By.TAG_NAME, "img"))
    assert len(page.find_elements(By.CSS_SELECTOR, ".scores tbody:first-of-type tr")) == methods
    assert len(page.find_elements(By.CSS_SELECTOR, ".heat.wide tbody td")) == methods * 20
    assert len(page.find_elements(By.CSS_SELECTOR, ".maps .heat tbody td")) == (methods + 1) * 19 * places


@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_the_screen(page: webdriver.Chrome, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert page.execute_script("return window.innerWidth") == width
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script(CUT_OFF) == []
    assert page.execute_script(OUTSIDE) == []
    wide = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth)"
    )
    assert any(wide) == (width == 360)  # there the boxes do scroll


def test_text_is_dark_enough_and_headings_are_in_order(page: webdriver.Chrome) -> None:
    assert page.execute_script(FAINT) == []
    levels = [int(h.tag_name[1]) for h in page.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4, h5, h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    anchors = page.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(anchors) >= 6
    assert all(page.find_elements(By.CSS_SELECTOR, anchor) for anchor in anchors)


def test_paper_shows_all_of_it(page: webdriver.Chrome) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = "return [...document.querySelectorAll('details dl, details ul')].filter(e => !e.checkVisibility()).length"
    assert page.execute_script(hidden) == 0
    assert page.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
