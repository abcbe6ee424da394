"""Texts for TensorBoard: question, settings, verdicts, samples."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sweeps.console.tables import verdict_row
from sweeps.tensorboard import samples
from sweeps.tensorboard.events import Table


@dataclasses.dataclass(frozen=True)
class Logged:
    """A study to be shown.

    Attributes:
        results: the long table.
        header: the contents of ``study.json``.
        figures: PNG files.
        verdicts: the study's entries in ``verdicts.json``.
    """

    results: Table
    header: Mapping[str, Any]
    figures: Sequence[Path] = ()
    verdicts: Sequence[Mapping[str, Any]] = ()


def texts_of(study: Logged) -> dict[str, str]:
    """Markdown pages: the question, the claims and their results, the design, the origin of the numbers."""
    header, verdicts = study.header, study.verdicts
    runs = study.results.drop_duplicates("run")
    diverged = np.count_nonzero(runs["diverged_step"] >= 0)
    claims = "\n".join(
        f"- **{claim.get('id')}** {claim.get('text', '')} *Against it:* {claim.get('against', '')}"
        for claim in header.get("claims", ())
    )
    outcome = "\n".join(
        ["| claim | task | verdict | estimate | interval |", "|---|---|---|---|---|"]
        + [f"| {' | '.join(verdict_row(verdict).values())} |" for verdict in verdicts]
    )
    axes = "\n".join(f"- `{path}`: {values}" for path, values in header.get("axes", {}).items())
    arms = "\n".join(
        f"- **{arm}**: {_spelt(settings)}" for arm, settings in header.get("arms", {}).items()
    )
    known = ("command", "source", "created", "machine", "versions")
    facts = "\n".join(f"- {name}: `{header[name]}`" for name in known if name in header)
    return {
        "study/1_claims": f"# {header.get('title')}\n\n{header.get('question')}\n\n{claims}",
        "study/2_verdicts": outcome if verdicts else "No verdicts yet.",
        "study/3_design": f"{len(runs)} runs, of which {diverged} diverged; preset "
        f"{header.get('preset')}, {header.get('seeds')} seeds.\n\nArms:\n\n{arms}\n\nAxes:\n\n{axes}",
        "study/5_provenance": facts or "Not stored.",
    }


def answer_texts(results: Table) -> dict[str, str]:
    """A page of policies' answers, if answers were stored."""
    rows = [
        f"| {' | '.join(map(_cell, (one.task, one.arm, one.prompt, one.before, one.after)))} |"
        for one in samples.said(results)
    ]
    head = ["| task | arm | prompt | SFT | trained |", "|---|---|---|---|---|"]
    return {"study/4_answers": "\n".join([*head, *rows])} if rows else {}


def _cell(text: str) -> str:
    """A text that stays within its cell of a Markdown table."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split())) or "(nothing)"


def _spelt(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{path}={value}`" for path, value in settings.items()) or "as the base is"
