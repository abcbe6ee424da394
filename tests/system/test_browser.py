"""The report and TensorBoard as a reader sees them, opened in a headless Chromium: a real study's results, the real
TensorBoard. Skipped where there is no Chromium; everything else about the logs is in `test_tensorboard`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from scripts import script
from small_study import results_of_tiny

import sweeps

screenshots = script("docs/screenshots.py")
BROWSER = screenshots.browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_of_tiny(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with screenshots.opened(BROWSER) as page:
        yield page


def test_pages_of_the_report_show_their_tables_and_figures(
    results: Path, page: Any, tmp_path: Path
) -> None:
    shots = screenshots.report(results / "report")
    assert [shot.name for shot in shots] == ["report", "report-study"]
    for shot in shots:
        assert_drawn(screenshots.take(page, shot, tmp_path))
        broken = "images => images.filter(i => i.complete && i.naturalWidth == 0).map(i => i.src)"
        assert page.locator("img").evaluate_all(broken) == []


def test_pages_of_tensorboard_show_what_they_are_there_for(
    results: Path, page: Any, tmp_path: Path
) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    with screenshots.served(sweeps.write_logs(results)) as port:
        shots = {shot.name.partition("-")[2]: shot for shot in screenshots.board(port)}
        for name in ("curves", "side-by-side", "hparams", "figures", "text"):
            assert_drawn(screenshots.take(page, shots.pop(name), tmp_path))
            # Searches by text look into components, which the text of the body does not have.
            assert page.get_by_text("No dashboards are active").filter(visible=True).count() == 0
            if name == "side-by-side":
                # TensorBoard tells of logs that lack what a chart compares.
                assert page.get_by_text("Missing Tags").filter(visible=True).count() == 0
                assert page.get_by_text("Arms side by side").filter(visible=True).count() == 1
            if name == "hparams":
                cells = page.locator("vaadin-grid-cell-content").all_inner_texts()
                heads = {" ".join(cell.split()).casefold() for cell in cells}
                for column in ("arm", "optimiser.learning_rate", "peak win rate", "matched kl gap"):
                    assert column in heads, f"{column} is not among {sorted(heads)}"
        assert_drawn(screenshots.take(page, shots.pop("parallel"), tmp_path))
        assert not shots
    assert problems == []


def assert_drawn(picture: Path) -> None:
    """A picture is more than one colour over nearly all of it: a page that stayed blank is not."""
    pixels = matplotlib.image.imread(picture)[..., :3]
    background = pixels[-1, -1]
    assert (abs(pixels - background).max(-1) > 0.05).mean() > 0.01, f"{picture.name} is blank"
