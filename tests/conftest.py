"""Fixtures shared by the tests: the repository's root, the book built once a session, and a headless browser."""

import os
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path

import matplotlib
import pytest

# Where pytest-xdist runs several processes they share the cores: a thread that waits must not keep its core busy, in a
# test or in a notebook's kernel, and a cell gets twice the time. Before torch is imported.
SHARED = "PYTEST_XDIST_WORKER" in os.environ
if SHARED:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
matplotlib.use("Agg")  # not through MPLBACKEND: the kernels that nbval starts inherit the environment
ROOT = Path(__file__).parents[1]
CHROMIUM_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--use-fake-device-for-media-stream",  # a camera that films a moving figure, and is allowed at once
    "--use-fake-ui-for-media-stream",
]


def pytest_configure(config):
    if SHARED:
        config.option.nbval_cell_timeout = max(config.option.nbval_cell_timeout, 240)


@pytest.fixture(scope="session")
def root():
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def book_build(tmp_path_factory):
    """The finished `jupyter-book build` process, warnings as errors, and the folder of HTML pages that it wrote.

    Where pytest-xdist runs several processes, the first that comes here builds the book for all.
    """
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "book"
    said, code = out / "said.txt", out / "code.txt"
    script = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [script, "build", ".", "-W", "-n", "--keep-going", "--path-output", out]
    try:
        out.mkdir()
    except FileExistsError:
        for _ in range(6000):
            if code.exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail("another process of the tests began to build the book and did not end", pytrace=False)
    else:
        with open(said, "w") as file:
            ended = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        (out / "code").write_text(str(ended.returncode))
        (out / "code").rename(code)  # whole, or not there
    process = subprocess.CompletedProcess(command, int(code.read_text()), said.read_text())
    return process, out / "_build" / "html"


@pytest.fixture(scope="session")
def html(book_build):
    """The folder of built pages."""
    process, pages = book_build
    if process.returncode:
        pytest.fail("the book did not build: see test_book_build.py", pytrace=False)
    return pages


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium that finds no host on the network; skips where none is installed.

    MIFAD_REQUIRE_BROWSER=1 makes a missing browser an error.
    """
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        reason = "needs Chromium and ChromeDriver (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("MIFAD_REQUIRE_BROWSER"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    class Chrome(webdriver.Chrome):
        """Chromium 150 on a busy machine can answer `get` before the page is whole, and a test would look at a part."""

        def get(self, url):
            before = self.current_url.partition("#")[0]
            super().get(url)
            wanted = url.partition("#")[0]

            def whole(driver):  # a page that sends on to another one ends elsewhere, so "not the one before" will do
                here, state = driver.execute_script("return [document.URL.split('#')[0], document.readyState]")
                return state == "complete" and (here == wanted or here != before)

            WebDriverWait(self, 60, 0.02).until(whole)

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in [*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    chromium = Chrome(options=options, service=Service(driver))
    chromium.set_page_load_timeout(60)
    chromium.set_script_timeout(60)
    yield chromium
    chromium.quit()
