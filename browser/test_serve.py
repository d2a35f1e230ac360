"""The page of --mode serve as a person meets it: a real server of a real, tiny run, drawn on by pointer and keyboard."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from browser.conftest import browser, requests_of
from browser.test_pages import AXE, SCREENSHOTS, screenshot
from tests.commands.conftest import ROOT
from tests.conftest import COMPILATION_CACHE
from tests.test_generation import leave_run, tiny

PATIENCE = 120  # seconds, where other programs have the processor
SIZE = 8  # pixels a side of the run's images


class Started(NamedTuple):
    """The process that shows the page, its address, and the file with what it says of errors."""

    process: subprocess.Popen[str]
    url: str
    errors: Path


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """One that shows the page of a tiny run."""
    root = tmp_path_factory.mktemp("serve")
    workdir = leave_run(root / "run", tiny(model={"label_dropout": 0.1}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "run.py", "--mode=serve", f"--workdir={workdir}", f"--port={port}"]
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": str(COMPILATION_CACHE)}
    errors = root / "stderr"
    with errors.open("w") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **quickly}, stdout=subprocess.PIPE, stderr=said, text=True
        )
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{port}/"
        assert process.stdout.readline() == f"page: {url} (Ctrl-C ends it)\n", errors.read_text()
        yield Started(process, url, errors)
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture(scope="module")
def server(started):
    """The address of the page."""
    return started.url


@pytest.fixture(scope="module")
def page(server):
    """The page, opened once for all tests."""
    with browser() as driver:
        resize(driver, 1200)
        driver.get("about:blank")
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(server)
        wait(driver, lambda: driver.find_elements(By.ID, "draw"))
        yield driver


def resize(driver, width):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    )


def wait(driver, condition):
    return WebDriverWait(driver, PATIENCE, 0.05).until(lambda _: condition())


def by_script(driver, selector, what):
    """A property of all elements, at one instant: Gradio replaces them at any time."""
    return driver.execute_script(f"return [...document.querySelectorAll({selector!r})].map(each => each.{what})")


def said(driver):
    return " ".join(by_script(driver, ".drawn [role=status], .wrong, .said", "textContent"))


def settings(driver):
    """What the page says of the pictures."""
    return dict(zip(*(by_script(driver, f".drawn {tag}", "textContent") for tag in ("dt", "dd")), strict=True))


def pixels(driver, number=0):
    """A picture of the result."""
    source = by_script(driver, ".drawn img", "src")[number]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))


def press(driver, name):
    """Presses a button that draws, waits for the end, and returns the pictures [N, 8, 8] that it came to."""
    driver.execute_script("document.querySelectorAll('.drawn, .wrong').forEach(each => each.remove())")
    driver.find_element(By.ID, name).click()
    wait(driver, lambda: "Done" in said(driver) or driver.find_elements(By.CLASS_NAME, "wrong"))
    assert "Done" in said(driver), said(driver)
    picture = pixels(driver)
    count = int(driver.find_element(By.CSS_SELECTOR, "#images input[type=number]").get_attribute("value"))
    across, step = (picture.shape[1] - 1) // (SIZE + 1), SIZE + 1
    corners = [(number // across * step + 1, number % across * step + 1) for number in range(count)]
    return np.stack([picture[top : top + SIZE, left : left + SIZE] for top, left in corners])


def enter(driver, name, value):
    """Types a number."""
    field = driver.find_element(By.CSS_SELECTOR, f"#{name} input[type=number]")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(value), Keys.TAB)


def choose(driver, name, text):
    """Chooses from a list."""
    driver.find_element(By.CSS_SELECTOR, f"#{name} input").click()
    wait(driver, lambda: text in by_script(driver, "[role=option]", "textContent.replace('✓', '').trim()"))
    number = by_script(driver, "[role=option]", "textContent.replace('✓', '').trim()").index(text)
    driver.find_elements(By.CSS_SELECTOR, "[role=option]")[number].click()


def open_tab(driver, name):
    next(each for each in driver.find_elements(By.CSS_SELECTOR, "[role=tab]") if each.text == name).click()


def test_the_chain_is_shown_as_it_runs(page):
    page.execute_script("""
        window.met = [];
        new MutationObserver(() => {
            const image = document.querySelector(".drawn img"), progress = document.querySelector(".drawn progress");
            if (image && window.met.at(-1)?.[1] !== image.src) window.met.push([progress.value, image.src]);
        }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
    """)
    images = press(page, "draw")
    places = [place for place, _ in page.execute_script("return window.met")]
    assert places[-1] == 8
    assert len(set(places)) >= 3
    assert places == sorted(places)
    assert images.shape == (10, SIZE, SIZE)
    assert settings(page)["sampler"] == "ddim, 8 steps, 8 evaluations of the network"
    assert settings(page)["class"] == "every class in turn"
    assert "run.py --mode sample" in by_script(page, ".drawn pre", "textContent")[0]
    assert all(by_script(page, ".drawn img", "alt"))


def test_a_seed_is_a_picture_and_class_and_sampler_make_others(page):
    enter(page, "images", 2)
    enter(page, "seed", 5)
    first = press(page, "draw")
    assert settings(page)["seed"] == "5"
    np.testing.assert_array_equal(press(page, "draw"), first)
    choose(page, "class", "7")
    other = press(page, "draw")
    assert settings(page)["class"] == "7"
    assert np.any(other != first)
    choose(page, "sampler", "euler")
    enter(page, "steps", 4)
    assert np.any(press(page, "draw") != other)
    assert settings(page)["sampler"] == "euler, 4 steps, 4 evaluations of the network"
    enter(page, "scale", 3)
    press(page, "draw")
    assert settings(page)["guidance"] == "scale 3"
    before = page.find_element(By.CSS_SELECTOR, "#seed input").get_attribute("value")
    page.find_element(By.ID, "another").click()
    wait(page, lambda: page.find_element(By.CSS_SELECTOR, "#seed input").get_attribute("value") != before)


def test_what_cannot_be_is_told_on_the_page(page):
    enter(page, "seed", -3)
    page.find_element(By.ID, "draw").click()
    wait(page, lambda: "seed -3: expected a whole number from 0 to 2147483647" in said(page))
    enter(page, "seed", 5)
    open_tab(page, "Inpaint")
    wait(page, lambda: page.find_elements(By.TAG_NAME, "canvas"))
    page.find_element(By.ID, "fill").click()
    wait(page, lambda: "there is no picture yet" in said(page))
    assert "Traceback" not in page.page_source


def test_what_is_painted_over_is_drawn_anew_and_the_rest_kept(page, tmp_path):
    choose(page, "sampler", "ddim")
    enter(page, "scale", 1)
    enter(page, "images", 1)
    open_tab(page, "Draw")
    (drawn,) = press(page, "draw")
    open_tab(page, "Inpaint")
    page.find_element(By.ID, "take").click()
    wait(page, lambda: "The picture is there" in said(page))
    canvas = page.find_element(By.TAG_NAME, "canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    pixel = canvas.size["width"] / SIZE

    def at(column, row):
        return {"xoffset": round((column + 0.5 - SIZE / 2) * pixel), "yoffset": round((row + 0.5 - SIZE / 2) * pixel)}

    pointer = ActionChains(page, duration=50)
    pointer.move_to_element_with_offset(canvas, **at(1, 2)).click_and_hold()
    pointer.move_to_element_with_offset(canvas, **at(6, 2)).release().perform()
    assert by_script(page, "[data-painted]", "textContent") == ["6 of 64 pixels are painted."]
    canvas.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.SPACE)  # two below where the pointer ended
    assert by_script(page, "[data-painted]", "textContent") == ["7 of 64 pixels are painted."]
    mask = np.zeros((SIZE, SIZE), bool)
    mask[2, 1:7] = mask[4, 6] = True
    (filled,) = press(page, "fill")
    np.testing.assert_array_equal(filled[~mask], drawn[~mask])
    assert np.any(filled[mask] != drawn[mask])
    assert settings(page)["resamples"] == "5, stretches of 10 steps"
    assert "run.py --mode edit" in by_script(page, ".drawn pre", "textContent")[0]
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for link in page.find_elements(By.CSS_SELECTOR, ".drawn a[download]"):
        link.click()
    for name, expected in (("picture.png", drawn), ("mask.png", mask * np.uint8(255))):
        wait(page, (tmp_path / name).is_file)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), expected)


def test_a_picture_is_uploaded_and_what_is_none_is_refused(page, tmp_path):
    (tmp_path / "none.png").write_text("no picture")
    ramp = np.arange(64, dtype=np.uint8).reshape(SIZE, SIZE) * 4
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    upload = page.find_element(By.CSS_SELECTOR, "input[type=file]")
    upload.send_keys(str(tmp_path / "none.png"))
    wait(page, lambda: "cannot be read as a picture" in said(page))
    upload.send_keys(str(tmp_path / "ramp.png"))
    wait(page, lambda: "The picture is there" in said(page))
    for text in ("Clear", "Right half"):
        next(each for each in page.find_elements(By.CSS_SELECTOR, ".tools button") if each.text == text).click()
    (filled,) = press(page, "fill")
    np.testing.assert_array_equal(filled[:, :4], ramp[:, :4])
    assert np.any(filled[:, 4:] != ramp[:, 4:])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_is_as_wide_as_the_screen_and_axe_finds_nothing_that_keeps_anyone_out(page, width, dark):
    resize(page, width)
    colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours]})
    wait(page, lambda: page.execute_script("return document.body.classList.contains('dark')") == dark)
    wait(page, lambda: page.execute_script("return document.documentElement.scrollWidth") <= width)
    SCREENSHOTS.mkdir(exist_ok=True)
    (SCREENSHOTS / f"serve_{width}{'_dark' * dark}.png").write_bytes(screenshot(page))
    page.execute_script(AXE.read_text())
    found = page.execute_async_script("const done = arguments[0]; axe.run().then(done, error => done({error: String(error)}))")
    assert found["violations"] == [], [
        (each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]
    ]
    assert len(found["passes"]) > 20


def test_nothing_was_asked_of_another_machine_and_the_console_was_silent(page, server):
    asked = requests_of(page)
    assert len(asked) > 20  # of this one
    assert [url for url in asked if not url.startswith((server, "blob:"))] == []
    assert page.get_log("browser") == []


def test_the_browser_itself_keeps_the_page_from_asking_others(page):
    page.execute_script("new Image().src = 'http://127.0.0.2:9/picture.png'")
    time.sleep(0.2)
    messages = page.get_log("browser")
    assert any("Content Security Policy" in row["message"] for row in messages), messages


def begin(page, steps):
    """Presses a button that draws, by a chain that has to be compiled first."""
    enter(page, "steps", steps)
    page.find_element(By.ID, "draw" if page.find_element(By.ID, "draw").is_displayed() else "fill").click()
    wait(page, lambda: "Getting ready" in said(page))


def test_it_says_when_it_was_stopped(page):
    begin(page, 6)
    page.find_element(By.ID, "stop").click()
    wait(page, lambda: "Stopped: " in said(page))
    assert "Done" not in said(page)


def test_it_ends_well_while_it_is_at_work(page, started):
    begin(page, 7)
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(PATIENCE) == 0
    assert started.process.stdout.read() == "the page is closed\n"
    assert "Traceback" not in started.errors.read_text(), started.errors.read_text()
