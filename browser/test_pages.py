"""The pages of --mode report and --mode compare as a person meets them: seen, by the keyboard, read aloud, without motion."""

import base64
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser.conftest import requests_of

PAGES = ("whole", "bare", "compare")
AXE = Path(os.environ.get("AXE", Path(__file__).parent / "axe/package/axe.min.js"))
SCREENSHOTS = Path(__file__).parent / "screenshots"


def screenshot(driver):
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    whole = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True, "format": "png"}
    return base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", whole)["data"])


def shown(slider):
    """The pictures of a slider that are to be seen."""
    return [image for image in slider.find_elements(By.TAG_NAME, "img") if image.is_displayed()]


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_asked_of_the_network_and_the_console_is_silent(opened, pages, page):
    driver = opened(page)
    for button in driver.find_elements(By.TAG_NAME, "button"):
        button.click()
    assert requests_of(driver) == [pages[page].as_uri()]
    assert driver.get_log("browser") == []


def test_the_log_of_requests_would_show_one(opened):
    driver = opened("bare")
    driver.execute_script(
        "const image = new Image(); image.src = 'http://localhost:9/picture.png'; document.body.append(image)"
    )
    said = driver.get_log("browser")
    assert any("Content Security Policy" in row["message"] for row in said), said  # and the page's policy does not let it out


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_that_keeps_anyone_out(opened, page, dark):
    driver = opened(page, dark=dark)
    driver.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    driver.execute_script(AXE.read_text())
    found = driver.execute_async_script(
        "const done = arguments[0]; axe.run().then(done, error => done({error: String(error)}))"
    )
    assert found["violations"] == [], [
        (each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]
    ]
    assert len(found["passes"]) > 20


def test_a_slider_is_moved_by_the_keyboard_and_says_where_it_is(opened):
    driver = opened("whole")
    for slider in driver.find_elements(By.CSS_SELECTOR, "[data-slider]"):
        control, output = (slider.find_element(By.TAG_NAME, tag) for tag in ("input", "output"))
        last = int(control.get_attribute("max"))
        values = [each.get_attribute("data-value") for each in slider.find_elements(By.CSS_SELECTOR, "[data-value]")]
        assert len(values) == last + 1 > 1
        assert control.accessible_name == slider.find_element(By.TAG_NAME, "label").text
        for key, place in (
            (Keys.HOME, 0),
            (Keys.ARROW_RIGHT, 1),
            (Keys.ARROW_LEFT, 0),
            (Keys.END, last),
            (Keys.ARROW_DOWN, last - 1),
        ):
            control.send_keys(key)
            (image,) = shown(slider)
            assert values[place].removeprefix("step ") in image.get_attribute("alt")
            assert output.text == control.get_attribute("aria-valuetext") == values[place]


def test_tab_leads_to_the_content_and_then_to_all_that_can_be_worked(opened):
    driver = opened("whole")
    ActionChains(driver).send_keys(Keys.TAB).perform()
    first = driver.switch_to.active_element
    assert first.text == "Skip to the content"
    assert first.is_displayed()
    first.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "content"
    met = []
    for _ in range(40):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        met.append(driver.switch_to.active_element.tag_name)
    assert met.count("input") >= 2
    assert met.count("button") >= 1
    assert met.count("summary") >= 5


def test_an_animation_plays_until_it_is_paused(opened):
    driver = opened("whole")
    figure = driver.find_element(By.CSS_SELECTOR, "[data-animation]")
    image, button = (figure.find_element(By.TAG_NAME, tag) for tag in ("img", "button"))
    assert button.text == "Pause the animation"
    assert moves(image)
    button.send_keys(Keys.SPACE)
    assert button.text == "Play the animation"
    assert not moves(image)


def test_where_less_motion_is_asked_for_nothing_moves_until_it_is_played(opened):
    driver = opened("whole", still=True)
    figure = driver.find_element(By.CSS_SELECTOR, "[data-animation]")
    image, button = (figure.find_element(By.TAG_NAME, tag) for tag in ("img", "button"))
    assert not moves(image)
    assert button.text == "Play the animation"
    button.send_keys(Keys.ENTER)
    assert moves(image)


def moves(image, seconds=1.5):
    """Whether it looks another way at any of several times."""
    time.sleep(0.3)  # for a picture that has just taken the place of another
    first, end = image.screenshot_as_png, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.15)
        if image.screenshot_as_png != first:
            return True
    return False


@pytest.mark.parametrize("width", [1200, 390, 320])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", PAGES)
def test_it_is_light_or_dark_as_the_system_and_as_wide_as_the_screen(opened, page, dark, width):
    driver = opened(page, dark=dark, width=width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    picture = screenshot(driver)
    SCREENSHOTS.mkdir(exist_ok=True)
    (SCREENSHOTS / f"{page}_{'dark' if dark else 'light'}_{width}.png").write_bytes(picture)
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), float)
    assert (np.median(pixels) < 40) if dark else (np.median(pixels) > 240)
    assert pixels.std() > 10  # there are letters and lines on it


def test_without_script_every_state_is_shown(opened):
    driver = opened("whole", script=False)
    for slider in driver.find_elements(By.CSS_SELECTOR, "[data-slider]"):
        images = slider.find_elements(By.TAG_NAME, "img")
        assert shown(slider) == images
        assert not slider.find_element(By.TAG_NAME, "input").is_displayed()


def test_on_paper_there_is_nothing_to_press(opened):
    driver = opened("whole", media="print", dark=True)
    controls = driver.find_elements(By.CSS_SELECTOR, "button, input, nav")
    assert len(controls) >= 4
    assert not any(each.is_displayed() for each in controls)
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    paper = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert paper.startswith(b"%PDF")


def test_every_picture_and_every_link_is_whole(opened):
    driver = opened("whole")
    script = "return [...document.images].map(each => [each.complete, each.naturalWidth, each.alt])"
    pictures = driver.execute_script(script)
    assert len(pictures) > 10
    assert all(complete and width > 0 and alt for complete, width, alt in pictures)
    for link in driver.find_elements(By.CSS_SELECTOR, "nav a"):
        link.send_keys(Keys.ENTER)
        target = driver.find_element(By.ID, link.get_attribute("href").split("#")[1])
        assert target.find_element(By.TAG_NAME, "h2").text == link.text
