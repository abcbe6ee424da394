"""The words of the report: every sentence is made from the results' own numbers, and escaped."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NewType

import numpy as np

from analysis.hierarchy import POPULATION_SD, PRIORS, SCALE_LOG_SD
from analysis.load import Results, Table
from analysis.verdict import TaskEvidence, describe_peak
from sweeps.claims import Unanswerable
from sweeps.store import FACTS

Html = NewType("Html", str)
"""Text in which everything that came from data is escaped."""

CAPTIONS = {
    "frontier": (
        "Each small mark is one checkpoint of one run. Lines are the fitted curve of a typical "
        "seed, with its 90% band; the large mark is its peak, with the 90% interval of the KL at "
        "which it lies. The lower panel is the difference of the two curves in percentage points, "
        "over the range in which both arms have checkpoints. Much of a curve’s own uncertainty is "
        "shared by the arms, so bands may overlap while their difference is clear. The dotted line "
        "is a draw with the golden baseline."
    ),
    "classification": (
        "Last checkpoint of every run that did not diverge: small marks are runs, large ones the "
        "means of each seed. Accuracy is the share of D_golden’s pairs that the policy, scored "
        "against SFT, orders as the golden reward does."
    ),
    "logprob": (
        "Mean log-probability of whole responses relative to SFT, averaged over settings. Thin "
        "lines are seeds, the thick line is their mean, the band a 90% t interval over seeds."
    ),
    "verdicts": (
        "Estimates with the intervals that decide: a claim is reproduced when its whole interval "
        "lies right of the grey region of practical equivalence, contradicted when none of it "
        "does. A claim with several parts needs all of them."
    ),
}

GROUND = {
    "proxy_accuracy": "proxy accuracy",
    "label_noise": "wrong labels",
    "data_quality": "reward of the data",
    "baseline_reward": "reward of the baseline",
    "within_prompt_variance": "variance within prompts",
}
"""Measured facts of a world that the report shows, in words."""

LEDGER = {
    "pairs_seen": "pairs seen",
    "distinct_pairs": "distinct pairs",
    "labels_bought": "labels of D_golden or by people",
    "judgements": "judgements by the teacher",
    "tokens_sampled": "tokens sampled",
}
"""What runs consume, in words."""

_MOST_LISTED = 40


def escape(value: Any) -> str:
    """Any value as text that is safe inside HTML and attributes."""
    return html.escape(str(value), quote=True)


def join(parts: Iterable[str]) -> Html:
    """Escaped parts, one after the other."""
    return Html("\n".join(part for part in parts if part))


def number(value: float, unit: str = "", signed: bool = False) -> str:
    """A number as read aloud: points for differences of probability, a real minus sign."""
    scaled = 100 * value if unit == "probability" else value
    size = abs(scaled)
    digits = 0 if size >= 100 else 1 if size >= 10 or unit == "probability" else 2
    text = f"{scaled:{'+' if signed else ''}z.{digits}f}"
    return text.replace("-", "−")


def effect(row: Mapping[str, Any]) -> str:
    """Estimate and interval of a verdict in words."""
    if row["estimate"] is None:
        return "no estimate"
    unit = {"probability": "points"}.get(row["unit"], row["unit"])
    text = f"{number(row['estimate'], row['unit'], signed=True)} {unit}"
    if row["interval"] is None:
        return f"{text}, no interval"
    low, high = (number(bound, row["unit"]) for bound in row["interval"])
    mass = 100 * (2 * row["rule"]["confidence"] - 1) if "rule" in row else 90
    return f"{text} ({mass:.0f}% interval {low} to {high})"


def percent(value: float) -> str:
    """A proportion as a percentage."""
    return f"{100 * value:.0f}%"


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def paragraph(sentences: Sequence[str]) -> Html:
    """Sentences as a paragraph; nothing if there are none."""
    return Html(f"<p>{escape(' '.join(sentences))}</p>") if sentences else Html("")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numeric: int = 0) -> Html:
    """A table whose last `numeric` columns are numbers."""
    first = len(header) - numeric

    def cells(kind: str, values: Sequence[Any]) -> str:
        return "".join(
            f"<{kind}{' class=n' if index >= first else ''}>{escape(value)}</{kind}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return Html(
        f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def definitions(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Names and what they stand for."""
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs)
    return Html(f"<dl>{body}</dl>")


def head(results: Results, verdicts: Sequence[Mapping[str, Any]]) -> Html:
    """Title, question and the count of verdicts and runs."""
    study, runs = results.study, results.runs()
    diverged = int((runs["diverged_step"] >= 0).sum())
    tally = [
        (name, sum(row["verdict"] == name for row in verdicts), name)
        for name in ("reproduced", "contradicted", "undecided")
    ]
    tally += [
        ("", len(runs), f"runs, {diverged} diverged"),
        ("", runs["seed"].nunique(), "seeds" if runs["seed"].nunique() > 1 else "seed"),
    ]
    items = "".join(
        f'<li class="{name}"><b>{count}</b>{escape(words)}</li>' for name, count, words in tally
    )
    kicker = f"Study {study.get('study', '?')} · preset {study.get('preset', '?')} · "
    kicker += listed(results.tasks)
    return Html(
        f'<header><p class="kicker">{escape(kicker)}</p>'
        f"<h1>{escape(study.get('title', study.get('study', 'Results')))}</h1>"
        f'<p class="lead">{escape(study.get("question", ""))}</p>'
        f'<ul class="tally">{items}</ul></header>'
    )


def scoreboard(verdicts: Sequence[Mapping[str, Any]]) -> Html:
    """Every claim with its verdict on every task, the rule and what would have counted against."""
    ids = list(dict.fromkeys(row["claim"] for row in verdicts))
    several = len({row["task"] for row in verdicts}) > 1
    items = []
    for claim in ids:
        rows = [row for row in verdicts if row["claim"] == claim]
        outcomes = "".join(_outcome(row, several) for row in rows)
        rule = rows[0]["rule"]["words"]
        items.append(
            f'<li id="{escape(claim)}"><h3><span>{escape(claim)}</span>'
            f"{escape(rows[0]['text'])}</h3>{outcomes}"
            "<details><summary>The rule, written before the run</summary>"
            f"<p>{escape(rule[0].upper() + rule[1:])}.</p>"
            f"<p>What would count against it: {escape(rows[0]['against'])}</p>"
            f"{_parts(rows)}</details></li>"
        )
    return Html(f'<section><h2>Verdicts</h2><ol class="claims">{"".join(items)}</ol></section>')


def _outcome(row: Mapping[str, Any], several: bool) -> str:
    parts = row["details"].get("parts", [row])
    lines = "".join(f"<div>{_line({**row, **part})}</div>" for part in parts)
    task = f"<div><b>{escape(row['task'])}</b></div>" if several else ""
    why = f'<div class="why">{escape(_sentence(row["reason"]))}</div>' if row["reason"] else ""
    return (
        f'<div class="outcome"><span class="pill {escape(row["verdict"])}">'
        f"{escape(row['verdict'])}</span><div>{task}{lines}{why}</div></div>"
    )


def _line(row: Mapping[str, Any]) -> str:
    """One effect: the number first, then what it is of."""
    said, _, interval = effect(row).partition(" (")
    words = f" ({interval} {row['effect']}" if interval else f" {row['effect']}"
    return f'<span class="number">{escape(said)}</span>{escape(words)}'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _parts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each effect of a claim with its probability under the rule."""
    lines = []
    for row in rows:
        for part in row["details"].get("parts", [row]):
            chance = part["probability"]
            said = "no probability" if chance is None else f"P = {chance:.3f}"
            lines.append((row["task"], part["effect"], effect({**row, **part}), said))
    return table(("task", "effect", "estimate", "P(effect > rope)"), lines)


def frontier(results: Results, evidence: Mapping[str, TaskEvidence]) -> Html:
    """Peaks and matched-KL gap of every task."""
    paragraphs = []
    for task, one in evidence.items():
        try:
            fit = one.frontier
        except Unanswerable as problem:
            paragraphs.append(paragraph([f"On {task} there is no curve: {problem}."]))
            continue
        sentences = [f"On {task}, {listed([_peak(fit, arm) for arm in fit.arms])}."]
        if len(fit.arms) == 2:
            sentences.append(_gap(fit))
        sentences += [_sentence(reason) for reason in fit.missing.values()]
        trouble = fit.diagnostics.trouble()
        if trouble:
            sentences.append(f"Mind: {trouble}.")
        paragraphs.append(paragraph(sentences))
    return join(paragraphs)


def _peak(fit: Any, arm: str) -> str:
    peak = describe_peak(fit, arm)
    low, high = peak["peak_interval"]
    if peak["peak_place"] == "end":
        return (
            f"{arm} does not reach a peak inside the observed range: its best fitted win rate "
            f"there is {percent(peak['peak'])} ({percent(low)} to {percent(high)}) at KL "
            f"{peak['peak_kl']:.2g}"
        )
    return (
        f"{arm} peaks at a win rate of {percent(peak['peak'])} ({percent(low)} to "
        f"{percent(high)}) at KL {peak['peak_kl']:.2g}"
    )


def _gap(fit: Any) -> str:
    first, second = fit.arms
    try:
        low, high = fit.shared(first, second)
    except Unanswerable as problem:
        return _sentence(str(problem))
    lower, gap, upper = np.quantile(fit.gap(first, second), [0.05, 0.5, 0.95])
    direction = "more" if gap >= 0 else "less"
    sign = 1 if gap >= 0 else -1
    bounds = sorted((sign * lower, sign * upper))
    return (
        f"At equal KL, between {low**2:.2g} and {high**2:.2g} nats, a typical seed wins "
        f"{number(abs(gap), 'probability')} points {direction} often {first} than {second} "
        f"({number(bounds[0], 'probability')} to {number(bounds[1], 'probability')})."
    )


def _final_means(results: Results, metric: str, task: str) -> dict[str, float]:
    """Mean over seeds of the metric at the last checkpoint of undiverged runs, by arm."""
    rows = results.runs()
    rows = rows[(rows["task"] == task) & (rows["diverged_step"] < 0) & rows[metric].notna()]
    means = rows.groupby(["arm", "seed"])[metric].mean().groupby("arm").mean()
    return {arm: float(means[arm]) for arm in results.arms if arm in means.index}


def classification(results: Results) -> Html:
    """Accuracy and win rate at the last checkpoint, by arm."""
    sentences = []
    for task in results.tasks:
        accuracy = _final_means(results, "data_accuracy", task)
        wins = _final_means(results, "win_rate", task)
        arms = [arm for arm in accuracy if arm in wins]
        if arms:
            said = [
                f"{arm} policies order {percent(accuracy[arm])} of D_golden’s pairs as the labels "
                f"do and win {percent(wins[arm])} of their comparisons"
                for arm in arms
            ]
            sentences.append(f"On {task}, at the end of training, {'; '.join(said)}.")
    return paragraph(sentences)


def logprob(results: Results) -> Html:
    """Change of log-probability of winners and losers, by arm."""
    sentences = []
    for task in results.tasks:
        winners = _final_means(results, "winner_logprob_change", task)
        losers = _final_means(results, "loser_logprob_change", task)
        said = [
            f"{arm} training has changed the log-probability of D_golden’s winners by "
            f"{number(winners[arm], signed=True)} nats and of its losers by "
            f"{number(losers[arm], signed=True)}"
            for arm in winners
            if arm in losers
        ]
        if said:
            sentences.append(f"On {task}, {'; '.join(said)}.")
    return paragraph(sentences)


def design(results: Results) -> Html:
    """Arms, axes, seeds, and the base config."""
    study = results.study
    pairs = [
        (f"arm {arm}", ", ".join(f"{path} = {value}" for path, value in settings.items()) or "base")
        for arm, settings in study.get("arms", {}).items()
    ]
    pairs += [(path, ", ".join(map(str, values))) for path, values in study.get("axes", {}).items()]
    pairs += [(path, value) for path, value in study.get("settings", {}).items()]
    pairs.append(("seeds", f"{study.get('seeds', '?')}; each redraws world, data and training"))
    base = escape(json.dumps(study.get("base", {}), indent=2))
    return Html(
        f"<section><h2>What was run</h2>{definitions(pairs)}"
        f"<details><summary>Base configuration</summary><pre>{base}</pre></details></section>"
    )


def worlds(results: Results) -> Html:
    """What each seed's runs stand on, as measured: data, proxy, opponent."""
    facts = [name for name in GROUND if f"{FACTS}{name}" in results.table]
    if not facts:
        return Html("")
    each = results.table.groupby(["task", "seed"], sort=True)[[f"{FACTS}{n}" for n in facts]]
    rows = [
        (task, seed, *(f"{value:.2f}" for value in values))
        for (task, seed), values in zip(
            each.first().index, each.first().to_numpy(dtype=float), strict=True
        )
    ]
    header = ("task", "seed", *(GROUND[name] for name in facts))
    said = (
        "A seed redraws the world. Accuracy is against the golden reward on held-out pairs; rewards "
        "are in standard deviations over SFT samples, whose mean is 0."
    )
    listing = table(header, rows, numeric=len(facts) + 1)
    return Html(f"<section><h2>The worlds</h2>{paragraph([said])}{listing}</section>")


def runs(results: Results, evidence: Mapping[str, TaskEvidence]) -> Html:
    """Runs, diverged runs and checkpoints left out, by task and arm."""
    last = results.runs()
    rows = []
    for task in results.tasks:
        for arm in results.arms:
            own = last[(last["task"] == task) & (last["arm"] == arm)]
            lost = int((own["diverged_step"] >= 0).sum())
            rows.append((task, arm, own["seed"].nunique(), len(own), lost))
    left_out = []
    for task, one in evidence.items():
        try:
            counts = one.frontier.cleaned.left_out
        except Unanswerable:
            continue
        left_out += [f"{count} checkpoints {reason} ({task})" for reason, count in counts.items()]
    said = [f"Not in the curves: {listed(left_out)}."] if left_out else []
    return join(
        [
            "<section><h2>Runs, and those that diverged</h2>",
            table(("task", "arm", "seeds", "runs", "diverged"), rows, numeric=3),
            paragraph(
                [
                    "A diverged run is frozen where its loss or parameters stopped being finite; "
                    "it is counted here, and enters the curves up to that step only.",
                    *said,
                ]
            ),
            _diverged(last[last["diverged_step"] >= 0], results.axes),
            "</section>",
        ]
    )


def consumed(results: Results) -> Html:
    """What a run of each arm had consumed when it ended."""
    last = results.runs()
    if last[list(LEDGER)].isna().to_numpy().all():
        return Html("")
    middle = last.groupby(["task", "arm"], sort=False)[list(LEDGER)].median()
    rows = [
        (task, arm, *(f"{value:,.0f}" for value in middle.loc[(task, arm)]))
        for task in results.tasks
        for arm in results.arms
        if (task, arm) in middle.index
    ]
    said = (
        "Median over an arm’s runs, at their end. Every row of the results has these numbers, so arms "
        "can be compared at equal labels or equal tokens as well. A proxy’s judgements rest on all "
        "labels of D_golden, whoever learns from them."
    )
    listing = table(("task", "arm", *LEDGER.values()), rows, numeric=len(LEDGER))
    return Html(f"<section><h2>What a run consumed</h2>{paragraph([said])}{listing}</section>")


def _diverged(rows: Table, axes: Sequence[str]) -> str:
    if rows.empty:
        return ""
    columns = ["task", "arm", "seed", *axes, "diverged_step"]
    shown = rows[columns].head(_MOST_LISTED).astype(object).itertuples(index=False)
    more = len(rows) - _MOST_LISTED
    note = f"<p>and {more} more.</p>" if more > 0 else ""
    listing = table(["step" if name == "diverged_step" else name for name in columns], shown)
    return f"<details><summary>The diverged runs</summary>{listing}{note}</details>"


def inference(evidence: Mapping[str, TaskEvidence]) -> Html:
    """The model in a paragraph, its convergence, its scales and how well it follows the points."""
    fits, scales, misfits = [], [], []
    for task, one in evidence.items():
        try:
            fit = one.frontier
        except Unanswerable as problem:
            fits.append((task, str(problem), "", "", ""))
            continue
        d = fit.diagnostics
        state = d.trouble() or "good"
        fits.append((task, state, f"{d.rhat:.3f}", f"{d.ess:.0f}", f"{d.divergences} of {d.draws}"))
        for name, (median, words) in PRIORS.items():
            draws = np.asarray(fit.scales[name]).reshape(d.draws, -1)
            low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], axis=0)
            said = "; ".join(
                f"{m:.2f} ({lo:.2f} to {h:.2f})" for lo, m, h in zip(low, middle, high, strict=True)
            )
            scales.append((task, words, f"{median:g}", said))
        for arm in fit.arms:
            worst, where = fit.misfit(arm)
            points = number(worst, "probability", signed=True)
            misfits.append((task, arm, f"{points} points", f"{where**2:.2g}"))
    text = (
        "Win rate is modelled on the logit scale as c + d (α − β log d) with d = √KL, the form "
        "that Gao et al. (2023) found for reward under optimisation. Seeds, runs and checkpoints "
        "are nested levels of variation, the arms of a seed start from the same SFT policy, and "
        "the binomial noise of each win rate is known. Curves, peaks and gaps are those of a "
        "typical seed, and are never read outside the range in which an arm was observed. "
        "Differences of last checkpoints are averaged within a seed; the seeds are the sample of "
        "a Student t posterior."
    )
    priors = (
        f"Priors: coefficients normal with standard deviation {POPULATION_SD:g} logits at the mean "
        f"distance, scales log-normal with log standard deviation {SCALE_LOG_SD:g} around the "
        "medians below. Entries with several numbers are slope and curvature (by arm, where there "
        "is one an arm)."
    )
    return join(
        [
            f"<section><h2>How the numbers were made</h2><p>{escape(text)}</p>",
            table(("task", "fit", "R-hat", "effective draws", "divergences"), fits, numeric=3),
            "<details><summary>Levels of variation, priors, and fit to the points</summary>",
            f"<p>{escape(priors)}</p>",
            table(("task", "standard deviation of", "prior median", "posterior, logits"), scales),
            "<p>Largest mean difference of observed and fitted win rate over a fifth of an arm’s "
            "checkpoints, ordered by KL:</p>",
            table(("task", "arm", "difference", "at KL"), misfits, numeric=2),
            "</details></section>",
        ]
    )


def provenance(results: Results, name: str) -> Html:
    """Code, versions, machine, time, and the commands that repeat this."""
    study = results.study
    pairs: list[tuple[str, Any]] = [("begun", study.get("created", "unknown"))]
    sessions = study.get("sessions", ())
    if len(sessions) > 1:
        pairs.append(("continued", ", ".join(s.get("created", "?") for s in sessions[1:])))
    machine, versions = study.get("machine", {}), study.get("versions", {})
    pairs += [
        (
            "machine",
            ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items()),
        ),
        ("versions", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ("source", f"{study.get('source', 'unknown')} (hash of the code that ran)"),
    ]
    command = study.get("command") or f"testbed run {study.get('study', 'STUDY')}"
    return Html(
        f"<section><h2>Where it comes from, and how to repeat it</h2>{definitions(pairs)}"
        f"<pre>{escape(command)}\ntestbed report {escape(name)}</pre></section>"
    )
