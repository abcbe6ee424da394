"""Verdicts as pieces of HTML pages: one study's claims in full, and the scoreboard of all studies."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import html
from analysis.html import Html, element, escape
from analysis.site import forest
from analysis.verdicts.evidence import ALL_TASKS
from analysis.verdicts.many import expected_wrong
from analysis.verdicts.verdict import PAPER, base, rank
from sweeps.store.file_names import study_stem

Entry = Mapping[str, Any]


CLOSE = "close to the threshold"
"""Mark of verdicts that a small error of the probability would change."""


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Verdicts by claim, then by study."""
    return sorted(entries, key=lambda row: (rank(row["claim"]), row["study"]))


def tasks(entries: Sequence[Entry]) -> list[str]:
    """Tasks in alphabetical order, the typical one last."""
    return sorted({row["task"] for row in entries}, key=lambda task: (task == ALL_TASKS, task))


def counts(entries: Sequence[Entry]) -> dict[str, int]:
    """How often each verdict was given."""
    return {name: sum(row["verdict"] == name for row in entries) for name in html.VERDICTS}


def tally_items(entries: Sequence[Entry]) -> list[tuple[str, Any, str]]:
    """Counts of verdicts for `html.tally`, each with its shape."""
    return [
        (name, f"{html.SYMBOLS[name]} {count}", name) for name, count in counts(entries).items()
    ]


def many(entries: Sequence[Entry]) -> str:
    """How many of the decided verdicts are expected to be wrong, and how many are close to the threshold; "" if none is
    decided."""
    decided = sum(row["verdict"] != "undecided" for row in entries)
    if not decided:
        return ""
    wrong = expected_wrong(entries)
    amount = f"{wrong:.1f}" if wrong >= 0.95 else "0" if not wrong else f"{max(wrong, 0.001):.1g}"
    near = sum(row["close"] for row in entries)
    marked = (
        f" {html.plural(near, 'verdict')} {'is' if near == 1 else 'are'} marked as {CLOSE}: an error of 0.01 in the "
        "probability would change it."
        if near
        else ""
    )
    return (
        f"Of {html.plural(decided, 'decided verdict')} at most {amount} {'is' if amount == '1' else 'are'} expected to "
        "be wrong: each leaves some probability to the opposite, and these add up, however the verdicts depend on each "
        f"other.{marked}"
    )


def anchor(row: Entry) -> str:
    """The id of a verdict in its study's page."""
    return html.slug(row["claim"], row["task"])


def board(entries: Sequence[Entry]) -> dict[tuple[str, str], dict[str, Entry | None]]:
    """The scoreboard: for each claim and study, in order, the verdict on every task (None if there is none)."""
    by_key = {(row["claim"], row["study"], row["task"]): row for row in entries}
    keys = dict.fromkeys((row["claim"], row["study"]) for row in ordered(entries))
    return {key: {task: by_key.get((*key, task)) for task in tasks(entries)} for key in keys}


def scoreboard(entries: Sequence[Entry]) -> Html:
    """Claims by tasks: each cell has a shape, a word and a number, and links to the study's page."""
    shown = board(entries)
    several = len({study for _, study in shown}) > 1
    names = [element("th", name) for name in ("Claim", *tasks(entries))]
    lines, group = [], ""
    for (claim, study), by_task in shown.items():
        kind = "Claims of the paper" if base(claim) in PAPER else "Questions beyond the paper"
        if kind != group:
            group = kind
            lines.append(element("tr", element("th", kind, colspan=len(names)), class_="group"))
        text = next(row["text"] for row in by_task.values() if row)
        address = f"{study_stem(study)}.html#{html.slug(claim)}"
        whose = element("span", study, class_="study") if several else ""
        title = html.link(address, element("b", claim)), " ", text, " ", whose
        cells = (_cell(row, task) for task, row in by_task.items())
        name = element("th", *title, class_="claim")
        lines.append(element("tr", name, *cells, id=html.slug(claim, study)))
    head = element("thead", element("tr", *names))
    return element("table", head, element("tbody", *lines), class_="board")


def _cell(row: Entry | None, task: str) -> Html:
    if row is None:
        return element("td", "–", class_="none", data_task=task)
    parts = [html.pill(row["verdict"])]
    if row["estimate"] is not None:
        said = html.amount(row["estimate"], row["unit"])
        parts.append(element("span", said, class_="number"))
    if row["interval"] is not None:
        parts.append(element("span", html.between(row), class_="range"))
    if row["newer"]:
        parts.append(element("span", "newer rule", class_="newer"))
    if row["close"]:
        parts.append(element("span", CLOSE, class_="newer"))
    told = "; ".join(filter(None, (row["effect"], html.effect(row), row["reason"])))
    linked = element("a", Html(" ".join(parts)), href=_address(row), title=told)
    return element("td", linked, class_=row["verdict"], data_task=task)


def _address(row: Entry) -> str:
    """The place of a verdict in the site."""
    return f"{study_stem(row['study'])}.html#{anchor(row)}"


def explain(row: Entry) -> str:
    """A verdict in one sentence: the measured effect, its size, and the reason for the verdict."""
    said = f"{row['effect']}: {html.effect(row)}"
    if row["verdict"] == "contradicted":
        return html.sentence(f"{said}, where the claim needs {condition(row)}")
    # The reason of a conjunction names its weakest test already; it is not repeated.
    reason = row["reason"].removeprefix(f"{row['effect']}: ")
    return html.sentence(f"{said}; {reason}" if reason else said)


def condition(test: Entry) -> str:
    """The condition of a test's rule on its effect, in the effect's unit."""
    formulas = {"More": "effect > {}", "NoMore": "effect ≤ {}", "Same": "|effect| ≤ {}"}
    rule = test["rule"]
    rope = html.amount(rule["rope"], test["unit"], signed=False) if rule["rope"] else "0"
    return formulas.get(rule["kind"], "rope {}").format(rope)


def _chance(row: Entry) -> str:
    value = row["probability"]
    return "< 0.001" if value < 0.0005 else "> 0.999" if value > 0.9995 else f"{value:.3f}"


def not_reproduced(entries: Sequence[Entry]) -> Html:
    """One sentence for each verdict that is not "reproduced"."""
    rows = sorted(
        (row for row in entries if row["verdict"] != "reproduced"),
        key=lambda row: (rank(row["claim"]), row["study"], row["task"] == ALL_TASKS, row["task"]),
    )
    items = []
    for row in rows:
        name = Html(f"{element('b', row['claim'])} {escape(row['task'])}")
        parts = html.link(_address(row), name), html.pill(row["verdict"]), escape(explain(row))
        items.append(Html(" ".join(parts)))
    return html.bullets(items, class_="reasons")


def in_full(entries: Sequence[Entry]) -> Html:
    """Every claim of a study with its verdict on every task, its rules, and the evidence that would contradict it."""
    ids = sorted(dict.fromkeys(row["claim"] for row in entries), key=rank)
    items = []
    for claim in ids:
        rows = [row for row in entries if row["claim"] == claim]
        rows.sort(key=lambda row: (row["task"] == ALL_TASKS, row["task"]))
        name = html.slug(claim)
        title = html.heading(f"{claim} {rows[0]['text']}", name, 3)
        tests, beside = (forest.of_claim(rows, part) for part in ("tests", "beside"))
        outcomes = [_outcome(row, tests, beside) for row in rows]
        parts = title, _age(rows), *outcomes, _note(rows), _rules(rows)
        items.append(element("li", *parts, id=name))
    board = element("ol", *items, class_="claims") if items else ""
    return html.section("verdicts", "Verdicts", board)


def _age(rows: Sequence[Entry]) -> Html:
    """Whether the claim was judged by a rule newer than its data, and how the verdict differs."""
    newer = [row for row in rows if row["newer"]]
    if not newer:
        return Html("")
    changed = any(row["stored_verdict"] not in (None, row["verdict"]) for row in newer)
    said = "no rule was stored with the data"
    if any(row["stored_verdict"] for row in newer):
        said = f"the stored one gives {'other' if changed else 'the same'} verdicts"
    words = f"The rule is newer than the data; {said}."
    return element("p", words, class_="note newer")


def _note(rows: Sequence[Entry]) -> Html:
    notes = dict.fromkeys(row["note"] for row in rows if row["note"])
    return html.join(html.written(note).replace("<p>", '<p class="note">') for note in notes)


Forests = Mapping[tuple[str, int], Html]
"""Forest plots by task and index of the effect."""


def _outcome(row: Entry, tests: Forests, beside: Forests) -> Html:
    """A claim's verdict on one task: the effect of every test with its worlds, then the effects beside them."""
    task = row["task"]
    lines = [element("div", element("b", task))]
    lines += [_line(test, tests.get((task, index))) for index, test in enumerate(row["tests"])]
    if row["reason"]:
        lines.append(element("div", html.sentence(row["reason"]), class_="why"))
    if row["close"]:
        lines.append(element("div", html.sentence(CLOSE), class_="why"))
    if row["stored_verdict"] not in (None, row["verdict"]):
        before = f"By the rule stored with the data it was {row['stored_verdict']}."
        lines.append(element("div", before, class_="why newer"))
    others = [_line(one, beside.get((task, index))) for index, one in enumerate(row["beside"])]
    if others:
        lines.append(html.details("Beside it: decides nothing", *others))
    parts = html.pill(row["verdict"]), element("div", *lines)
    return element("div", *parts, class_="outcome", id=anchor(row))


def _line(test: Entry, worlds: Html | None) -> Html:
    """One effect: its shape if it is tested, the number, then its words, and its worlds beside them."""
    said, _, interval = html.effect(test).partition(" (")
    words = f" ({interval} {test['effect']}" if interval else f" {test['effect']}"
    parts = [element("span", said, class_="number"), words]
    if "verdict" in test:
        verdict = test["verdict"]
        shape = html.SYMBOLS[verdict]
        parts = [element("span", shape, class_=f"mark {verdict}", title=verdict), " ", *parts]
    elif test["reason"]:
        parts += [element("span", f" {html.sentence(test['reason'])}", class_="why")]
    return element("div", element("div", *parts), worlds or "", class_="effect")


def _rules(rows: Sequence[Entry]) -> Html:
    """The rule of every test, the evidence that would contradict the claim, and each probability."""
    words = dict.fromkeys(
        (test["effect"], test["rule"].get("words") or row["rule"]["words"])
        for row in rows
        for test in row["tests"]
    )
    several = len(words) > 1
    rules = (html.sentence(f"{label}: {rule}" if several else rule) for label, rule in words)
    lines = []
    for row in rows:
        for test in row["tests"]:
            said = "–" if test["probability"] is None else _chance(test)
            cells = (row["task"], test["effect"], html.effect(test), condition(test), said)
            lines.append((*cells, html.pill(test["verdict"])))
    header = ("task", "effect", "estimate", "condition", "probability", "verdict")
    newer = any(row["newer"] for row in rows)
    title = "The rule, newer than the data" if newer else "The rule, written before the run"
    return html.details(
        title,
        html.bullets(rules),
        html.paragraph(f"What would count against it: {rows[0]['against']}"),
        html.table(header, lines),
    )
