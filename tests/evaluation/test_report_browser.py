"""The page as a visitor's browser sees it: headless Chromium, on a desk and on a phone."""

import json
import shutil
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def page(browser: webdriver.Chrome, report: Path, tmp_path_factory: pytest.TempPathFactory) -> webdriver.Chrome:
    """The browser with the report's page open, alone in a folder."""
    browser.get(Path(shutil.copy(report / "index.html", tmp_path_factory.mktemp("alone"))).as_uri())
    return browser


def test_nothing_is_requested_and_nothing_goes_wrong(page: webdriver.Chrome) -> None:
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # The first tab's own page makes requests of its own, all inside the browser.
    requests = [event["request"]["url"] for event in sent if not event["documentURL"].startswith("chrome:")]
    assert page.current_url in requests  # the log does record requests
    assert {url for url in requests if not url.startswith("data:")} == {page.current_url}
    assert page.get_log("browser") == []


def test_all_pictures_and_tables_are_there(page: webdriver.Chrome) -> None:
    widths = page.execute_script("return [...document.images].map(image => image.naturalWidth)")
    # 5 domains, 5 charts, 5 scenes of 2 + 3 x 2 pictures, 3 conditions of 4 pairs
    assert len(widths) == 5 + 5 + 5 * 8 + 3 * 4 * 2
    assert min(widths) > 0
    assert all(image.get_attribute("alt") for image in page.find_elements(By.TAG_NAME, "img"))
    assert len(page.find_elements(By.CSS_SELECTOR, ".scores tbody tr")) == 3
    assert len(page.find_elements(By.CSS_SELECTOR, ".heat")) == 3
    assert len(page.find_elements(By.CSS_SELECTOR, ".heat tbody td")) == 3 * 19 * 6
    assert page.title.startswith("toy: flexseg reaches")


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen(page: webdriver.Chrome, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert page.execute_script("return window.innerWidth") == width
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    cut_off = """return [...document.querySelectorAll("td, th, dd, figcaption, img")]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert page.execute_script(cut_off) == []
