"""The search page in a real headless browser."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from searchpipe.serve.app import create_app
from tests.fakes.hashed_stages import hashed_pipeline

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver in PATH: make browser"
)


@pytest.fixture(scope="module")
def address(snapshot_folder: Path) -> Iterator[str]:
    config = {"budget": {"default_ms": 5000.0}}
    with hashed_pipeline(snapshot_folder, config) as pipeline:
        app = create_app(pipeline)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run)
        thread.start()
        end = time.monotonic() + 30
        while not (server.started and app.state.service.status == "ready"):
            assert time.monotonic() < end
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--window-size=1200,1000", f"--user-data-dir={tmp_path_factory.mktemp('browser')}"),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


def wait(browser: Any, script: str) -> Any:
    end = time.monotonic() + 30
    while not (found := browser.execute_script(f"return {script}")):
        assert time.monotonic() < end, f"{script}; {browser.get_log('browser')}"
        time.sleep(0.02)
    return found


def search(browser: Any, text: str) -> None:
    box = browser.find_element("id", "query")
    box.clear()
    box.send_keys(text)
    browser.execute_script("document.getElementById('summary').textContent = ''")
    box.submit()
    wait(browser, "document.getElementById('summary').textContent")


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    browser.get(address)
    wait(browser, "document.querySelectorAll('#stages input').length === 7")
    return browser


def texts(browser: Any, selector: str) -> list[str]:
    return [one.text for one in browser.find_elements("css selector", selector)]


def test_a_query_shows_results_scores_reasons_and_the_trace(page: Any) -> None:
    assert "5 products" in page.find_element("id", "about").text
    search(page, "red running shoes")
    assert texts(page, "#hits .title")[0] == "Red running shoes"
    assert any(text.startswith("score ") for text in texts(page, "#hits li:first-child .score"))
    assert "lexical rank" in texts(page, "#hits li:first-child .reasons")[0]
    assert texts(page, "#hits .price")[0] == "49.50"
    assert texts(page, "#trace tbody th") == [
        *("tokenize", "encode", "recall", "prerank", "score", "diversify", "page")
    ]
    bars = page.execute_script(
        "return [...document.querySelectorAll('#trace rect')].map(r => r.getBoundingClientRect().left)"
    )
    assert bars == sorted(bars)  # a waterfall
    assert "results in" in page.find_element("id", "summary").text
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_switch_leaves_its_stage_out(page: Any) -> None:
    search(page, "shoes")
    page.execute_script("document.getElementById('summary').textContent = ''")
    page.find_element("css selector", "#stages input[name=score]").click()
    wait(page, "document.getElementById('summary').textContent")
    assert texts(page, "#trace tr.off th") == ["score"]
    assert not any(text.startswith("score ") for text in texts(page, "#hits .score"))
    for name in ("recall", "page"):
        assert not page.find_element("css selector", f"#stages input[name={name}]").is_enabled()


def test_what_was_given_up_is_shown(page: Any) -> None:
    budget = page.find_element("id", "budget")
    page.execute_script("arguments[0].min = 0", budget)
    budget.send_keys("0.001")
    search(page, "shoes")
    shown = texts(page, "#degradations li")
    assert any("deadline" in text for text in shown)
    assert "late, degraded" in page.find_element("id", "summary").text
    assert len(page.find_elements("css selector", "#trace line")) == 7  # where the budget ended


def test_an_error_of_the_service_is_shown_and_goes_away(page: Any) -> None:
    page.execute_script("document.getElementById('k').removeAttribute('max')")
    count = page.find_element("id", "k")
    count.clear()
    count.send_keys("100000")
    page.find_element("id", "query").send_keys("shoes")
    page.find_element("id", "query").submit()
    wait(page, "document.getElementById('error').textContent.includes('pipeline.max_k')")
    count.clear()
    count.send_keys("3")
    search(page, "shoes")
    assert page.find_element("id", "error").text == ""


def test_markup_in_a_query_stays_text(page: Any) -> None:
    search(page, "<img src=x onerror=\"document.title='broken'\"> shoes")
    assert page.title == "searchpipe"


def test_it_can_be_used_without_a_mouse_and_read_aloud(page: Any) -> None:
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('input, button')]"
        ".filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).length"
    )
    assert unnamed == 0
    assert page.find_element("css selector", "html").get_attribute("lang") == "en"
    assert page.switch_to.active_element.get_attribute("id") == "query"
    page.switch_to.active_element.send_keys("boots\n")
    wait(page, "document.querySelectorAll('#hits li').length")
    labels = page.execute_script(
        "return [...document.querySelectorAll('#trace svg')].map(s => s.getAttribute('aria-label'))"
    )
    assert all(" ms for " in label for label in labels)
