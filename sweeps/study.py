"""A study, written before it runs: base config, arms, axes, claims with their rules, presets.

A study is a Python file with a module attribute ``study``, in `sweeps.studies` or anywhere on disk.
"""

import functools
import importlib
import importlib.util
import itertools
import pkgutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import sweeps.studies
from sweeps.claims import Claim
from sweeps.grid import Axis, Grid, product
from testbed import config
from testbed.errors import InvalidInput


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a name and what it changes in the base config.

    ``fixed`` holds swept paths that this arm keeps at one value, whatever the axes or the command
    line say. A swept path that an arm's config does not have (a loss without a beta) is left out
    for that arm.
    """

    name: str
    settings: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A size of the study: changes to the base config, axes instead of the study's, seeds.

    ``arms`` are the arms that run, all if there are none; claims about others are left out.
    ``further`` holds settings that single arms run besides the axes, on the same paths. An axis or
    a value from the command line takes the place of theirs too.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Grid | None = None
    seeds: int = 3
    note: str = ""
    arms: tuple[str, ...] = ()
    further: Mapping[str, Grid] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One run of a study. ``run`` is the experiment's fingerprint, seed included.

    ``settings`` maps each swept path to its value as stored in the results: a scalar, or the text
    of a module.
    """

    run: str
    arm: str
    seed: int
    settings: Mapping[str, Any]
    experiment: Any


@dataclass(frozen=True)
class Selection:
    """What one command asks for: the study with a preset and the command line applied.

    ``axes`` is the swept grid and ``further`` what single arms run besides; ``given`` are the swept
    paths that the command line sets or sweeps, ``settings`` what it changes apart from them.
    """

    study: "Study"
    preset: str
    seeds: int
    settings: Mapping[str, Any]
    axes: Grid
    further: Mapping[str, Grid]
    given: tuple[str, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that run."""
        names = self.study.presets[self.preset].arms
        return tuple(arm for arm in self.study.arms if not names or arm.name in names)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims about arms that run."""
        names = {arm.name for arm in self.arms}
        return tuple(claim for claim in self.study.claims if names.issuperset(claim.arms_used()))

    def points(self) -> list[Point]:
        """All runs: arm by arm, setting by setting, seed by seed; equal experiments once an arm."""
        return list(self._points)

    @functools.cached_property
    def _points(self) -> tuple[Point, ...]:
        found: dict[tuple[str, str], Point] = {}
        for arm in self.arms:
            for setting in itertools.chain(self.axes, self.further.get(arm.name, ())):
                configured = self.experiment(arm, setting)
                swept = [path for path in setting if _reached(configured, {}, path)]
                stored = {path: _spelt(config.get(configured, path)) for path in swept}
                for seed in range(self.seeds):
                    experiment = config.replace(configured, "seed", seed)
                    run = config.fingerprint(experiment)
                    point = Point(run, arm.name, seed, stored, experiment)
                    found.setdefault((arm.name, run), point)
        return tuple(found.values())

    def experiment(self, arm: Arm, setting: Mapping[str, Any]) -> Any:
        """The config of one arm at one setting.

        Arm, preset, then axes with what the arm keeps fixed, and command line; a preset may so
        change fields inside the arm's modules, but nothing that the arm says itself. Paths that
        only other arms have are left out. Only the result is checked, not each layer: a preset may
        change the number of evaluations and leave the steps they must divide to an axis.
        """
        study = self.study
        own = {path: arm.fixed.get(path, value) for path, value in setting.items()}
        merged = study.layered(arm, self.preset, {**own, **self.settings})
        kept = {
            path: value
            for path, value in merged.items()
            if _reached(study.base, merged, path)
            or not any(
                _reached(study.base, study.layered(other, self.preset, own), path)
                for other in study.arms
            )
        }
        return config.replace_all(study.base, kept)

    def describe(self) -> dict[str, Any]:
        """The study as JSON-able data: what `study.json` says of it."""
        study = self.study
        base = config.describe(study.base)
        base.pop("seed", None)
        changes = _layered(study.presets[self.preset].settings, self.settings)
        for path in sorted(changes, key=lambda path: path.count(".")):
            _put(base, path, changes[path])
        return {
            "study": study.name,
            "title": study.title,
            "question": study.question,
            "background": study.background,
            "strata": list(study.strata),
            "preset": self.preset,
            "note": study.presets[self.preset].note,
            "seeds": self.seeds,
            "base": base,
            "settings": {path: _spelt(value) for path, value in changes.items()},
            "arms": {
                arm.name: {path: _spelt(value) for path, value in arm.settings.items()}
                for arm in self.arms
            },
            "fixed": {
                arm.name: {path: _spelt(value) for path, value in arm.fixed.items()}
                for arm in self.arms
                if arm.fixed
            },
            "axes": {
                path: [_spelt(value) for value in self.axes.values(path)]
                for path in self.axes.paths
            },
            "further": {arm.name: own for arm in self.arms if (own := self._besides(arm))},
            "planned": self._planned(),
            "claims": [claim.describe() for claim in self.claims],
        }

    def _besides(self, arm: Arm) -> list[dict[str, Any]]:
        """What an arm runs besides the axes, as stored."""

        def stored(setting: Mapping[str, Any]) -> dict[str, Any]:
            return {path: _spelt(arm.fixed.get(path, value)) for path, value in setting.items()}

        swept = [stored(setting) for setting in self.axes]
        further = [stored(setting) for setting in self.further.get(arm.name, ())]
        return [own for own in further if own not in swept]

    def notes(self) -> list[str]:
        """What to tell somebody whose command gives other values to a path that an arm keeps fixed."""
        return [
            f"arm {arm.name} keeps {path} at {_spelt(arm.fixed[path])}, as its study says"
            for arm in self.arms
            for path in self.given
            if path in arm.fixed
            and [_spelt(value) for value in self.axes.values(path)] != [_spelt(arm.fixed[path])]
        ]

    def _planned(self) -> dict[str, list[str]]:
        """Ids of the runs by arm."""
        planned: dict[str, list[str]] = {arm.name: [] for arm in self.arms}
        for point in self._points:
            planned[point.arm].append(point.run)
        return planned


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it, and the rules that judge the answer.

    ``strata`` are swept paths whose values are worlds of their own (model sizes, labelers): curves
    are fitted to each apart. ``background`` is what a reader should know of the design and of what
    was checked, paragraphs apart by empty lines.

    Checked when made: raises `InvalidInput` for arms, presets, axes or claims that do not fit
    together, before anything runs.
    """

    name: str
    title: str
    question: str
    base: Any
    arms: tuple[Arm, ...]
    axes: Grid
    claims: tuple[Claim, ...]
    presets: Mapping[str, Preset]
    default: str = "laptop"
    strata: tuple[str, ...] = ()
    background: str = ""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise InvalidInput(
                f"study {self.name}: arms must be one or more with different names, got {names}"
            )
        if self.default not in self.presets:
            raise config.unknown("default preset", self.default, self.presets)
        for claim in self.claims:
            for arm in claim.arms_used():
                if arm not in names:
                    raise config.unknown(f"arm in claim {claim.id}", arm, names)
        grids = [self.axes, *(chosen.axes for chosen in self.presets.values() if chosen.axes)]
        swept = sorted({path for grid in grids for path in grid.paths})
        for arm in self.arms:
            for path in arm.fixed:
                if path not in swept:
                    raise config.unknown(f"path that arm {arm.name} keeps fixed", path, swept)
        for preset, chosen in self.presets.items():
            for path in chosen.settings:
                if any(own.startswith(f"{path}.") for arm in self.arms for own in arm.settings):
                    self._refuse_reserved(path)
            for arm in [*chosen.arms, *chosen.further]:
                if arm not in names:
                    raise config.unknown(f"arm in preset {preset}", arm, names)
            paths = (self.axes if chosen.axes is None else chosen.axes).paths
            for arm, grid in chosen.further.items():
                if set(grid.paths) != set(paths):
                    raise InvalidInput(
                        f"what arm {arm} runs besides in preset {preset} must give the axes' paths "
                        f"{', '.join(paths)}, got {', '.join(grid.paths)}"
                    )
            selection = self.select(preset)
            for arm in selection.arms:
                for grid in [selection.axes, selection.further.get(arm.name, ())]:
                    for setting in itertools.islice(grid, 1):
                        selection.experiment(arm, setting)

    @property
    def judges_paper(self) -> bool:
        """Whether it judges a claim of the paper: those are numbered C1, C2, ..., questions beyond it B1, B2, ..."""
        return any(claim.id.startswith("C") for claim in self.claims)

    def layered(self, arm: Arm, preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What an arm, a preset and further settings change in the base config, as one."""
        own = arm.settings
        chosen = self.presets[preset].settings
        sizes = {path: value for path, value in chosen.items() if path not in own}
        return _layered(own, sizes, settings)

    def select(
        self,
        preset: str | None = None,
        seeds: int | None = None,
        settings: Mapping[str, Any] | None = None,
        axes: Mapping[str, Sequence[Any]] | None = None,
    ) -> Selection:
        """Apply a preset, then single settings, then further axes.

        A setting of a swept path fixes that axis; an axis replaces the study's axis of that path
        or adds one. Arms keep what is ``fixed`` in them. Raises `InvalidInput` for unknown names,
        values out of range, seeds < 1.
        """
        name = self.default if preset is None else preset
        if name not in self.presets:
            raise config.unknown(f"preset of study {self.name}", name, self.presets)
        chosen = self.presets[name]
        count = chosen.seeds if seeds is None else seeds
        if count < 1:
            raise InvalidInput(f"seeds must be at least 1, got {count}")
        settings, axes = dict(settings or {}), dict(axes or {})
        both = settings.keys() & axes.keys()
        if both:
            raise InvalidInput(f"{both.pop()} is both set and swept: give one of --set and --axis")
        grid = self.axes if chosen.axes is None else chosen.axes
        pinned = {path: [settings.pop(path)] for path in list(settings) if path in grid.paths}
        changed = [*settings, *pinned, *axes]
        for path in changed:
            self._refuse_reserved(path)
        added = [Axis(path, values) for path, values in (pinned | axes).items()]

        def applied(grid: Grid) -> Grid:
            return product(functools.reduce(Grid.without, changed, grid), *added)

        further = {arm: applied(own) for arm, own in chosen.further.items()}
        given = tuple(pinned | axes)
        return Selection(self, name, count, settings, applied(grid), further, given)

    def select_texts(
        self,
        preset: str | None,
        seeds: int | None,
        settings: Sequence[str],
        axes: Sequence[str],
    ) -> Selection:
        """`select` from the command line's texts: ``path=value`` and ``path=a,b,c``."""
        name = self.select(preset, seeds).preset
        values: dict[str, Any] = {}
        for text in settings:
            path, value = _split(text, "--set", "path=value")
            values[path] = self._parse(name, values, path, value)
        swept: dict[str, list[Any]] = {}
        for text in axes:
            path, value = _split(text, "--axis", "path=a,b,c")
            if path in swept:
                raise InvalidInput(f"--axis {path} is given twice: list all its values in one")
            swept[path] = [self._parse(name, values, path, item) for item in split_values(value)]
        return self.select(preset, seeds, values, swept)

    def _parse(self, preset: str, settings: Mapping[str, Any], path: str, text: str) -> Any:
        """A value for ``path``, read by the first arm that has such a field."""
        problems = []
        for arm in self.arms:
            changes = self.layered(arm, preset, settings)
            # What a field admits depends on the modules above it, and on nothing else.
            above = {own: value for own, value in changes.items() if path.startswith(f"{own}.")}
            try:
                return config.parse(config.replace_all(self.base, above), path, text)
            except InvalidInput as problem:
                problems.append(problem)
        raise problems[0]

    def points(
        self,
        preset: str | None = None,
        seeds: int | None = None,
        settings: Mapping[str, Any] | None = None,
        axes: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[Point]:
        """The runs of a preset; see `select` for the arguments."""
        return self.select(preset, seeds, settings, axes).points()

    def _refuse_reserved(self, path: str) -> None:
        if path == "seed":
            raise InvalidInput("seed cannot be set or swept: --seeds N runs the seeds 0 to N-1")
        arms = [
            arm.name
            for arm in self.arms
            if any(f"{own}.".startswith(f"{path}.") for own in arm.settings)
        ]
        if arms:
            raise InvalidInput(
                f"{path} cannot be set or swept: it is what tells the arms {', '.join(arms)} apart"
            )


def _layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in layers as one: a later layer's whole module undoes earlier settings inside it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        kept = {
            path: value
            for path, value in merged.items()
            if not any(path.startswith(f"{whole}.") for whole in layer)
        }
        merged = {**kept, **layer}
    return merged


def _reached(base: Any, changes: Mapping[str, Any], path: str) -> bool:
    """Whether the config has a field at ``path`` after these changes, of which only whole modules matter."""
    above = [own for own in changes if path.startswith(f"{own}.")]
    root = max(above, key=len, default="")
    module = changes[root] if root else base
    try:
        config.get(module, path.removeprefix(f"{root}."))
    except InvalidInput:
        return False
    return True


def _spelt(value: Any) -> bool | int | float | str | None:
    """A value as the results table holds it: a scalar or nothing, or text for anything else."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else config.spell(value)


def _put(described: dict[str, Any], path: str, value: Any) -> None:
    """Change a described config; a path that it does not have is left out."""
    *parents, name = path.split(".")
    for parent in parents:
        described = described.get(parent, {}) if isinstance(described, dict) else {}
    if isinstance(described, dict) and name in described:
        is_module = isinstance(described[name], dict)
        described[name] = config.describe(value) if is_module else value


def split_values(text: str) -> list[str]:
    """Split at commas outside brackets: ``Ipo(a=1,b=2),Dpo`` has two values."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not (equals and path.strip() and value.strip()):
        raise InvalidInput(f"{option} takes {form}, got '{text}'")
    return path.strip(), value.strip()


def study_names() -> list[str]:
    """Names of the studies that come with the testbed, without importing them."""
    return sorted(found.name for found in pkgutil.iter_modules(sweeps.studies.__path__))


def list_studies() -> list[Study]:
    """All studies that come with the testbed."""
    return [load_study(name) for name in study_names()]


def load_study(name_or_path: str) -> Study:
    """A study by name, or from a Python file of the user's.

    Raises `InvalidInput` for an unknown name, a missing file, a file that fails to load or one
    without a ``study``.
    """
    if name_or_path.endswith(".py") or "/" in name_or_path:
        module = _import_file(Path(name_or_path))
    elif name_or_path in study_names():
        module = importlib.import_module(f"{sweeps.studies.__name__}.{name_or_path}")
    else:
        problem = config.unknown("study", name_or_path, study_names())
        raise InvalidInput(f"{problem}; or give the path of a .py file")
    study = getattr(module, "study", None)
    if not isinstance(study, Study):
        raise InvalidInput(
            f"study file {name_or_path} must define `study = Study(...)` at its top level, "
            f"got {type(study).__name__}"
        )
    return study


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidInput(f"study file {path} does not exist: give a name or the path of a file")
    name = f"user_study_{config.fingerprint(str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"study file {path} must be a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and typing find the file's own classes
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        del sys.modules[name]
        frames = traceback.extract_tb(problem.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""
        raise InvalidInput(
            f"study file {path} cannot be loaded{where}: {type(problem).__name__}: {problem}"
        ) from problem
    return module
