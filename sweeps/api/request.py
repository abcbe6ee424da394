"""A request: the studies that a command or a call asks for, their size, and the changes to their configs.

`study.json` keeps the request of every session as data, from which `selection_of` makes the same runs again.
"""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.selection import SeedsLike, Selection, spelt_seeds, stored_seeds
from sweeps.study import Study, load_study, split, split_values
from testbed import config, paths
from testbed.errors import InvalidInput

StudyLike = Study | Path | str
#: Changes of a config: values by path (texts are parsed as on the command line), or texts in the form that `--set` and
#: `--axis` take.
Changes = Mapping[str, Any] | Sequence[str]


@dataclass(frozen=True)
class Request:
    """Studies with a preset, seeds (`sweeps.seeds`), ``settings`` of single fields and swept ``axes``. ``task``
    replaces the studies' own task. See `Study.select`."""

    studies: Sequence[StudyLike]
    preset: str | None = None
    seeds: SeedsLike | None = None
    settings: Changes = ()
    axes: Changes = ()
    task: str | None = None

    def selections(self) -> list[Selection]:
        """The runs of the request, one selection per study. Raises `InvalidInput`."""
        if not self.studies:
            raise InvalidInput("no study is given: name at least one")
        studies = [_loaded(study) for study in self.studies]
        settings, axes = self.settings or {}, self.axes or {}
        if self.task is None and isinstance(settings, Mapping) and isinstance(axes, Mapping):
            values = itertools.chain(settings.values(), *axes.values())
            if not any(isinstance(value, str) for value in values):
                return [study.select(self.preset, self.seeds, settings, axes) for study in studies]
        preset = self.preset or (None if self.task is None else preset_of(self.task))
        texts = self._setting_texts(), _texts(self.axes, several=True)
        return [study.select_texts(preset, self.seeds, *texts) for study in studies]

    def origins(self, selections: Sequence[Selection], command: str) -> list[dict[str, Any]]:
        """How each study's results were asked for, in the form of `study.json`: the ``command`` for people, the file of
        a user's study, and the request as data."""
        settings = dict(split(text, "--set", "path=value") for text in self._setting_texts())
        swept = (split(text, "--axis", "path=a,b,c") for text in _texts(self.axes, several=True))
        axes = {path: split_values(values) for path, values in swept}
        kept = []
        for study, selection in zip(self.studies, selections, strict=True):
            is_file = isinstance(study, str | Path) and str(study).endswith(".py")
            file = str(Path(paths.expanded(str(study))).resolve()) if is_file else None
            asked = {"study": file or _name(study), "preset": selection.preset}
            asked |= {"seeds": stored_seeds(selection.seeds), "settings": settings, "axes": axes}
            kept.append({"command": command, "file": file, "asked": asked})
        return kept

    def command(
        self, selections: Sequence[Selection], directory: Path, further: Sequence[str] = ()
    ) -> str:
        """The command line with the same meaning as this request, with ``further`` options."""
        words = ["testbed", "run", *map(_name, self.studies), "--preset", selections[0].preset]
        words += [] if self.seeds is None else ["--seeds", spelt_seeds(selections[0].seeds)]
        words += [] if self.task is None else ["--task", self.task]
        words += [word for text in _texts(self.settings) for word in ("--set", text)]
        words += [word for text in _texts(self.axes, True) for word in ("--axis", text)]
        return shlex.join([*words, *further, "--out", paths.shown(directory)])

    def _setting_texts(self) -> list[str]:
        return _texts(self.settings) + ([] if self.task is None else [f"task={self.task}"])


def selection_of(header: Mapping[str, Any], session: Mapping[str, Any]) -> Selection:
    """The runs that a session of a stored study asked for. Raises `InvalidInput` if this version has no such runs."""
    asked = session["asked"] if "asked" in session else _deduced(header, session)
    changes = asked["settings"], asked["axes"]
    [selection] = Request((asked["study"],), asked["preset"], asked["seeds"], *changes).selections()
    return selection


def preset_of(task: str) -> str | None:
    """The preset for tasks of this name; None for the studies' default preset."""
    from sweeps import language, paper

    kind = type(config.parse(paper.EXPERIMENT, "task", task))
    return language.SIZES[0] if kind.checkpointed else None


def _deduced(header: Mapping[str, Any], session: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a session of an earlier version, which stored no request: the stored settings and axes that differ
    from the study's preset."""
    name = header.get("file") or header["study"]
    plain = load_study(name).select(session.get("preset", header["preset"]))
    sizes = plain.study.presets[plain.preset].settings
    settings = {
        path: text
        for path, value in header.get("settings", {}).items()
        if (text := _text(value)) != (_text(sizes[path]) if path in sizes else None)
    }
    known = {path: list(map(_text, plain.axes.values(path))) for path in plain.axes.paths}
    axes = {
        path: texts
        for path, values in session.get("axes", header["axes"]).items()
        if (texts := list(map(_text, values))) != known.get(path)
    }
    deduced = {"study": name, "preset": plain.preset, "settings": settings, "axes": axes}
    return deduced | {"seeds": session.get("seeds", header["seeds"])}


def _loaded(study: StudyLike) -> Study:
    return study if isinstance(study, Study) else load_study(paths.expanded(str(study)))


def _name(study: StudyLike) -> str:
    return study.name if isinstance(study, Study) else str(study)


def _texts(changes: Changes, several: bool = False) -> list[str]:
    """Changes as texts for the command line, with one value each, or with ``several``."""
    if not isinstance(changes, Mapping):
        return list(changes)
    return [
        f"{path}={','.join(map(_text, value)) if several else _text(value)}"
        for path, value in changes.items()
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else config.spell(value)
