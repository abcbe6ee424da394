"""Choose the figures of a study, by the measured columns and by the claims."""

from collections.abc import Iterator

from analysis.figures import curves, effects, inputs, learning, level_figures
from analysis.figures.curves import Pair
from analysis.figures.inputs import Exhibit, Material
from analysis.figures.level_figures import Spoken
from analysis.figures.style import Drawing
from analysis.load import Table
from analysis.verdicts.evidence import ALL_TASKS

OWN_FIGURES = ("win_rate", "best_win_rate", "policy_checksum", *learning.LOGPROBS)
"""Metrics without a figure of last values: another figure shows them, or they are not amounts."""


def exhibits(material: Material) -> list[Exhibit]:
    """All figures that have data to show; figures that show a claim's quantity come first."""
    spoken = inputs.estimands(material.results)
    makers = (
        _frontier,
        _peaks,
        level_figures.relative_figures,
        level_figures.peak_place_figures,
        level_figures.along_figures,
        _windows,
        _scatters,
        _logprob,
        _ends,
    )
    makers += (_forest, level_figures.each_level_figures, _envelope)
    found = [exhibit for maker in makers for exhibit in maker(material, spoken)]
    return sorted(found, key=lambda exhibit: not exhibit.central)


def early(material: Material) -> list[Exhibit]:
    """Figures that need no model and no verdict, so that they can be drawn while runs go on."""
    spoken = inputs.estimands(material.results)
    return [*_envelope(material, spoken), *_scatters(material, spoken)]


def _frontier(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    if not material.fits:
        return
    pairs = _pairs(material, spoken)
    alt = "Win rate over the square root of KL from SFT, with fitted curves, by arm."
    many = material.several or len(material.fits) > 4
    marks = (
        "Each small mark is one checkpoint of one run. Lines are the fitted curve of a typical seed"
    )
    peaks = "; the large mark is its peak, or its best where the range ends first."
    if not many:
        peaks = (
            ", with its 90% band; the large mark is its peak (a triangle where the curve still rises "
            "at the end of its range), with the 90% interval of the KL at which it lies."
        )
    below = (
        " The lower panel is the difference of curves in percentage points, over the range in which "
        "both arms have checkpoints. Much of a curve’s own uncertainty is shared by the arms, so "
        "bands may overlap while their difference is clear."
    )
    caption = marks + peaks
    caption += below if pairs and len(material.fits) <= 4 else ""
    yield Exhibit(
        Drawing(
            "frontier",
            alt,
            lambda width: curves.frontier(material.fits, material.arms, pairs, width),
            curves.frontier_table(material.fits),
        ),
        "How far does each arm get, and at what distance?",
        f"{caption} The dotted line is a draw with the golden baseline.",
    )


def _pairs(material: Material, spoken: Spoken) -> list[Pair]:
    """Pairs of arms that claims compare at matched KL, or the two arms if there are two."""
    pairs: list[Pair] = []
    for one in spoken:
        if one["kind"] == "MatchedGap":
            pairs.append((one["first"], one["second"]))
        elif one["kind"] == "ShareOfGap":
            pairs.append((one["top"], one["bottom"]))
            pairs.append((one["top"], one["candidate"]))
    if not pairs and len(material.arms) == 2:
        pairs.append((material.arms[0], material.arms[1]))
    return list(dict.fromkeys(pairs))[:4]


def _peaks(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    if (
        material.results.strata
        or max((len(fit.arms) for fit in material.fits.values()), default=0) < 3
    ):
        return
    typical = {ALL_TASKS: material.typical} if material.typical is not None else {}
    table = effects.peaks_table({**material.fits, **typical})
    yield Exhibit(
        Drawing(
            "peaks",
            "Peak win rate of every arm and the KL at which it lies, with 90% intervals.",
            lambda width: effects.peaks(table, material.arms, width),
            table,
        ),
        "Where does each arm peak?",
        "Fitted peaks of a typical seed with 90% intervals. Hollow marks are best values at an end "
        "of the observed range: the peak itself was not seen.",
    )


def _windows(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    table = learning.window_table(inputs.finished(material.results))
    if table.empty:
        return
    yield Exhibit(
        Drawing(
            "windows",
            "Classification accuracy on ten windows of the online stream, of proxy and policies.",
            lambda width: learning.windows(table, material.arms, width),
            table,
        ),
        "Who can tell good from bad on the online stream?",
        "Accuracy against the golden reward on pairs of the recorded online run, window by window. "
        "Policies are those at the end of training; means over settings and seeds, with 90% t intervals "
        "over seeds, or the seeds themselves if they are two.",
    )


def _scatters(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """Accuracy over win rate, and each pair of columns that a claim correlates or regresses."""
    wanted: dict[tuple[str, str], bool] = {}
    for one in spoken:
        if one["kind"] == "RankCorrelation":
            columns = one["x"], one["y"]
            if columns == ("data_accuracy", "win_rate"):
                columns = "win_rate", "data_accuracy"
            wanted[columns] = True
        elif one["kind"] == "Slope":
            wanted.setdefault((one["on"], one["metric"]), False)
    used = inputs.columns_used(spoken)
    both = ("win_rate", "data_accuracy")
    central = {*wanted} | ({both} if "data_accuracy" in used else set())
    for x, y in dict.fromkeys([*wanted, both]):
        correlated = wanted.get((x, y), False)
        rows = _points(material, (x, y), correlated)
        if rows.empty or rows[x].nunique() < 2:
            continue
        which = "all trained checkpoints" if correlated else "last checkpoints of all runs"
        accuracy = (x, y) == both
        grouped = accuracy or correlated
        name = "classification" if accuracy else f"scatter-{y}-{x}"
        yield Exhibit(
            Drawing(
                name,
                f"{inputs.metric_words(y)} over {inputs.metric_words(x)}, by arm.",
                lambda width, rows=rows, x=x, y=y, grouped=grouped: learning.scatter(
                    rows, material.arms, (x, y), (inputs.capital(x), inputs.capital(y)),
                    (inputs.is_rate(x), inputs.is_rate(y)), width, grouped,
                ),
                rows,
            ),
            "Does telling good from bad make a good writer?"
            if accuracy
            else f"How does {inputs.metric_words(y)} depend on {inputs.metric_words(x)}?",
            f"{'Small marks' if grouped else 'Marks'} are {which}; runs that diverged are left out."
            + (" Large marks are means of each seed." if grouped else "")
            + (
                " Accuracy is the share of D_golden’s pairs that the policy, scored against SFT, "
                "orders as the golden reward does."
                if accuracy
                else ""
            ),
            central=(x, y) in central,
        )  # fmt: skip


def _points(material: Material, columns: tuple[str, str], every: bool) -> Table:
    """Rows of a scatter, of runs that did not diverge: every trained checkpoint, or each run's last one."""
    table = material.results.table
    trained = table[(table["evaluation"] > 0) & (table["diverged_step"] < 0)]
    rows = trained if every else inputs.finished(material.results)
    names = ["task", "arm", "seed", "run", "step", *columns]
    if any(name not in rows for name in columns):
        return rows.iloc[:0]
    return rows.loc[rows[list(columns)].notna().all(axis=1), names]


def _logprob(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    table = material.results.on_axes
    metrics = [name for name in learning.LOGPROBS if name in table and table[name].notna().any()]
    if not metrics:
        return
    averaged = learning.training_curves(table, metrics)
    if averaged.empty:
        return
    yield Exhibit(
        Drawing(
            "logprob",
            "Change of the log-probability of winners and losers over training, by arm.",
            lambda width: learning.logprob(averaged, material.arms, width),
            averaged,
        ),
        "What happens to the answers in the data?",
        "Mean log-probability of whole responses relative to SFT, averaged over settings"
        + (
            "."
            if material.several
            else ". Thin lines are seeds, the thick line is their mean, the band a 90% t interval "
            "over seeds, if they are three or more."
        ),
        central=bool(inputs.columns_used(spoken) & set(learning.LOGPROBS)),
    )


def _ends(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """Last values of the metrics that claims compare, unless another figure shows them."""
    last = inputs.finished(material.results)
    used = [
        one["metric"]
        for one in spoken
        if one["kind"] in ("PairedDifference", "Change", "Level") and one["metric"] in last
    ]
    metrics = [name for name in dict.fromkeys(used) if name not in OWN_FIGURES]
    table = learning.ends_table(last, metrics)
    if table.empty:
        return
    lines = {one["metric"]: float(one["against"]) for one in spoken if one["kind"] == "Level"}
    words = {name: inputs.capital(name) for name in metrics}
    yield Exhibit(
        Drawing(
            "ends",
            "Values at the end of training of the metrics that claims compare, by arm.",
            lambda width: learning.ends(table, material.arms, words, lines, width),
            table,
        ),
        "Where do the arms end?",
        "Last checkpoints, averaged over settings: a small mark a seed, a large one their mean. "
        "A dotted line marks the value that a claim compares with.",
    )


def _forest(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    rows = effects.effects(material.entries)
    if not rows:
        return
    yield Exhibit(
        Drawing(
            "effects",
            "Effects of all claims with intervals and the region of practical equivalence.",
            lambda width: effects.forest(rows, width),
            effects.effects_table(rows),
        ),
        "How large are the effects?",
        "Posterior medians and the intervals that decide. Grey is what the rule calls practically "
        "nothing, or the bound that it sets. What an effect must be is in each claim’s rule: mostly, "
        "that the whole interval lies right of the grey region. A claim with several tests needs all "
        "of them. Arrowheads mark intervals that go on beyond the panel.",
    )


def _envelope(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    if material.envelopes.empty:
        return
    yield Exhibit(
        Drawing(
            "envelope",
            "All checkpoints as a scatter of win rate over KL with each arm’s upper envelope.",
            lambda width: curves.envelope(
                material.points, material.envelopes, material.arms, width
            ),
            material.envelopes,
        ),
        "The same points as the paper draws them",
        "All checkpoints of all runs and settings; lines are upper envelopes: the best win rate of "
        "an arm’s checkpoints in bins of KL, the best so far carried on. No model, no interval: an "
        "envelope rises with the number of runs, so compare arms of equally many.",
    )
