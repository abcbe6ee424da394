"""The report of a results directory: a static site with a scoreboard and a page per study.

`build` decides the claims, draws the figures and writes the pages. Pages load no files from other
sites, follow the reader's light or dark theme, and are readable on a phone and in print.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis import plain_text
from analysis.figures import transfer as transfer_figures
from analysis.figures.figure_list import captioned_figures, early, main_figure
from analysis.figures.style import CaptionedFigure
from analysis.html import VERDICTS
from analysis.load import Collection, Results, load_all
from analysis.site import (
    index,
    methods,
    provenance,
    provisional,
    study,
    study_data,
    transfer,
)
from analysis.site.page import Place, add_link, write_whole
from analysis.site.study_data import StudyData
from analysis.site.verdicts import ordered
from analysis.transfer import table as transfer_table
from analysis.transfer.effects import TransferTable
from sweeps.console import profile
from sweeps.console.profile import Part
from sweeps.store import json_files
from sweeps.store.file_names import figure_stem
from sweeps.store.provenance import source_hash
from sweeps.store.store import Store
from testbed.errors import InvalidInput

FOLDER = "report"
_NUMBER: json_files.Shape = (float, None)
EFFECT: json_files.Shape = {
    "effect": str,
    "unit": str,
    "estimate": _NUMBER,
    "interval": ([float, float], None),
    "reason": str,
    "details": dict,
}
TEST: json_files.Shape = {
    **EFFECT,
    "verdict": frozenset(VERDICTS),
    "probability": _NUMBER,
    "rule": {"kind": str, "rope": float, "confidence": float, "words": str},
}
#: A row of `verdicts.json`; see `analysis.verdicts.verdict.entry`.
ENTRY: json_files.Shape = {
    **TEST,
    **dict.fromkeys(("study", "claim", "task", "text", "against", "note"), str),
    **dict.fromkeys(("newer", "close"), bool),
    "stored_verdict": (str, None),
    "tests": [TEST],
    "beside": [EFFECT],
}
TRANSFER = Place("transfer.html", "Transfer")
_TRANSFER_KEY = ".transfer.key"
_TRANSFERRED = (TRANSFER.file, "transfer.json", _TRANSFER_KEY, "figures/transfer-*")
_OURS = ("*.html", "figures/*.png", "figures/*.svg", "figures/*.csv", *_TRANSFERRED)


def build(directory: Path, opened: Sequence[tuple[Store, Any]] = ()) -> Path:
    """Analyse a results directory and write its site into DIR/report. Returns the path of index.html.

    ``opened`` are its stores as `sweeps.store.store.read_stores` has read them; without ``opened`` the stores are read
    here.

    The same results give the same files, byte for byte, with the same library versions. Raises InvalidInput if the
    directory holds no results or cannot be written.
    """
    directory = Path(directory)
    collection = load_all(directory, opened)
    with profile.part(Part.FIT):
        all_study_data = [study_data.gather(results, directory) for results in collection.studies]
    with _site(directory, _OURS) as (folder, written):
        # The pages show where the time went so far.
        profile.write(directory)
        kept = _transferred(folder, collection)
        written |= kept
        written |= set(_write(folder, all_study_data, collection, [TRANSFER] if kept else []))
    return folder / "index.html"


@contextlib.contextmanager
def _site(directory: Path, patterns: Sequence[str]) -> Iterator[tuple[Path, set[Path]]]:
    """The folder of a site, and a set for the paths that are written: older files of these patterns are removed at the
    end. Raises InvalidInput if the directory cannot be written."""
    folder = directory / FOLDER
    written: set[Path] = set()
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        left = {path for pattern in patterns for path in folder.glob(pattern)}
        yield folder, written
        for path in left - written:
            path.unlink()
    except OSError as problem:
        raise InvalidInput(
            f"results directory {directory} cannot be written ({problem.strerror or problem}): "
            "copy it to where you may write"
        ) from problem


def preview(
    directory: Path, opened: Sequence[tuple[Store, Any]] = (), left: float | None = None
) -> list[Path]:
    """Show what there is while runs go on: draw the figures that need no model, at the paths that `build` will use, and
    write a provisional first page from the worlds that are complete, if there are any. Returns the figures' paths.
    ``left``: seconds until the runs are done, if known."""
    folder = directory / FOLDER
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    studies = load_all(directory, opened).studies
    whole = [study_data.gather(provisional.complete(one), directory) for one in studies]
    shown = [(one, main_figure(one)) for one in whole if len(one.results.table)]
    if shown:
        # Arms and studies may share runs: each counts once.
        stored = {run for one in studies for run in one.table["run"]}
        asked = {
            run for one in studies for runs in one.study.get("planned", {}).values() for run in runs
        }
        text = provisional.page(shown, len(stored), len(stored | asked), left)
        write_whole(folder / "index.html", text)
    return [
        path
        for results in studies
        for path in _draw(results, early(study_data.so_far(results)), folder / "figures")
    ]


def _draw(
    results: Results, captioned_figures: Sequence[CaptionedFigure], folder: Path
) -> list[Path]:
    """Save figures of a study; returns the paths."""
    return [
        path
        for captioned in captioned_figures
        for path in captioned.save(folder, figure_stem(results.name, captioned.name))
    ]


def build_transfer(table: TransferTable, directory: Path) -> Path:
    """Write the transfer table into DIR/report, the site of the real runs, and link it there. Returns the page's path.

    `build` keeps the table until results, rules or code change. Raises InvalidInput if the directory cannot be written.
    """
    with _site(directory, ["figures/transfer-*"]) as (folder, written):
        places = [place for place in _places(table.real.studies) if (folder / place.file).is_file()]
        shown = transfer_figures.captioned_figures(table.pairs)
        for captioned in shown:
            written |= set(captioned.save(folder / "figures"))
        page = write_whole(folder / TRANSFER.file, transfer.page(table, shown, [*places, TRANSFER]))
        write_whole(folder / "transfer.json", transfer_table.as_json(table))
        write_whole(folder / _TRANSFER_KEY, fingerprint(table.real))
        add_link(folder, TRANSFER)
    return page


def _transferred(folder: Path, collection: Collection) -> set[Path]:
    """The files of a transfer table that is still valid; none if there is no such table."""
    if not _holds(folder / _TRANSFER_KEY, collection):
        return set()
    return {path for pattern in _TRANSFERRED for path in folder.glob(pattern)}


def _places(studies: Sequence[Results]) -> list[Place]:
    """The pages that every site has."""
    places = [Place("index.html", "Scoreboard")]
    places += [Place(study.file_name(one), one.name) for one in studies]
    return [*places, Place("methods.html", "Methods"), Place("provenance.html", "Provenance")]


def verdicts(directory: Path, opened: Sequence[tuple[Store, Any]] = ()) -> list[dict[str, Any]]:
    """All verdicts of a results directory, each with its study. Reuses the verdicts of `build` if results, rules and
    code are the same. Raises InvalidInput if the directory holds no results."""
    collection = load_all(directory, opened)
    known = directory / FOLDER / "verdicts.json"
    key = directory / FOLDER / ".verdicts.key"
    # A damaged file counts as missing: the verdicts are computed again.
    with contextlib.suppress(InvalidInput):
        if known.is_file() and _holds(key, collection):
            return json_files.read(known, [ENTRY], "it is made anew")
    return _entries([study_data.gather(results, directory) for results in collection.studies])


def _holds(key: Path, collection: Collection) -> bool:
    """Whether a fingerprint file matches these results."""
    try:
        return key.read_bytes() == fingerprint(collection).encode()
    except OSError:
        return False


def fingerprint(collection: Collection) -> str:
    """A hash of everything that verdicts depend on: stored results, present rules, and the code."""
    digest = hashlib.sha256(source_hash().encode())
    for results in collection.studies:
        place = results.directory or collection.directory
        blocks = sorted(path.name for path in (place / "blocks").glob("*.parquet"))
        claims = [claim.describe() for claim in results.present_claims or ()]
        parts = (results.study, blocks, claims)
        digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _entries(all_study_data: Sequence[StudyData]) -> list[dict[str, Any]]:
    """The verdicts of all studies, in the order of claims: C1, C2 and so on."""
    return [
        dict(entry) for entry in ordered([row for one in all_study_data for row in one.entries])
    ]


def _write(
    folder: Path,
    all_study_data: Sequence[StudyData],
    collection: Collection,
    further: Sequence[Place],
) -> list[Path]:
    """Write all pages, figures and verdicts.json; returns the paths of the written files. `further` pages exist
    already."""
    places = [*_places(collection.studies), *further]
    entries = _entries(all_study_data)
    written, figures = [], {}
    for one in all_study_data:
        shown = figures[one.results.name] = captioned_figures(one)
        written += _draw(one.results, shown, folder / "figures")
        written.append(
            write_whole(folder / study.file_name(one.results), study.page(one, shown, places))
        )
    pages = {
        "methods.html": methods.page(all_study_data, places),
        "provenance.html": provenance.page(all_study_data, places),
        "index.html": index.page(all_study_data, entries, collection.problems, places, figures),
    }
    write_whole(folder / "verdicts.json", plain_text.as_json(entries))
    write_whole(folder / ".verdicts.key", fingerprint(collection))
    return written + [write_whole(folder / name, page) for name, page in pages.items()]
