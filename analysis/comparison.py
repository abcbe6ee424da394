"""Compare two results directories, A and B: which verdicts differ, and which differences in design, code and runs may
explain this."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import report
from analysis.html import SYMBOLS, amount, effect, listed, plural
from analysis.load import Results, counts, load_all
from analysis.site.verdicts import ordered
from sweeps.console.tables import html_table
from sweeps.store import metadata
from sweeps.store.store import Store
from testbed.errors import InvalidInput

Entry = Mapping[str, Any]
#: A setting's name, its value in A and its value in B.
Difference = tuple[str, Any, Any]


@dataclasses.dataclass(frozen=True)
class StudyPair:
    """A study in both directories: how its design, its code and its runs differ from A to B.

    ``design`` holds preset, seeds, fields of the config, arms, axes; ``code`` the source and the libraries' versions.
    """

    study: str
    design: tuple[Difference, ...]
    code: tuple[Difference, ...]
    runs: tuple[Difference, ...]

    def describe(self) -> dict[str, Any]:
        """As JSON-able data."""
        parts = ("design", "code", "runs")
        named = {
            part: [{"what": what, "a": a, "b": b} for what, a, b in getattr(self, part)]
            for part in parts
        }
        return {"study": self.study, **named}


@dataclasses.dataclass(frozen=True)
class Row:
    """One claim on one task: its entries of `verdicts.json` in A and in B (None where a side has none), whether the
    verdict differs, whether the intervals are disjoint (None if they cannot be compared), and the reasons."""

    study: str
    claim: str
    task: str
    a: Entry | None
    b: Entry | None
    moved: bool
    apart: bool | None
    why: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """As JSON-able data: for each side the values that decide the verdict."""
        names = ("verdict", "effect", "unit", "estimate", "interval", "probability", "reason")
        sides = {
            side: None if entry is None else {name: entry[name] for name in names}
            for side, entry in (("a", self.a), ("b", self.b))
        }
        kept = ("study", "claim", "task", "moved", "apart")
        return {name: getattr(self, name) for name in kept} | sides | {"why": list(self.why)}

    def cells(self) -> dict[str, str]:
        """As text: study, claim, task, A, B and a mark if the verdict differs."""
        return {
            "study": self.study,
            "claim": self.claim,
            "task": self.task,
            "A": _said(self.a),
            "B": _said(self.b),
            "": "moved" if self.moved else "",
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    a: Path
    b: Path
    studies: tuple[StudyPair, ...]
    rows: tuple[Row, ...]

    @property
    def moved(self) -> tuple[Row, ...]:
        """The claims whose verdicts differ. A claim that only one side judges is not among them."""
        return tuple(row for row in self.rows if row.moved)

    def describe(self) -> dict[str, Any]:
        """As JSON-able data: what ``testbed compare --json`` prints."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "moved": len(self.moved),
            "studies": [study.describe() for study in self.studies],
            "verdicts": [row.describe() for row in self.rows],
        }

    def sentences(self, every: bool = False) -> list[str]:
        """The differences between A and B, then the reasons for each changed verdict (``every``: for each claim)."""
        lines = []
        for pair in self.studies:
            for part, words in (("design", "planned"), ("code", "made by"), ("runs", "holds")):
                lines += [
                    f"{pair.study} {words}: {what} {_value(a)} → {_value(b)}"
                    for what, a, b in getattr(pair, part)
                ]
            if not (pair.design or pair.code or pair.runs):
                lines.append(f"{pair.study}: the same design, code and runs")
        for row in self.rows if every else self.moved:
            place = f"{row.study} {row.claim} ({row.task})"
            verdicts = " → ".join("–" if one is None else one["verdict"] for one in (row.a, row.b))
            lines.append(f"{place} {verdicts}: {'; '.join(row.why) or 'nothing differs'}")
        return lines

    def summary(self) -> str:
        """One sentence: how many verdicts differ."""
        judged = sum(row.a is not None and row.b is not None for row in self.rows)
        only = len(self.rows) - judged
        alone = f"; {plural(only, 'verdict')} on one side only" if only else ""
        return f"{len(self.moved)} of {plural(judged, 'verdict')} moved from {self.a} to {self.b}{alone}"

    def _repr_html_(self) -> str:
        return html_table([row.cells() for row in self.rows], self.summary())


def compare(
    a: Path | str, b: Path | str, opened: Sequence[Sequence[tuple[Store, Any]]] = ((), ())
) -> Comparison:
    """Compare the verdicts of two results directories. Both are judged as `report` judges them now: by the present
    rules of the studies.

    ``opened`` are the stores of each directory as `sweeps.store.store.read_stores` has read them. Studies are paired by
    name; if each directory holds a single study, the two are paired whatever their names. Raises InvalidInput if either
    holds no finished run, or they have no study in common.
    """
    a, b = Path(a), Path(b)
    sides = list(zip((a, b), opened, strict=True))
    ours, theirs = ({one.name: one for one in load_all(*side).studies} for side in sides)
    names = {name: name for name in ours if name in theirs}
    if len(ours) == len(theirs) == 1:
        names = dict(zip(ours, theirs, strict=True))
    if not names:
        raise InvalidInput(
            f"{a} and {b} have no study in common: the first holds {listed(list(ours))}, the second "
            f"{listed(list(theirs))}"
        )
    entries = [
        {(row["study"], row["claim"], row["task"]): row for row in report.verdicts(*side)}
        for side in sides
    ]
    pairs, rows = [], []
    for name, other in names.items():
        pair = _pair(ours[name], theirs[other])
        pairs.append(pair)
        keys = [key[1:] for key in entries[0] if key[0] == name]
        keys += [key[1:] for key in entries[1] if key[0] == other]
        for claim, task in dict.fromkeys(keys):
            two = (
                entries[0].get((name, claim, task)),
                entries[1].get((other, claim, task)),
            )
            rows.append(_row(pair, claim, task, two, (ours[name], theirs[other])))
    order = ordered([{"claim": row.claim, "study": row.study, "row": row} for row in rows])
    return Comparison(a, b, tuple(pairs), tuple(one["row"] for one in order))


def _pair(a: Results, b: Results) -> StudyPair:
    design = metadata.differences(a.study, b.study).items()
    arms = dict.fromkeys([*a.arms, *b.arms])
    return StudyPair(
        a.name if a.name == b.name else f"{a.name} → {b.name}",
        tuple((name, *sides) for name, sides in design),
        _differing(_code(a.study), _code(b.study)),
        _differing(_runs(a, arms), _runs(b, arms)),
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    names = dict.fromkeys([*a, *b])
    return tuple((name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name))


def _code(study: Mapping[str, Any]) -> dict[str, str]:
    """The source of all sessions, and the libraries' versions of the last one, by name."""
    sessions = [one for one in study.get("sessions", ()) if "source" in one]
    sessions = sessions or [{"source": "unknown"}]
    code = ", ".join(sorted({one["source"] for one in sessions}))
    return {"code": code} | dict(sorted(sessions[-1].get("versions", {}).items()))


def _runs(results: Results, arms: Iterable[str]) -> dict[str, int]:
    """Numbers of stored, missing and diverged runs by arm."""
    runs, numbers = results.runs(), {}
    for arm in arms:
        ends = counts(runs[runs["arm"] == arm])
        numbers[f"{arm}: runs"] = ends["runs"]
        numbers[f"{arm}: lacking"] = results.missing.get(arm, 0)
        numbers[f"{arm}: diverged"] = ends["diverged"]
    return numbers


def _row(
    pair: StudyPair,
    claim: str,
    task: str,
    entries: tuple[Entry | None, Entry | None],
    results: tuple[Results, Results],
) -> Row:
    a, b = entries
    if a is None or b is None:
        side = "A" if b is None else "B"
        return Row(pair.study, claim, task, a, b, False, None, (f"only {side} judges it",))
    apart = _apart(a, b)
    why = [*_rule(claim, results), *_estimates(a, b, apart)]
    moved = a["verdict"] != b["verdict"]
    if moved:
        parts = {"design": pair.design, "code": pair.code, "runs": _of_claim(pair, claim, results)}
        differ = [
            f"{name} ({plural(len(parted), 'difference')})"
            for name, parted in parts.items()
            if parted
        ]
        why += [f"what differs: {listed(differ)}"] if differ else []
    why += [
        f"{side} is undecided because {entry['reason']}"
        for side, entry in (("A", a), ("B", b))
        if moved and entry["verdict"] == "undecided" and entry["reason"]
    ]
    return Row(pair.study, claim, task, a, b, moved, apart, tuple(why))


def _of_claim(
    pair: StudyPair, claim: str, results: tuple[Results, Results]
) -> tuple[Difference, ...]:
    """Those differences in runs that concern the arms of a claim."""
    claims = [one for side in results for one in (*side.claims, *(side.present_claims or ()))]
    arms = {arm for one in claims if one.id == claim for arm in one.arms_used()}
    return tuple(one for one in pair.runs if one[0].rpartition(": ")[0] in arms)


def _rule(claim: str, results: tuple[Results, Results]) -> Iterable[str]:
    """Which side's runs were started without this claim, or that the two sides were started under different rules."""
    a, b = ({stored.id: stored for stored in side.claims}.get(claim) for side in results)
    yield from (
        f"{side} was begun without this claim" for side, own in (("A", a), ("B", b)) if own is None
    )
    if a and b and not a.decides_like(b):
        yield "the two were begun with different rules"


def _apart(a: Entry, b: Entry) -> bool | None:
    """Whether two estimates of one effect lie outside of each other's intervals."""
    if a["effect"] != b["effect"] or a["interval"] is None or b["interval"] is None:
        return None
    return a["interval"][1] < b["interval"][0] or b["interval"][1] < a["interval"][0]


def _estimates(a: Entry, b: Entry, apart: bool | None) -> Iterable[str]:
    if a["effect"] != b["effect"]:
        yield f"another test decides: “{a['effect']}”, then “{b['effect']}”"
    elif a["estimate"] is None or b["estimate"] is None:
        sides = [name for name, one in (("A", a), ("B", b)) if one["estimate"] is None]
        yield (
            f"{' and '.join(sides)} has no estimate"
            if len(sides) == 1
            else "neither has an estimate"
        )
    elif a["estimate"] != b["estimate"]:
        change = amount(b["estimate"] - a["estimate"], a["unit"])
        how = "more than the intervals allow for" if apart else "within the intervals"
        how = "without intervals to compare" if apart is None else how
        yield f"the estimate moved by {change}, {how}"
        if a["verdict"] != b["verdict"] and None not in (a["probability"], b["probability"]):
            yield f"the probability from {a['probability']:.3f} to {b['probability']:.3f}"


def _said(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    return f"{SYMBOLS[entry['verdict']]} {entry['verdict']}, {effect(entry)}"


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_value(item)}" for name, item in value.items()) or "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)
