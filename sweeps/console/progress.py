"""Progress displays of a running sweep: runs done, run-steps a second, time elapsed, time left, current stage."""

import contextlib
import html
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, Self, runtime_checkable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from sweeps.console import activity, terminal

LOG_INTERVAL = 10.0
"""Seconds between two lines where the output is not a terminal."""
HEARTBEAT = 19.0
"""Seconds after which such a line is printed even if nothing has changed."""


@runtime_checkable
class Progress(Protocol):
    """The messages that `population.execute` sends while it works."""

    def stage(self, text: str) -> None:
        """Report the present work: compiling, building a world, running chunk 3 of 8."""

    def advance(self, run_steps: int) -> None:
        """Count training steps done, summed over runs."""

    def finished(self, runs: int, diverged: int) -> None:
        """Count runs that are complete, and how many of them diverged."""


class Meter:
    """Counts completed work and estimates the time left; `status` puts both into one line."""

    def __init__(self, runs: int, run_steps: int, clock: Callable[[], float] = time.monotonic):
        self.runs = runs
        self.run_steps = run_steps
        self.runs_done = 0
        self.diverged = 0
        self.steps_done = 0
        self.text = "starting"
        self._clock = clock
        self._start = clock()
        self._while_open = contextlib.ExitStack()
        # (time, steps done) over the last minute; at least five entries, because chunks may be long.
        self._recent = deque([(self._start, 0)])

    def stage(self, text: str) -> None:
        """See `Progress`."""
        self.text = text
        activity.begin(text)
        if not self.steps_done:
            # The time before the first run says nothing about the speed of runs.
            self._recent = deque([(self._clock(), 0)])

    def advance(self, run_steps: int) -> None:
        """See `Progress`."""
        self.steps_done += run_steps
        self._recent.append((self._clock(), self.steps_done))
        while len(self._recent) > 5 and self._recent[-1][0] - self._recent[0][0] > 60:
            self._recent.popleft()

    def finished(self, runs: int, diverged: int) -> None:
        """See `Progress`."""
        self.runs_done += runs
        self.diverged += diverged

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def rate(self) -> float:
        """Run-steps a second over the latest minute."""
        then, done = self._recent[0]
        span = self._clock() - then
        return (self.steps_done - done) / span if span > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left at the present rate; None before there is a rate."""
        remaining = self.run_steps - self.steps_done
        return remaining / self.rate if self.rate > 0 else None

    def status(self) -> str:
        """One line: ``3/96 runs, 120 run-steps/s, 0:10 elapsed, 1:20 left, training``; work without runs shows only its
        stage."""
        if not self.runs:
            return f"{duration(self.elapsed)} elapsed, {activity.with_beside(self.text)}"
        parts = [f"{self.runs_done}/{self.runs} runs"]
        if self.diverged:
            parts.append(f"{self.diverged} diverged")
        parts.append(f"{self.rate:,.0f} run-steps/s")
        parts.append(f"{duration(self.elapsed)} elapsed")
        if self.left is not None:
            parts.append(f"{duration(self.left)} left")
        return ", ".join([*parts, activity.with_beside(self.text)])


class LogDisplay(Meter):
    """Plain lines for logs, at most one in `LOG_INTERVAL` seconds. A stage that begins in between is printed after that
    time, if it still lasts, or at once if ``every_stage`` is true. A stage that lasts long is printed every `HEARTBEAT`
    seconds."""

    def __init__(
        self,
        runs: int,
        run_steps: int,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        every_stage: bool = False,
    ):
        super().__init__(runs, run_steps, clock)
        self._console = console
        self._every_stage = every_stage
        self._shown: float | None = None
        self._told = ""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._show()
        self._while_open.enter_context(activity.ticking(self._tick, 0.5))
        return self

    def __exit__(self, *_: object) -> None:
        self._while_open.close()
        _print_status(self, self._console)

    def stage(self, text: str) -> None:
        """See `Progress`."""
        super().stage(text)
        self._show()

    def advance(self, run_steps: int) -> None:
        """See `Progress`."""
        super().advance(run_steps)
        self._show()

    def _tick(self) -> None:
        silent = self._shown is not None and self._clock() - self._shown > HEARTBEAT
        if silent or self.text != self._told:
            self._show()

    def _show(self) -> None:
        with self._lock:
            now = self._clock()
            told = self._every_stage and self.text != self._told
            if told or self._shown is None or now - self._shown >= LOG_INTERVAL:
                self._shown, self._told = now, self.text
                _print_status(self, self._console)


class TerminalDisplay(Meter):
    """A bar and a status line, redrawn in place."""

    def __init__(self, runs: int, run_steps: int, console: Console):
        super().__init__(runs, run_steps)
        self._live = Live(
            console=console, get_renderable=self._picture, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self._while_open.enter_context(self._live)
        if not self._live.console.stderr:
            # Loggers that kept the earlier standard error must print above the bar, too.
            self._while_open.enter_context(terminal.diverted(sys.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        self._while_open.close()
        _print_status(self, self._live.console)

    def _picture(self) -> RenderableType:
        # Without steps to count, the bar only moves.
        bar = ProgressBar(
            total=max(self.run_steps, 1), completed=self.steps_done, pulse=not self.run_steps
        )
        return Group(bar, Text(self.status(), overflow="ellipsis", no_wrap=True))


class NotebookDisplay(Meter):
    """A bar and a status line below a notebook's cell, which stay after the work."""

    def __enter__(self) -> Self:
        # IPython is installed wherever a notebook runs; no other code needs it.
        from IPython.display import display

        self._handle: Any = display(self, display_id=True)
        self._while_open.enter_context(activity.ticking(self._update, 0.5))
        return self

    def __exit__(self, *_: object) -> None:
        self._while_open.close()
        self._update()

    def _update(self) -> None:
        self._handle.update(self)

    def _repr_html_(self) -> str:
        bar = f'<progress style="width: 100%" max="{self.run_steps}" value="{self.steps_done}"></progress>'
        return f"{bar if self.run_steps else ''}<div>{html.escape(self.status())}</div>"


def _print_status(meter: Meter, console: Console) -> None:
    console.print(meter.status(), markup=False, highlight=False, soft_wrap=True)


Display = LogDisplay | TerminalDisplay | NotebookDisplay


def display(runs: int, run_steps: int, console: Console, verbose: bool = False) -> Display:
    """The display that suits the output; a context manager and a `Progress`. A ``verbose`` display is always a log, and
    prints every stage."""
    if verbose or console.quiet:
        return LogDisplay(runs, run_steps, console, every_stage=verbose)
    if console.is_jupyter:
        return NotebookDisplay(runs, run_steps)
    if console.is_interactive:
        return TerminalDisplay(runs, run_steps, console)
    return LogDisplay(runs, run_steps, console)


def duration(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
