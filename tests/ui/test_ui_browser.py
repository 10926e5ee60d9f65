"""The page in a real browser. Needs the extra `ui`, playwright's Python package and a Chromium on the PATH."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from csd3d.cli.main import main

pytest.importorskip("gradio", reason="the extra ui is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is on the PATH", allow_module_level=True)
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WAIT_MS = 60_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


def _closed(port: int) -> bool:
    with closing(socket.socket()) as asked:
        return asked.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ui")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "csd3d", "ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until = time.monotonic() + WAIT_MS / 1000
        while _closed(port):
            assert server.poll() is None
            assert time.monotonic() < until, "the page is not served"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    assert main(["world", "photo", str(path), "--seed", "8", "--width", "64", "--height", "64"]) == 0
    return path


@pytest.fixture(params=[(1280, "light"), (480, "dark")], ids=["wide light", "narrow dark"])
def page(address: str, request: pytest.FixtureRequest):
    width, scheme = request.param
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        shown = context.new_page()
        shown.set_default_timeout(WAIT_MS)
        shown.goto(f"{address}/?__theme={scheme}")
        shown.wait_for_selector("#begin")
        yield shown
        browser.close()


def ask(page, photo: Path, prompt: str, *, steps: int) -> None:
    page.set_input_files("#source input[type=file]", str(photo))
    page.wait_for_selector("#source [aria-label='photo.png']")
    page.fill("#prompt input", prompt)
    page.keyboard.press("Enter")
    page.get_by_text("Settings").click()
    page.get_by_label("Steps").fill(str(steps))


def wait_until(page, status: str) -> None:
    page.wait_for_function(
        "status => document.querySelector('#status').innerText.startsWith(status)", arg=status, timeout=WAIT_MS
    )


def test_a_photo_is_edited_compared_chained_and_undone(page, photo: Path) -> None:
    ask(page, photo, "make it night", steps=2)
    page.get_by_label("where I paint").check()
    canvas = page.locator("#mask canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)
    page.click("#begin")
    wait_until(page, "finished")
    report = page.frame_locator("#report iframe")
    report.get_by_text("Before and after").wait_for()
    page.wait_for_selector("#result [aria-label='edited.png']")
    page.click("#chain")
    page.wait_for_selector("#source [aria-label='edited.png']")
    assert page.locator("#runs button").count() >= 1
    page.click("#undo")
    wait_until(page, "undone")
    page.reload()
    page.wait_for_selector("#begin")
    wait_until(page, "undone")


def test_a_thing_is_named(page, photo: Path) -> None:
    ask(page, photo, "make the cone golden", steps=1)
    page.get_by_label("on the thing I name").check()
    page.locator("#named textarea, #named input").first.fill("the cone")
    page.click("#begin")
    wait_until(page, "finished")
    page.frame_locator("#report iframe").get_by_text("mask").first.wait_for()


def test_a_mistake_is_one_line_on_the_page(page, photo: Path) -> None:
    ask(page, photo, "make it purple and fluffy", steps=1)
    page.click("#begin")
    wait_until(page, "refused")
    assert "does not know" in page.inner_text("#status")


def test_nothing_of_the_machine_can_be_had(page, address: str) -> None:
    for path in ("/runs/../secret", "/runs/%2e%2e/%2e%2e/etc/passwd", "/gradio_api/file=/etc/passwd", "/runs/a/../b"):
        assert page.request.get(address + path).status in (400, 403, 404)
    assert page.request.get(address, headers={"Host": "elsewhere.example"}).status == 400
