"""Run studies, or finish ones that were interrupted.

examples:
  testbed run gap                              the study at its default size
  testbed run gap --preset smoke               a small one, to see that everything works
  testbed run gap --dry-run                    what would run, and how long it would take
  testbed run gap --seeds 8 --out results/gap8
  testbed run gap --precision C2=2,C3.8=4      more worlds, until these claims' intervals are so narrow
  testbed run gap --set loss.beta=0.1          one value instead of the study's axis
  testbed run gap --task text                  on a pretrained language model
  testbed run gap --set loss=Dpo               another loss, at its own defaults
  testbed run gap --axis optimiser.learning_rate=1e-4,3e-4,1e-3
  testbed run gap --axis "loss=Ipo(beta=0.1),Dpo(beta=0.1)"
  testbed run my_study.py                      a study of your own
  testbed run tandem quality scale             several as one: what they share is done once
  testbed run gap --cluster ray://auto         on all hosts of a Ray cluster

The same command resumes after an interruption: finished runs are in DIR and are not repeated.
"""

import argparse
import contextlib

from sweeps import api
from sweeps.cli import options as shared
from sweeps.console import profile, terminal


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    help = "a name from `testbed list`, or a .py file"
    command.add_argument("study", metavar="STUDY", nargs="+", help=help)
    add_size(command)
    shared.add_repeated(
        command,
        "--set",
        "PATH=VALUE",
        "change one field of the config; on a swept path: fix that axis. Repeatable",
    )
    shared.add_repeated(
        command,
        "--axis",
        "PATH=A,B,C",
        "sweep a field over these values, in place of the study's own axis. Repeatable",
    )
    shared.add_path(command, "--out", "DIR", "results (default: results/STUDY-PRESET)")
    add_output(command)


def add_size(command: argparse.ArgumentParser) -> None:
    """Let a command choose the size and the world of its studies, and where they run."""
    command.add_argument("--preset", metavar="P", help="the studies' size; see `testbed list`")
    command.add_argument(
        "--task",
        metavar="TASK",
        help="the world, such as summarize, in place of the study's tasks; with text, which stands on a pretrained "
        "model, the default preset is llm",
    )
    command.add_argument(
        "--seeds",
        metavar="N|A:B",
        help="worlds: N for the seeds 0 to N-1, A:B for A to B-1; docs/seeds.md says which were seen before",
    )
    add_growth(command)
    shared.add_flag(
        command, "--dry-run", "print the plan, its cost and the precision to expect, and stop"
    )
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run on a Ray cluster: ray (one on this machine), ray://auto (the one this host belongs "
        "to) or ray://HOST:PORT; see docs/cluster.md",
    )
    shared.add_number(
        command, "--workers", "with --cluster: workers that share each host's devices (default: 1)"
    )


def add_growth(command: argparse.ArgumentParser) -> None:
    """Let a command add worlds until intervals are narrow."""
    command.add_argument(
        "--precision",
        metavar="POINTS",
        help="add worlds until every deciding test's 90%% interval has at most this half width, or those of some "
        "claims (C2=2,C3.8=4); a point is 0.035 SFT standard deviations of golden reward, else half the ROPE",
    )
    shared.add_number(command, "--max-worlds", "with --precision: the most worlds (default: 32)")
    command.add_argument(
        "--minutes",
        metavar="M",
        type=shared.parsed(float, "a number"),
        help="with --precision: add no worlds that would not be done after so many minutes",
    )


def add_output(command: argparse.ArgumentParser) -> None:
    """Let a command that runs studies print less, more, or data."""
    shared.add_json(command)
    shared.add_flag(
        command, "--profile", "write where the time went into DIR/profile.json, for the report"
    )
    shared.add_loudness(command, "print the plan, and every stage as it begins")


def execute(options: argparse.Namespace) -> int:
    """Run the studies, or print the plan."""
    names = ("preset", "seeds", "task", "out", "cluster", "workers")
    names += ("precision", "max_worlds", "minutes")
    asked = {name: getattr(options, name) for name in names}
    asked |= {"settings": options.set, "axes": options.axis, "console": shared.console_of(options)}
    if options.dry_run:
        forecast = api.forecast(*options.study, **asked)
        if options.json:
            terminal.write_json(forecast.describe())
        else:
            forecast.show(asked["console"])
        return 0
    asked |= {"verbose": options.verbose, "command": options.command_line}
    with contextlib.ExitStack() as around:
        if options.profile:
            # The command began with this process, long before this line.
            around.enter_context(profile.recording(profile.process_age()))
        outcome = api.run(*options.study, profile=options.profile, **asked)
    if options.json:
        terminal.write_json(outcome.describe())
    return 0
