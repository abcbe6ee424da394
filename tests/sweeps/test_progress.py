"""What a running sweep tells about its time."""

import io
import time

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from rich.console import Console

from sweeps.console.progress import LogDisplay, Meter, NotebookDisplay, display


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_that_of_runs_not_of_what_came_before_them():
    """Ten minutes of stages, then 100 of 400 run-steps in ten seconds: thirty more are left."""
    clock = Clock()
    meter = Meter(runs=4, run_steps=400, clock=clock)
    meter.stage("building sft for 2 worlds")
    assert meter.left is None
    clock.now = 600.0
    meter.stage("chunk 1 of 4 (online)")
    clock.now = 610.0
    meter.advance(100)
    meter.finished(1, 0)
    assert meter.left == 30.0
    assert (
        meter.status()
        == "1/4 runs, 10 run-steps/s, 10:10 elapsed, 0:30 left, chunk 1 of 4 (online)"
    )
    meter.stage("chunk 2 of 4 (offline)")
    assert meter.left == 30.0
    clock.now = 620.0
    meter.advance(200)
    assert meter.rate == 15.0


def test_a_log_tells_what_began_between_two_lines():
    """A stage that begins one second after a line is told when ten have passed, though nobody reports again."""
    clock, out = Clock(), io.StringIO()
    with LogDisplay(4, 400, Console(file=out, width=200), clock) as log:
        clock.now = 1.0
        log.stage("building recorded for 2 worlds")
        assert "recorded" not in out.getvalue()
        clock.now = 11.0
        deadline = time.monotonic() + 30
        while "recorded" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        clock.now = 30.0
        time.sleep(1.5)
        assert out.getvalue().count("building recorded") == 1
        assert "0:11 elapsed, building recorded for 2 worlds" in out.getvalue()
        # What goes on is told again before twenty seconds are over.
        clock.now = 30.5
        deadline = time.monotonic() + 30
        while "0:30 elapsed" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert out.getvalue().count("building recorded") == 2


def test_a_notebook_shows_a_bar_that_is_renewed_in_place():
    """One output for the whole of the work, updated under its id; its last state stays."""
    shell = InteractiveShell.instance()
    console = Console(force_jupyter=True)
    with capture_output() as shown, display(4, 400, console) as bar:
        assert isinstance(bar, NotebookDisplay)
        bar.stage("chunk 1 of 2 <online>")
        bar.advance(100)
        deadline = time.monotonic() + 30
        while len(shown.outputs) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        bar.advance(300)
        bar.finished(4, 1)
    shell.clear_instance()
    first, *_, last = (output._repr_mime_("text/html") for output in shown.outputs)
    assert 'value="0"' in first
    assert 'max="400" value="400"' in last
    assert "4/4 runs, 1 diverged" in last
    assert "&lt;online&gt;" in last


def test_what_is_quiet_shows_nothing_in_a_notebook():
    assert isinstance(display(4, 400, Console(force_jupyter=True, quiet=True)), LogDisplay)
