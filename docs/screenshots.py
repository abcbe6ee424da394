"""Photographs what people see of results: the report's pages and TensorBoard's, each as a PNG.

    uv run --group dev python docs/screenshots.py results/gap-laptop

A Chromium is taken from the system (`--browser` names another). A page is photographed when what it is there for can be
seen; one that does not come to show it is an error that says what is missing.
"""

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

from sweeps import write_logs

SIZE = ViewportSize(width=1280, height=900)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Seconds to wait for TensorBoard, and for a page to show what it is there for.
PATIENCE = 60
#: Milliseconds after which what is drawn in steps has been drawn.
SETTLED = 1500


def browser() -> str | None:
    """The path of the system's Chromium, if it has one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Shot(NamedTuple):
    """A picture to be taken: its name, the page's address, what must be seen on it, and what to press before."""

    name: str
    address: str
    seen: str
    pressed: str = ""


def board(port: int) -> list[Shot]:
    """TensorBoard's pages, without smoothing."""
    address = f"http://localhost:{port}/?smoothing=0&tagFilter=generation#"
    return [
        Shot("tensorboard-curves", f"{address}timeseries", "line-chart svg path"),
        Shot("tensorboard-side-by-side", f"{address}custom_scalars&_smoothingWeight=0", "vz-line-chart2 svg path"),
        Shot("tensorboard-hparams", f"{address}hparams", "vaadin-grid-cell-content"),
        Shot("tensorboard-parallel", f"{address}hparams", "tf-hparams-parallel-coords-plot path",
             "text=Parallel Coordinates View"),
        Shot("tensorboard-figures", f"{address}images", "tf-image-loader img"),
        Shot("tensorboard-text", f"{address}text&tagFilter=answers", "tf-markdown-view table"),
    ]  # fmt: skip


def report(folder: Path) -> list[Shot]:
    """The report's first page, and that of its first study."""
    page = (folder / "index.html").resolve().as_uri()
    studies = [
        file
        for file in sorted(folder.glob("*.html"))
        if (folder / "figures" / f"{file.stem}-envelope.svg").is_file()
    ]
    shots = [Shot("report", page, "table")]
    if studies:
        shots.append(Shot("report-study", studies[0].resolve().as_uri(), "figure"))
    return shots


@contextlib.contextmanager
def opened(browser: str) -> Iterator[Page]:
    """An empty page of a headless browser."""
    with sync_playwright() as play:
        started = play.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            page = started.new_page(viewport=SIZE, reduced_motion="reduce")
            page.set_default_timeout(PATIENCE * 1000)
            yield page
        finally:
            started.close()


@contextlib.contextmanager
def served(logs: Path) -> Iterator[int]:
    """TensorBoard over logs, answering with every one of them; its port."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = len({file.parent for file in logs.rglob("events.out.tfevents.*")})
    try:
        _wait_for_runs(port, wanted, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for_runs(port: int, wanted: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://localhost:{port}/data/runs", timeout=5) as answer,
        ):
            if len(json.load(answer)) >= wanted:
                return
        time.sleep(0.5)
    raise SystemExit(f"TensorBoard did not answer with {wanted} logs within {PATIENCE} seconds")


def take(page: Page, shot: Shot, out: Path) -> Path:
    """One picture, in 128 colours. Raises playwright's `TimeoutError`, which names what was waited for."""
    # A new document: the part of an address behind its `#` alone would not load one.
    page.goto("about:blank")
    page.goto(shot.address)
    if shot.pressed:
        page.click(shot.pressed)
    page.locator(shot.seen).filter(visible=True).first.wait_for()
    page.wait_for_timeout(SETTLED)
    while page.locator("paper-spinner-lite[active]").filter(visible=True).count():
        page.wait_for_timeout(SETTLED)
    path = out / f"{shot.name}.png"
    page.screenshot(path=path)
    # A page has few colours, and the repository keeps every version.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    return path


def photograph(directory: Path, out: Path, browser: str) -> list[Path]:
    """Every picture of a results directory."""
    logs = write_logs(directory)
    with served(logs) as port, opened(browser) as page:
        return [take(page, shot, out) for shot in (*report(directory / "report"), *board(port))]


def main() -> None:
    """Photograph a results directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="the --out of a run, with its report")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures")
    parser.add_argument("--browser", help="path of a Chromium (default: the one on PATH)")
    options = parser.parse_args()
    chosen = options.browser or browser()
    if chosen is None:
        parser.error(f"no browser: install one of {', '.join(BROWSERS)}, or name one by --browser")
    if not (options.directory / "report" / "index.html").is_file():
        parser.error(f"{options.directory} has no report: `testbed report` writes it")
    options.out.mkdir(parents=True, exist_ok=True)
    for path in photograph(options.directory, options.out, chosen):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
