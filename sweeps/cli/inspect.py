"""Show what a task looks like.

examples:
  testbed inspect summarize                    what the task looks like, on a page
  testbed inspect "Neural(order=2)"            with other knobs
  testbed inspect helpful --quick              less data, shorter fits: a first look
  testbed inspect chat --set labeler=BradleyTerry --set data.quality=0.5
  testbed inspect enumerable --set task.taste_weight=1.0 --seed 3 --out results/taste

It prints the page, and writes inspect.html, inspect.json and the figure to DIR. Fields: testbed list tasks.
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    help = "a kind of task, such as summarize, or a .py file"
    command.add_argument("task", metavar="TASK", help=help)
    shared.add_number(command, "--seed", default=0)
    shared.add_repeated(
        command, "--set", "PATH=VALUE", "change one field of the config. Repeatable"
    )
    shared.add_path(command, "--out", "DIR", "the page (default: results/inspect-TASK)")
    shared.add_flag(
        command, "--quick", "less data and shorter fits; the proxy's accuracy is lower then"
    )
    shared.add_loudness(command)


def execute(options: argparse.Namespace) -> int:
    """Write the page of a task, and print it."""
    console = shared.console_of(options)
    asked = (options.task, options.set, options.seed, options.quick, options.out)
    page = api.inspect(*asked, console, options.command_line)
    console.print()
    figure = page.parent / "figures" / "inspect.png"
    shared.say(options, f"Page        {page}", f"Figure      {figure}")
    return 0
