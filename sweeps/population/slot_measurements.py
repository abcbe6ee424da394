"""Measurements of the runs of a chunk, collected when slots are measured, and converted to rows at the end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sweeps.population.plan import Chunk
from sweeps.store.columns import ANSWERS
from sweeps.store.parquet import Rows, packed
from testbed.metric_table import BY_PROMPT, FACTS


class Measurements:
    """The measurements of the runs of a chunk so far."""

    def __init__(self, chunk: Chunk, columns: dict[str, np.dtype]) -> None:
        self._chunk, self._columns = chunk, columns
        self._marks = [np.array(point.experiment.marks) for point in chunk.points]
        self._points = np.array([len(marks) - 1 for marks in self._marks])
        size = (len(chunk.points), int(self._points.max()) + 1, len(columns))
        self._values = np.full(size, np.nan)
        self._diverged = np.full(len(chunk.points), -1)
        # By run: (evaluation, outcome, prompt); only the runs that keep their outcomes by prompt.
        self._by_prompt = {
            run: np.full(
                (self._points[run] + 1, len(BY_PROMPT), point.experiment.evaluation.prompts),
                np.nan,
                np.float16,
            )
            for run, point in enumerate(chunk.points)
            if point.experiment.evaluation.by_prompt
        }
        # Indices of the columns that hold tokens, in the order of prompts and time.
        tokens = [name for name in columns if name.startswith("answer_")]
        tokens.sort(key=lambda name: [int(part) for part in name.split("_")[1:]])
        self._tokens = {name: list(columns).index(name) for name in tokens}

    @property
    def diverged(self) -> int:
        """The number of diverged runs."""
        return int(np.sum(self._diverged >= 0))

    def put(self, runs: np.ndarray, index: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, int]:
        """Store the measurements of slots. Return which slots are done, and how many steps are saved by divergence. A
        run that diverged is frozen: one measurement holds for its later evaluations too."""
        live = runs >= 0
        run, at = runs[live], index[live]
        kinds, words = self._columns.values(), found[live]
        columns = [
            np.ascontiguousarray(bits).view(kind)
            for bits, kind in zip(words[:, : len(kinds)].T, kinds, strict=True)
        ]
        self._values[run, at] = np.array(columns, dtype=np.float64).T
        self._put_by_prompt(run, at, words[:, len(kinds) :])
        self._diverged[run] = self._values[run, at, list(self._columns).index("diverged_step")]
        frozen = self._diverged[run] >= 0
        for lost, since in zip(run[frozen], at[frozen], strict=True):
            self._values[lost, since:] = self._values[lost, since]
            if lost in self._by_prompt:
                self._by_prompt[lost][since:] = self._by_prompt[lost][since]
        done = np.zeros(runs.shape, bool)
        done[live] = frozen | (at == self._points[run])
        lost = zip(run[frozen], at[frozen], strict=True)
        return done, sum(int(self._marks[one][-1] - self._marks[one][since]) for one, since in lost)

    def _put_by_prompt(self, runs: np.ndarray, index: np.ndarray, words: np.ndarray) -> None:
        """Round outcomes by prompt to 16 bits: a relative error of at most 2^-11."""
        outcomes = np.ascontiguousarray(words).view(np.float32)
        outcomes = outcomes.reshape(len(runs), len(BY_PROMPT), -1)
        with np.errstate(over="ignore"):
            outcomes = outcomes.astype(np.float16)
        for run, at, own in zip(runs.tolist(), index.tolist(), outcomes, strict=True):
            if run in self._by_prompt:
                self._by_prompt[run][at] = own

    def so_far(self, run: int, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The measurements of a run before an evaluation, one row per evaluation, and its outcomes by prompt."""
        outcomes = self._by_prompt.get(run)
        return self._values[run, :index], None if outcomes is None else outcomes[:index]

    def resume(self, run: int, values: np.ndarray, by_prompt: np.ndarray | None) -> None:
        """Store the measurements that a run's checkpoint holds."""
        self._values[run, : len(values)] = values
        if by_prompt is not None:
            self._by_prompt[run][: len(by_prompt)] = by_prompt

    def rows(self, known: Mapping[int, Any], asked: Mapping[int, Sequence[str]]) -> Rows:
        """The rows of all runs: one entry per run and evaluation in every column, run by run. ``known`` are the facts
        of every world, ``asked`` its first prompts."""
        chunk, points = self._chunk, self._chunk.points
        counts = self._points + 1
        evaluation = np.concatenate([np.arange(count) for count in counts])
        run = np.repeat(np.arange(len(points)), counts)
        facts = [known[owner] for owner in chunk.owners]
        measured = self._values[run, evaluation].T
        return {
            "run": np.array([point.run for point in points], dtype=object)[run],
            "evaluation": evaluation,
            "step": np.concatenate(self._marks),
            "diverged_step": self._diverged[run],
            "prompts": np.array([p.experiment.evaluation.prompts for p in points])[run],
            "stack": np.full(len(run), chunk.stack),
            "devices": np.full(len(run), chunk.devices),
            ANSWERS: self._answers(run, evaluation, asked),
            **dict(self._vectors(run, evaluation)),
            **{
                name: values
                for name, values in zip(self._columns, measured, strict=True)
                if name != "diverged_step" and name not in self._tokens
            },
            **{
                f"{FACTS}{name}": np.array([float(world.get(name, np.nan)) for world in facts])[run]
                for name in dict.fromkeys(name for world in facts for name in world)
            },
        }

    def _vectors(
        self, run: np.ndarray, evaluation: np.ndarray
    ) -> Iterator[tuple[str, list[bytes | None]]]:
        """The columns of outcomes by prompt, if a run keeps them: the bytes of 16-bit floats."""
        rows = list(zip(run.tolist(), evaluation.tolist(), strict=True))
        for number, column in enumerate(BY_PROMPT if self._by_prompt else ()):
            yield (
                column.name,
                [
                    packed(self._by_prompt[one][at, number]) if one in self._by_prompt else None
                    for one, at in rows
                ],
            )

    def _answers(
        self, run: np.ndarray, evaluation: np.ndarray, asked: Mapping[int, Sequence[str]]
    ) -> list[str | None]:
        """The answers at the first and the last evaluation of each run; None at the evaluations between."""
        ends = (evaluation == 0) | (evaluation == self._points[run])
        said: list[str | None] = [None] * len(run)
        for row in np.flatnonzero(ends).tolist():
            prompts = asked[self._chunk.owners[run[row]]]
            tokens = self._values[run[row], evaluation[row], list(self._tokens.values())]
            task = self._chunk.points[run[row]].experiment.task
            texts = map(task.text, tokens.astype(int).reshape(len(prompts), -1).tolist())
            said[row] = json.dumps(list(zip(prompts, texts, strict=True)), ensure_ascii=False)
        return said
