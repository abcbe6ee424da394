"""Running studies: plan the runs, skip those that are stored, execute the others, store their rows, report.

`sweeps.population.host` or `sweeps.cluster` computes the runs; this module runs on the host.
"""

import contextlib
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from sweeps.api.precision import Growing, Growth, described
from sweeps.claims import Claim
from sweeps.console import activity, profile
from sweeps.console.profile import Part
from sweeps.console.progress import display, duration
from sweeps.console.tables import (
    rich_table,
    say,
    show,
    show_cost,
    show_spent,
    verdict_table,
)
from sweeps.population.engine import Engine
from sweeps.store import heartbeat, provenance
from sweeps.store.file_names import file_name
from sweeps.store.parquet import column
from sweeps.store.store import FACTS, MEASURED, Rows, Store, read_stores, study_directories
from sweeps.study import Point, Selection
from sweeps.tensorboard.refresh import Draw, Opened, Preview, mirror, read_verdicts
from testbed import config, paths
from testbed.errors import InvalidInput, Unfinished

#: A function that analyses the results in a directory, given its opened stores, and returns the report's path.
Report = Callable[[Path, Sequence[Opened]], Path]
#: Fewest complete worlds of which a provisional page is made: one has no interval.
FEWEST_WORLDS = 2


class Book:
    """The record of one study: its planned runs, the runs that are not stored yet, and the store of its results.

    The store is read once, when the object is made; all later rows must come through `put`.
    """

    def __init__(self, points: Sequence[Point], store: Store) -> None:
        self.points, self.store = [], store
        self._code = store.header["sessions"][-1].get("source")
        self._known = store.held()
        self._lacking: dict[str, list[Point]] = {}
        self._seeds: set[int] = set()
        self._open: Counter[int] = Counter()
        self.plan(points)

    def plan(self, points: Sequence[Point]) -> None:
        """Plan these runs, too, if they are not planned yet."""
        planned = {(point.arm, point.run) for point in self.points}
        for point in points:
            if (point.arm, point.run) in planned:
                continue
            self.points.append(point)
            self._seeds.add(point.seed)
            if (point.arm, point.run) not in self._known:
                self._lacking.setdefault(point.run, []).append(point)
                self._open[point.seed] += 1

    @property
    def worlds(self) -> int:
        """The number of seeds none of whose runs is lacking."""
        return len(self._seeds) - len(self._open)

    def lacking(self) -> Set[str]:
        """Ids of runs that at least one of their arms lacks; the set shrinks as rows are stored."""
        return self._lacking.keys()

    def put(self, rows: Rows) -> None:
        """Store the rows (see `Engine.execute`) of runs that are lacking, once for every arm that lacks them. Rows
        without a column ``code`` were made by this version of the code."""
        encoded = pa.array(rows["run"], pa.string()).dictionary_encode()
        lacking = [self._lacking.get(run, []) for run in encoded.dictionary.to_pylist()]
        points = [point for copies in lacking for point in copies]
        if not points:
            return
        # pandas is slow to import, and plans do not need it.
        import pandas as pd

        # The index of a row, and that of a point which lacks the row, for every pair of the two.
        run_of_point = np.repeat(np.arange(len(lacking)), list(map(len, lacking)))
        of_rows, of_points = (
            pd.DataFrame({"run": run, name: np.arange(len(run))})
            for name, run in (("row", encoded.indices.to_numpy()), ("point", run_of_point))
        )
        pairs = of_rows.merge(of_points, on="run")
        index, which = pa.array(pairs["row"]), pa.array(pairs["point"])
        study = self.store.header["study"]
        self.store.append(
            {name: column(name, values).take(index) for name, values in rows.items()}
            | {name: values.take(which) for name, values in identities(points, study).items()}
            | ({} if "code" in rows else {"code": [self._code] * len(index)})
        )
        for point in points:
            self._lacking.pop(point.run, None)
            self._open[point.seed] -= 1
            if not self._open[point.seed]:
                del self._open[point.seed]


def places(selections: Sequence[Selection], directory: Path) -> dict[Path, Selection]:
    """The directory of each study's results: ``directory`` itself for one study, its subdirectories for several."""
    names = [selection.study.name for selection in selections]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InvalidInput(f"study {twice.pop()} is given twice: name each study once")
    holds_one = (directory / "study.json").is_file()
    if len(selections) == 1 and (holds_one or not study_directories(directory)):
        return {directory: selections[0]}
    if holds_one:
        raise InvalidInput(
            f"output directory {directory} holds the results of one study, this command runs "
            f"{len(selections)}: choose another --out"
        )
    return {directory / file_name(name): one for name, one in zip(names, selections, strict=True)}


def run(
    selections: Sequence[Selection],
    directory: Path,
    console: Console,
    report: Report,
    engine: Engine,
    origins: Sequence[Mapping[str, Any]] = (),
    verbose: bool = False,
    draw: Draw | None = None,
    growth: Growth | None = None,
) -> None:
    """Complete studies in ``directory`` and show the results.

    All studies form one plan: a run that several studies contain is computed once and stored for each, and the world
    artifacts that runs share are built once. Stored runs are not repeated; a second call therefore finishes interrupted
    work. ``report`` writes the analysis and returns the page's path; ``origins`` (`Request.origins`), one per study, go
    into ``study.json``; ``verbose`` shows the plan and every stage; ``draw`` is called from time to time to draw the
    figures that TensorBoard shows meanwhile; ``growth`` adds worlds until intervals are narrow. Raises `InvalidInput`
    before anything compiles if a selection or the directory cannot be used.
    """
    start = time.monotonic()
    stores = places(selections, directory)
    if growth is not None:
        stores = {place: growth.asked.begun(one, place) for place, one in stores.items()}
    # Planning comes before the stores are made: an invalid selection leaves no files behind.
    made_by = [{**provenance.session(), **origin} for origin in origins or [{}] * len(stores)]
    with profile.part(Part.PLAN):
        planned = list(map(_planned, stores.values(), made_by))
    with contextlib.ExitStack() as opened:
        books, studies = [], []
        for place, (selection, points, origin, header) in zip(stores, planned, strict=True):
            store = opened.enter_context(Store.create_or_open(place, header))
            books.append(Book(points, store))
            studies.append(Growing(selection, tasks_of(points, header["study"]), store, origin))
            for warning in _changes(store.header, header):
                console.print(f"Note: {header['study']}: {warning}", style="yellow", markup=False)
        names = [book.store.header["study"] for book in books]
        beat = opened.enter_context(heartbeat.Heartbeat(directory, names))
        preview = Preview(directory, draw, console)
        try:
            ran = _execute(books, console, engine, beat, verbose, preview)
            while growth is not None and growth.look(directory, studies, ran):
                for book, study in zip(books, studies, strict=True):
                    book.plan(study.selection.points())
                ran = _execute(books, console, engine, beat, verbose, preview, again=True)
        except (KeyboardInterrupt, Unfinished):
            ids = {point.run for book in books for point in book.points}
            left = _lacking(books)
            say(console, f"{len(ids - left)} of {len(ids)} runs are saved in {directory}")
            raise
        for book in books:
            with profile.part(Part.STORE):
                book.store.merge()
            book.store.note(seconds=round(time.monotonic() - start, 1))
        beat.say("analysing")
        finish(directory, console, report)
        if growth is not None:
            growth.conclude(studies, read_verdicts(directory))
    _tell_time(directory, console, time.monotonic() - start)


def _planned(
    selection: Selection, origin: Mapping[str, Any]
) -> tuple[Selection, list[Point], Mapping[str, Any], dict[str, Any]]:
    """A selection with its points, its origin, and the header of its store."""
    return selection, selection.points(), origin, described(selection, origin)


def _tell_time(directory: Path, console: Console, seconds: float) -> None:
    """Write the profile, if there is one, and show how long the command took."""
    written = profile.write(directory)
    if written is not None:
        say(console, f"Profile     {written}")
    say(console, f"Wall time {duration(seconds)}")


def finish(
    directory: Path, console: Console, report: Report, opened: Sequence[Opened] | None = None
) -> None:
    """Analyse results, write the report and TensorBoard's logs, and show the verdicts. ``opened`` holds the stores as
    `read_stores` returns them, if they were read already."""
    say(console, "Analysing")
    activity.begin("analysing the results")
    with profile.part(Part.STORE):
        opened = read_stores(directory) if opened is None else opened
    with profile.part(Part.REPORT):
        page = report(directory, opened)
    with profile.part(Part.REPORT, "TensorBoard"):
        mirror(directory, opened)
    verdicts = read_verdicts(directory)
    if verdicts:
        show(verdict_table(verdicts), console)
    diverged_step: dict[str, float] = {}
    for _, table in reversed(opened):
        last = table.drop_duplicates("run")
        diverged_step |= dict(zip(last["run"], last["diverged_step"], strict=True))
    diverged = sum(step >= 0 for step in diverged_step.values())
    say(console, f"Runs        {len(diverged_step)}, of which {diverged} diverged")
    say(console, f"Report      {page}")
    command = shlex.join(["testbed", "tensorboard", paths.shown(directory)])
    say(console, f"TensorBoard {command}")


def _execute(
    books: Sequence[Book],
    console: Console,
    engine: Engine,
    beat: heartbeat.Heartbeat,
    verbose: bool,
    preview: Preview,
    again: bool = False,
) -> int:
    """Compute the runs that the studies lack; their number. The cost of work that is done ``again``, with more worlds,
    is shown only if ``verbose``."""
    points = distinct(point for book in books for point in book.points)
    _exchange(books)
    lacking = _lacking(books)
    todo = [point for point in points if point.run in lacking]
    where = books[0].store.directory if len(books) == 1 else books[0].store.directory.parent
    total = len(points)
    say(console, f"{total} runs, {total - len(todo)} of them stored already in {where}")
    if not todo:
        return 0
    try:
        with profile.part(Part.PLAN):
            plan = engine.plan(todo)
    except InvalidInput:
        # This machine cannot run the plan: later commands in this directory must not be compared with its header.
        for book in books:
            book.store.withdraw()
        raise
    if verbose:
        show(rich_table(plan.describe(), "Plan"), console)
    if verbose or not again:
        show_cost(plan, console)
    steps = sum(chunk.steps for chunk in plan.chunks)

    def on_rows(rows: Rows) -> None:
        with profile.part(Part.STORE):
            for book in books:
                book.put(rows)
        if any(book.lacking() for book in books):
            with profile.part(Part.REPORT, "provisional"):
                preview.renew(min(book.worlds for book in books) >= FEWEST_WORLDS, shown.left)

    with display(len(todo), steps, console, verbose) as shown:
        beat.watch(shown)
        spent = engine.execute(plan, on_rows, shown)
    if verbose or not again:
        show_spent(plan, spent, console)
    missing = _lacking(books)
    if missing:
        raise RuntimeError(f"{len(missing)} runs delivered no rows, for example {min(missing)}")
    return len(todo)


def _lacking(books: Iterable[Book]) -> set[str]:
    """Ids of runs that at least one of the studies lacks."""
    return {run for book in books for run in book.lacking()}


def _exchange(books: Sequence[Book]) -> None:
    """Copy rows of stored runs to every study and arm that plans the run and lacks the rows. Rows are missing if a
    study was begun later than another, or if the process was killed between two stores."""
    for giver in books:
        have = giver.store.finished()
        if not any(have & book.lacking() for book in books):
            continue
        table = giver.store.read(by_prompt=True).drop_duplicates(["run", "evaluation"])
        known = [
            name for name in table if name in MEASURED or name == "code" or name.startswith(FACTS)
        ]
        for taker in books:
            lacking: Any = table[table["run"].isin(sorted(have & taker.lacking()))]
            taker.put({name: lacking[name].to_numpy() for name in known})


def identities(points: Sequence[Point], study: str) -> dict[str, pa.Array]:
    """The columns that identify a row's study and run, one entry per point."""
    swept = dict.fromkeys(path for point in points for path in point.settings)
    texts = pa.array([config.canonical(point.experiment) for point in points])
    return {
        "study": column("study", [study] * len(points)),
        "arm": column("arm", [point.arm for point in points]),
        "task": column("task", [_task(point, study) for point in points]),
        "seed": column("seed", [point.seed for point in points]),
        "config": pa.DictionaryArray.from_arrays(np.arange(len(points), dtype=np.int32), texts),
        **{path: column(path, [point.settings.get(path) for point in points]) for path in swept},
    }


def tasks_of(points: Iterable[Point], study: str) -> tuple[str, ...]:
    """The tasks of these runs, each once."""
    return tuple(dict.fromkeys(_task(point, study) for point in points))


def _task(point: Point, study: str) -> str:
    """The experiment's name of its task, or the study's name if the experiment has no task."""
    try:
        task = config.get(point.experiment, "task")
    except InvalidInput:
        return study
    return task if isinstance(task, str) else type(task).__name__


def distinct(points: Iterable[Point]) -> list[Point]:
    """The runs of these points, each once."""
    return list({point.run: point for point in points}.values())


def _changes(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Notes for a user whose command adds to a store."""
    notes = []
    sources = {session["source"] for session in stored["sessions"]}
    if len(sources) > 1:
        notes.append(
            "the testbed's code has changed since this store was begun; its finished runs are kept, and the column "
            "`code` tells which version made each run. Choose another --out for results of one version."
        )
    for name, what in (("numerics", "libraries or settings"), ("bits", "processor or devices")):
        known = [session[name] for session in stored["sessions"] if name in session]
        if any(one != known[0] for one in known):
            notes.append(
                f"sessions of this store ran with different {what}, so that equal runs need not be equal to the last "
                "bit; study.json names them."
            )
    if _decided_otherwise(stored["claims"], present["claims"]):
        notes.append(
            "the study's claims have changed since this store was begun; the report marks every verdict by a rule "
            "that is newer than its data, and gives the one by the stored rule beside it."
        )
    return notes


def _decided_otherwise(
    stored: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether a claim was added, removed, or given other tests. Both lists are parsed as claims before they are
    compared: a field that a rule or estimand has gained later, with a default, makes no difference."""
    try:
        old, new = ({c["id"]: Claim.from_dict(c) for c in claims} for claims in (stored, present))
    except InvalidInput:
        return True
    return old.keys() != new.keys() or not all(new[name].decides_like(old[name]) for name in old)
