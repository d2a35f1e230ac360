"""Pages of a real, tiny run, in a real browser."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

import tests.conftest  # noqa: F401, for the devices that it makes
from jax_ddpm.commands import compare, evaluate, report, sample, train
from jax_ddpm.config import read_config
from tests.commands.conftest import make_tiny_config
from tests.compiling import optimised

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
Open = Callable[..., WebDriver]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a run of which there is all that a report shows, of one that has only begun, and both compared."""
    root = tmp_path_factory.mktemp("browser")
    workdir, bare = root / "whole", root / "bare"
    with optimised(False):
        train.main(make_tiny_config(), workdir)
        for settings in ({}, {"name": "ddim", "steps": 4}):
            config = read_config(workdir)
            config.sampler.update(settings)
            sample.draw(config, workdir)
        config = read_config(workdir)
        config.eval.update(metrics=("bits_per_dim", "nearest"), count=8)
        evaluate.main(config, workdir)
    bare.mkdir()
    shutil.copy(workdir / "config.json", bare)
    for each in (workdir, bare):
        report.main(read_config(each), each)
    config = read_config(workdir)
    config.compare.update(workdirs=(str(workdir), str(bare)), out=str(root / "compare.html"))
    compare.main(config, workdir)
    return {"whole": workdir / "report.html", "bare": bare / "report.html", "compare": root / "compare.html"}


@contextmanager
def browser() -> Iterator[WebDriver]:
    """A Chromium that nobody has used before, which keeps a log of its console and of its requests."""
    options = webdriver.ChromeOptions()
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(programs.values()), "expected chromium and chromedriver: apt-get install chromium chromium-driver"
    options.binary_location = str(programs["chromium"])
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
        try:
            yield driver
        finally:
            driver.quit()


@pytest.fixture(scope="session")
def chromium() -> Iterator[WebDriver]:
    """One for all tests."""
    with browser() as driver:
        yield driver


@pytest.fixture
def opened(chromium: WebDriver, pages: dict[str, Path]) -> Iterator[Open]:
    """(which page, dark, less motion, width, script) -> the browser that shows it, each time loaded anew."""

    def tell(command: str, **words: Any) -> None:
        chromium.execute_cdp_cmd(command, words)

    with ExitStack() as after:
        after.callback(tell, "Emulation.setScriptExecutionDisabled", value=False)

        def show(
            page: str, *, dark: bool = False, still: bool = False, width: int = 1200, script: bool = True, media: str = ""
        ) -> WebDriver:
            colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            motion = {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}
            tell("Emulation.setEmulatedMedia", media=media, features=[colours, motion])
            tell("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
            tell("Emulation.setScriptExecutionDisabled", value=not script)
            chromium.get("about:blank")  # away from what was open, whose requests are not the page's
            for log in ("browser", "performance"):
                chromium.get_log(log)
            chromium.get(pages[page].as_uri())
            return chromium

        yield show


def requests_of(driver: WebDriver) -> list[str]:
    """What was asked for since the page was opened, but for what is within it."""
    messages = (json.loads(row["message"])["message"] for row in driver.get_log("performance"))
    sent = (each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent")
    return [url for url in sent if not url.startswith("data:")]
