"""The page in a real browser. Needs the extra `ui`, playwright's Python package and a Chromium on the PATH."""

import json
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
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from csd3d.cli.main import main

pytest.importorskip("gradio", reason="the extra ui is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is on the PATH", allow_module_level=True)
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WAIT_MS = 300_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


def _closed(port: int) -> bool:
    with closing(socket.socket()) as asked:
        return asked.connect_ex(("127.0.0.1", port)) != 0


class Served(NamedTuple):
    address: str
    runs: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ui")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "csd3d", "ui", "--port", str(port), "--max-mb", "1"]
    server = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until = time.monotonic() + WAIT_MS / 1000
        while _closed(port):
            assert server.poll() is None
            assert time.monotonic() < until, "the page is not served"
            time.sleep(0.2)
        yield Served(f"http://127.0.0.1:{port}", folder / "runs")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    assert main(["world", "photo", str(path), "--seed", "8", "--width", "64", "--height", "64"]) == 0
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    size = ("--frames", "4", "--width", "64", "--height", "64")
    assert main(["world", "clip", str(path), "--seed", "8", *size]) == 0
    return path


@pytest.fixture(scope="module")
def sphere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sphere") / "sphere.jpg"
    assert main(["world", "panorama", str(path), "--kind", "sphere", "--height", "64", "--seed", "2"]) == 0
    return path


WIDE, NARROW = (1280, "light"), (480, "dark")
both_widths = pytest.mark.parametrize("page", [WIDE, NARROW], ids=["wide light", "narrow dark"], indirect=True)
wide = pytest.mark.parametrize("page", [WIDE], ids=["wide light"], indirect=True)
narrow = pytest.mark.parametrize("page", [NARROW], ids=["narrow dark"], indirect=True)


@pytest.fixture
def page(served: Served, request: pytest.FixtureRequest):
    width, scheme = request.param
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        shown = context.new_page()
        shown.set_default_timeout(WAIT_MS)
        shown.goto(f"{served.address}/?__theme={scheme}")
        shown.wait_for_selector("#begin")
        yield shown
        browser.close()


def ask(page, source: Path, prompt: str, *, steps: int | None) -> None:
    page.set_input_files("#source input[type=file]", str(source))
    page.wait_for_selector(f"#source [aria-label='{source.name}']")
    say(page, prompt)
    page.get_by_text("Settings").click()
    if steps is not None:
        page.get_by_label("Steps").fill(str(steps))


def say(page, prompt: str) -> None:
    page.fill("#prompt input", prompt)
    page.keyboard.press("Enter")


def drag(page, box, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """From one place to another, in shares of a box."""
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (begin, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=8)
    page.mouse.up()


def run_of(page, served: Served) -> dict:
    """The manifest of the run that is shown."""
    return json.loads((served.runs / page.input_value("#run input") / "manifest.json").read_text())


def wait_until(page, status: str) -> None:
    page.wait_for_function(
        "status => document.querySelector('#status').innerText.startsWith(status)", arg=status, timeout=WAIT_MS
    )


@both_widths
def test_a_photo_is_edited_compared_chained_and_undone(page, photo: Path) -> None:
    ask(page, photo, "make it night", steps=2)
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


@wide
def test_a_mask_is_painted(page, photo: Path, served: Served) -> None:
    ask(page, photo, "make it night", steps=1)
    page.get_by_label("where I paint").check()
    canvas = page.locator("#mask canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)
    drag(page, canvas.bounding_box(), (0.4, 0.5), (0.6, 0.5))
    page.wait_for_timeout(1000)
    page.click("#begin")
    page.get_by_label("everywhere").check()  # drawing the canvas without a GPU takes all that a machine has
    wait_until(page, "finished")
    painted = np.asarray(Image.open(run_of(page, served)["config"]["mask"])) > 0
    assert 0 < painted.mean() < 0.5


@narrow
def test_a_thing_is_named(page, photo: Path) -> None:
    ask(page, photo, "make the cone golden", steps=1)
    page.get_by_label("on the thing I name").check()
    page.locator("#named textarea, #named input").first.fill("the cone")
    page.click("#begin")
    wait_until(page, "finished")
    page.frame_locator("#report iframe").get_by_text("mask").first.wait_for()


@both_widths
def test_a_mistake_is_one_line_on_the_page(page, photo: Path) -> None:
    ask(page, photo, "make it purple and fluffy", steps=1)
    page.click("#begin")
    wait_until(page, "refused")
    assert "does not know" in page.inner_text("#status")


@wide
def test_a_clip_is_paused_gone_on_with_stopped_chained_and_undone(page, clip: Path, served: Served) -> None:
    ask(page, clip, "make it snowy", steps=200)
    page.click("#begin")
    page.wait_for_function("document.querySelector('#status').innerText.includes('of 200')", timeout=WAIT_MS)
    page.click("#pause")
    wait_until(page, "interrupted")
    page.reload()
    page.wait_for_selector("#status")
    wait_until(page, "interrupted")
    page.click("#resume")
    wait_until(page, "running")
    page.click("#stop")
    wait_until(page, "finished")
    run = run_of(page, served)
    assert 0 < run["steps_done"] < 200
    assert page.input_value("#command textarea").endswith("--tolerance 0")
    report = page.frame_locator("#report iframe")
    report.locator("[data-mode=wipe]").click()
    drag(page, report.locator(".stage").bounding_box(), (0.5, 0.5), (0.25, 0.5))
    assert float(report.locator(".stage").evaluate("e => parseFloat(e.style.getPropertyValue('--cut'))")) < 40
    assert report.locator("video").evaluate_all("all => all.every(one => one.readyState > 0)")

    page.click("#chain")
    page.wait_for_selector("#source [aria-label='edited.mp4']")
    say(page, "make it night")
    page.get_by_text("Settings").click()
    page.get_by_label("Steps").fill("1")
    page.click("#begin")
    wait_until(page, "running")
    wait_until(page, "finished")
    assert [entry["prompt"] for entry in run_of(page, served)["history"]] == ["make it snowy"]
    page.click("#undo")
    wait_until(page, "undone")
    assert not any(Path(path).exists() for path in run_of(page, served)["written"])


@narrow
def test_a_sphere_is_looked_around_in(page, sphere: Path) -> None:
    ask(page, sphere, "make it night", steps=1)
    page.click("#begin")
    wait_until(page, "finished")
    canvas = page.frame_locator("#report iframe").locator("canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    before = canvas.screenshot()
    drag(page, canvas.bounding_box(), (0.8, 0.5), (0.2, 0.5))
    page.wait_for_timeout(1000)
    assert canvas.screenshot() != before


@wide
def test_what_is_filled_in_reaches_the_run(page, photo: Path, served: Served) -> None:
    ask(page, photo, "make the cone golden", steps=None)
    page.get_by_label("where it belongs").check()
    page.get_by_label("quick").check()
    page.get_by_label("Seed").fill("3")
    page.locator("#strength input[type=number]").fill("0.5")
    page.keyboard.press("Tab")
    page.click("#begin")
    wait_until(page, "finished")
    run = run_of(page, served)
    assert (run["prior"]["name"], run["seed"]) == ("builtin:instruct", 3)
    config = run["config"]
    assert (config["mask"], config["strength"], config["csd"]["steps"] < 100) == ("auto", 0.5, True)


@wide
def test_a_prior_is_chosen(page, photo: Path, served: Served) -> None:
    ask(page, photo, "a red cone on grass", steps=1)
    page.locator("#prior input").click()
    page.get_by_role("option", name="builtin:t2i").click()
    page.get_by_label("What the source shows").fill("a blue cone on grass")
    page.click("#begin")
    wait_until(page, "finished")
    run = run_of(page, served)
    assert (run["prior"]["name"], run["config"]["source_prompt"]) == ("builtin:t2i", "a blue cone on grass")


@wide
def test_two_tabs_queue(page, photo: Path) -> None:
    other = page.context.new_page()
    other.goto(page.url)
    ask(page, photo, "make it night", steps=1000)
    page.click("#begin")
    wait_until(page, "running")
    ask(other, photo, "make it snowy", steps=1)
    other.click("#begin")
    wait_until(other, "waiting: 1 before it")
    page.click("#pause")
    wait_until(other, "finished")


@wide
def test_uploads_are_bounded_and_names_are_only_names(page, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    page.set_input_files("#source input[type=file]", str(tmp_path / "large.png"))
    page.get_by_text("exceed the maximum allowed size").wait_for()
    odd = tmp_path / "<img src=x onerror=window.hit=1>.png"
    shutil.copyfile(photo, odd)
    page.reload()
    page.set_input_files("#source input[type=file]", str(odd))
    page.wait_for_selector("#seen img")
    say(page, "<img src=x onerror=window.hit=1>")
    page.click("#begin")
    wait_until(page, "refused")
    assert page.inner_text("#status").endswith("does not know '<img src=x onerror=window.hit=1>'")
    assert page.evaluate("window.hit") is None


@wide
def test_nothing_of_the_machine_can_be_had(page, served: Served) -> None:
    for path in ("/runs/../secret", "/runs/%2e%2e/%2e%2e/etc/passwd", "/gradio_api/file=/etc/passwd", "/runs/a/../b"):
        assert page.request.get(served.address + path).status in (400, 403, 404)
    assert page.request.get(served.address, headers={"Host": "elsewhere.example"}).status == 400
