"""Files of a results directory as they may be found: cut, with wrong bits, or of another structure; and all that reads
them, short of fits and figures."""

import copy
import json
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from store_rows import columns

from analysis import export, report
from analysis.load import load
from analysis.site import design
from sweeps.api import run_status
from sweeps.claims import Claim, Test
from sweeps.console.tables import verdict_table
from sweeps.estimands import PairedDifference
from sweeps.rules import More
from sweeps.store import json_files, parquet
from sweeps.store.store import Store, read_stores
from sweeps.tensorboard import refresh

CORPUS = Path(__file__).parents[1] / "corpus"
#: Bytes that reading may add to what the process has held at most.
MOST_MEMORY = 2**30
CLAIM = Claim("B1", "further", (Test(PairedDifference("kl", "far", "near"), More(0.0)),), "nearer")
CONFIG = {"kind": "Experiment", "loss": {"kind": "Ipo", "beta": 0.1}}
HEADER: dict[str, Any] = {
    "study": "small",
    "title": "A small study",
    "question": "Does it work?",
    "background": "Nothing *special*.",
    "strata": [],
    "preset": "laptop",
    "note": "",
    "seeds": 2,
    "base": CONFIG,
    "settings": {"steps": 20},
    "arms": {"near": {"loss.beta": 1.0}, "far": {"source": "Online"}},
    "fixed": {"near": {"optimiser.learning_rate": 0.1}},
    "axes": {"optimiser.learning_rate": [0.1, 0.01], "loss.beta": [0.1]},
    "further": {"far": [{"optimiser.learning_rate": 0.5, "loss.beta": 0.1}]},
    "planned": {"near": ["near0", "near1"], "far": ["far0", "far1"]},
    "claims": [CLAIM.describe()],
    "source": "0" * 16,
    "versions": {"python": "3.11", "jax": "0.10"},
    "machine": {"cores": 2, "memory_gb": 25.3},
    "created": "2025-01-01T00:00:00+00:00",
    "command": "testbed run small --preset laptop",
    "asked": {
        "study": "small",
        "preset": "laptop",
        "seeds": 2,
        "settings": {"steps": "20"},
        "axes": {"loss.beta": ["0.1"]},
    },
    "file": None,
}
VERDICT: dict[str, Any] = {
    "study": "small",
    "claim": "B1",
    "task": "Neural",
    "text": "further",
    "verdict": "undecided",
    "effect": "kl, far − near",
    "unit": "nats",
    "estimate": 0.5,
    "interval": [0.1, 0.9],
    "probability": 0.8,
    "reason": "only one seed",
    "rule": {"kind": "More", "rope": 0.0, "confidence": 0.95, "words": "more"},
    "details": {},
    "against": "nearer",
    "note": "",
    "newer": False,
    "close": False,
    "stored_verdict": None,
}
VERDICT["tests"] = [{name: value for name, value in VERDICT.items() if name in report.TEST}]
VERDICT["beside"] = [{name: value for name, value in VERDICT.items() if name in report.EFFECT}]
PROGRESS: dict[str, Any] = {
    "state": "failed",
    "studies": ["small"],
    "begun": 1796032265.1,
    "written": 1796032361.2,
    "stage": "chunk 1 of 2",
    "problem": "out of memory",
    "failed": ["near0"],
    "runs": 4,
    "runs_done": 1,
    "run_steps": 400,
    "run_steps_done": 100,
    "rate": 13.5,
    "left": 22.2,
}


def table() -> pa.Table:
    """Two runs of each arm, one of which is lacking."""
    rows = [
        {"run": f"{arm}{seed}", "study": "small", "arm": arm, "task": "Neural", "seed": seed}
        | {"step": 10 * k, "evaluation": k, "diverged_step": -1, "prompts": 8, "kl": 0.5 * k}
        | {"win_rate": 0.5 + 0.1 * k, "optimiser.learning_rate": 0.1, "config": json.dumps(CONFIG)}
        | {"answers": json.dumps([["Is it? ", "yes"]]), "ground.parameters": 7.0}
        for arm in ("near", "far")
        for seed in range(2 if arm == "near" else 1)
        for k in range(3)
    ]
    return parquet.typed(columns(rows))


def results(directory: Path) -> Path:
    """A results directory in which nothing is damaged."""
    with Store.create_or_open(directory, HEADER) as store:
        store.append({name: table()[name].combine_chunks() for name in table().column_names})
    (directory / "progress.json").write_text(json.dumps(PROGRESS))
    (directory / "report").mkdir()
    (directory / "report" / "verdicts.json").write_text(json.dumps([VERDICT]))
    return directory


def read_all(directory: Path) -> None:
    """What `status`, `export`, `tensorboard`, `report` and `compare` read of a results directory, short of fits."""
    found = run_status.status(directory)
    assert found.describe()["directory"] == str(directory)
    assert found.table().columns
    assert found.sentences()
    opened = read_stores(directory)
    one = load(directory, opened[0])
    assert isinstance(one.claims, tuple)
    parts = (design.design, design.background, design.consumed, design.worlds, design.answers)
    assert all(isinstance(make(one), str) for make in parts)
    assert design.runs(one, []) + design.facts_of(one.study) + design.repeat(one, Path("x"))
    assert len(one.on_axes) <= len(one.table)
    assert all(parquet.config_in(text) is not None for text in one.table["config"].unique())
    refresh.mirror(directory, opened)


def read_verdicts(directory: Path) -> None:
    """What `tensorboard` and `report` read of `verdicts.json`."""
    verdict_table(refresh.read_verdicts(directory))
    rows = json_files.read(directory / "report" / "verdicts.json", [report.ENTRY], "")
    for write in export.FORMS.values():
        write(rows)


ODD: list[Any] = [
    None, True, 0, -1, 2**70, 1e308, 0.5, "", "x", "é\u0000", "\ud83d", "'", [], {}, [[]], [None],
    {"a": 1}, {"kind": 3}, [{"kind": "x"}], float("nan"), float("inf"), "../../x", "a" * 5000,
]  # fmt: skip


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with every key or place in it."""
    entries = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in entries:
        yield data, key
        yield from places(value)


def odd_json(data: Any, seed: int) -> bytes:
    """A JSON value of which one or two entries are something else, gone, or very deep."""
    chosen = random.Random(seed)
    for _ in range(chosen.randint(1, 2)):
        holder, key = chosen.choice(list(places(data)))
        what = chosen.randrange(len(ODD) + 2)
        if what < len(ODD):
            holder[key] = copy.deepcopy(ODD[what])
        elif what == len(ODD):
            del holder[key]
        else:
            holder[key] = "DEEP"
        if not data:
            break
    deep = "[" * 50_000 + "]" * 50_000
    return json.dumps(data).replace('"DEEP"', deep).encode("utf-8", "surrogatepass")


@st.composite
def bytes_like(draw: Callable[..., Any], whole: bytes) -> bytes:
    """Contents of a file, cut or with wrong bits, or with a part of it elsewhere."""
    how = draw(st.sampled_from(("cut", "flip", "flip", "end", "move")))
    data = bytearray(whole)
    place = st.integers(0, len(data) - 1)
    if how == "cut":
        return bytes(data[: draw(place)])
    if how == "move":
        start, end = sorted((draw(place), draw(place)))
        at = draw(place)
        return bytes(data[:at] + data[start:end] + data[at:])
    for _ in range(draw(st.integers(1, 6))):
        # A Parquet file says at its end what is in it.
        at = draw(st.integers(max(0, len(data) - 2000), len(data) - 1) if how == "end" else place)
        data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def memory() -> int:
    """Most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
