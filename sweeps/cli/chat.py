"""Let a policy that was trained on a pretrained model answer, beside the one it started from.

examples:
  testbed chat results/gap-llm                 what runs there are
  testbed chat results/gap-llm online-0 --prompt "The film was"
  testbed chat results/gap-llm online-0        prompts from the keyboard, one a line

Both policies are sampled with the same random numbers. Rewards are golden ones, in standard deviations
over samples of the policy before training.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from sweeps import api
from sweeps.cli import options as shared
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from sweeps.api.chat_session import Answer, Conversation


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    shared.add_results(command)
    help = "ARM-SEED, or the beginning of a run's id; none lists them"
    command.add_argument("run", metavar="RUN", nargs="?", help=help)
    shared.add_repeated(
        command,
        "--prompt",
        "TEXT",
        "what is to be answered, or continued; by default lines of standard input. Repeatable",
    )
    shared.add_number(command, "--samples", default=1)
    shared.add_number(command, "--seed", default=0)
    command.set_defaults(waits=True)


def execute(options: argparse.Namespace) -> int:
    """List the runs, or print the answers of both policies side by side."""
    console = shared.console_of(options)
    if options.run is None:
        from sweeps.console.tables import rich_table

        rows = [
            {"run": point.run, "arm": point.arm, "seed": point.seed, **point.settings}
            for point in api.trained(options.directory)
        ]
        console.print(rich_table(rows, "Runs"))
        return 0
    conversation = api.chat(options.directory, options.run, console)
    for text in options.prompt:
        console.print(_answers(conversation, text, options.samples, options.seed))
    for line in () if options.prompt else sys.stdin:
        # What is typed by mistake ends nothing.
        try:
            text = line.rstrip("\n")
            console.print(_answers(conversation, text, options.samples, options.seed))
        except InvalidInput as problem:
            console.print(str(problem), style="yellow", markup=False)
    return 0


def _answers(conversation: "Conversation", text: str, count: int, seed: int) -> "Table":
    """Answers of both policies to a prompt, a column a policy."""
    from rich.table import Table

    shown = Table(title=text, title_justify="left", show_lines=True, expand=True)
    point = conversation.point
    for name in ("before", f"after ({point.arm}, seed {point.seed})"):
        shown.add_column(name, ratio=1)
    for pair in zip(*conversation(text, count, seed), strict=True):
        shown.add_row(*map(_cell, pair))
    return shown


def _cell(answer: "Answer") -> "Text":
    from rich.text import Text

    facts = (
        f"reward {answer.reward:+.2f}, {answer.length} tokens, log ratio {answer.log_ratio:+.2f}"
    )
    return Text.assemble(answer.words.strip(), "\n", (facts, "dim"))
