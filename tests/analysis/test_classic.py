"""Paper-style estimates against values read off by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.curves import classic

ARMS = ("online", "offline")


def rows():
    """KL of 1, e, e^2, ... so that four bins between 1 and e^4 have ends at the powers of e."""
    online = [(0.1, 0.20), (1.1, 0.50), (1.9, 0.40), (2.5, 0.45), (4.0, 0.60)]
    offline = [(0.0, 0.10), (2.2, 0.30)]
    records = [
        {
            "arm": arm,
            "seed": index % 2,
            "run": f"{arm}-{index}",
            "step": index,
            "kl": np.exp(k),
            "win_rate": w,
        }
        for arm, points in (("offline", offline), ("online", online))
        for index, (k, w) in enumerate(points)
    ]
    return pd.DataFrame(records)


def test_envelope_by_hand():
    found = classic.envelope(rows(), ARMS, bins=4)
    online = found[found["arm"] == "online"]
    assert np.log(online["low"]).tolist() == pytest.approx([0, 1, 2, 3])
    assert np.log(online["kl"]).tolist() == pytest.approx([0.5, 1.5, 2.5, 3.5])
    assert online["best"].tolist() == [0.20, 0.50, 0.45, 0.60]
    assert online["win_rate"].tolist() == [0.20, 0.50, 0.50, 0.60]
    assert online["checkpoints"].tolist() == [1, 2, 1, 1]
    offline = found[found["arm"] == "offline"]
    # The same bins: the second of them is empty here.
    assert np.log(offline["low"]).tolist() == pytest.approx([0, 2])
    assert found["arm"].drop_duplicates().tolist() == list(ARMS)


def test_envelope_of_nothing_is_empty():
    assert classic.envelope(rows().assign(kl=0.0), ARMS).empty
    assert len(classic.envelope(rows().iloc[:1], ARMS)) == 1


def test_summary_by_hand():
    found = classic.summary(rows(), (*ARMS, "missing")).set_index("arm")
    assert found.index.tolist() == list(ARMS)
    online = found.loc["online"]
    assert online["best"] == 0.60
    assert online["best_kl"] == pytest.approx(np.exp(4))
    # Sorted 0.20, 0.40, 0.45, 0.50, 0.60: 0.9 lies six tenths of the way between the last two.
    assert online["quantile"] == pytest.approx(0.56)
