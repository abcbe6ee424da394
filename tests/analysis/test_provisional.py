"""The first page of a report while runs go on: from the worlds that are complete, as if no others had been planned."""

import dataclasses

import numpy as np
from simulated_multiverse import study_of_lines

from analysis.figures.figure_list import main_figure
from analysis.load import Results
from analysis.site import provisional, study_data
from analysis.worlds.power import POINT

#: Six planned worlds; the runs of world 4 are half done, those of world 5 have not begun.
LACKING = ("second-4-0", "second-4-1")


def unfinished() -> Results:
    whole = study_of_lines((0.5, 0.3), worlds=6, scatter=0.05)
    planned = {
        arm: sorted(rows["run"].unique().tolist()) for arm, rows in whole.table.groupby("arm")
    }
    table = whole.table[(whole.table["seed"] < 5) & ~whole.table["run"].isin(LACKING)]
    header = {**whole.study, "planned": planned, "seeds": 6}
    return dataclasses.replace(whole, study=header, table=table.reset_index(drop=True))


def test_only_worlds_of_which_all_runs_are_stored_count() -> None:
    kept = provisional.complete(unfinished())
    assert sorted(kept.table["seed"].unique()) == [0, 1, 2, 3]
    assert not kept.missing
    assert provisional.complete(kept).table.equals(kept.table)


def test_the_page_has_widths_and_no_verdict(tmp_path) -> None:
    """The effect is the mean difference of slopes times the mean of d over the window, (sqrt(0.5) + sqrt(3)) / 2."""
    kept = provisional.complete(unfinished())
    data = study_data.gather(kept, tmp_path)
    entry = data.entries[0]
    text = provisional.page([(data, main_figure(data))], 22, 24, 90.0)
    assert "22 of 24 runs" in text
    assert "lines: 4 of 6 worlds" in text
    slopes = kept.table.assign(
        xy=np.sqrt(kept.table["kl"]) * kept.table["golden_reward"], xx=kept.table["kl"]
    )
    sums = slopes.groupby("arm")[["xy", "xx"]].sum()
    first, second = (sums["xy"] / sums["xx"]).loc[["first", "second"]]
    middle = (0.5**0.5 + 3**0.5) / 2
    assert abs(entry["estimate"] - (first - second) * middle) < 0.02
    low, high = entry["interval"]
    assert f"{(high - low) / 2:.2f}" in text
    body = text.partition("</style>")[2]
    assert not any(word in body for word in ("reproduced", "contradicted", "undecided"))
    asked = dataclasses.replace(
        kept, study={**kept.study, "precision": {"points": {"X1": 3.0}, "looks": []}}
    )
    data = study_data.gather(asked, tmp_path)
    assert f"<td class=n>{3 * POINT:.2f}</td>" in provisional.page([(data, None)], 22, 24, None)
