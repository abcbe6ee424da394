"""A study, written before it runs: base config, arms, axes, claims with their rules, presets.

A study is a Python file with a module attribute ``study``, in `sweeps.studies` or anywhere on disk.
"""

import importlib
import itertools
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeps import user_files
from sweeps.claims import Claim
from sweeps.grid import Axis, Grid, product
from sweeps.selection import Arm, Point, Preset, SeedsLike, Selection, layered, seeds_from
from testbed import config
from testbed.errors import InvalidInput

__all__ = ["Arm", "Point", "Preset", "Selection", "Study"]
__all__ += ["list_studies", "load_study", "split_values", "study_names"]

#: The package of the studies that come with the testbed. Studies import this module, never the other way round.
_STUDIES = "sweeps.studies"


@dataclass(frozen=True)
class Study:
    """A question, the runs that answer it, and the rules that judge the answer.

    ``strata`` are swept paths whose values are separate worlds (model sizes, labelers): each value gets separate
    curves. ``background`` is what a reader should know about the design and about checks of it, in paragraphs separated
    by empty lines.

    A study is checked when it is made: raises `InvalidInput` for arms, presets, axes or claims that do not fit
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
        if not self.name or self.name.startswith(".") or {"/", "\\"} & set(self.name):
            raise InvalidInput(
                f"study name is '{self.name}': it names a directory of results, so that it must not be empty, begin "
                "with a dot or hold a slash"
            )
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise InvalidInput(
                f"study {self.name}: arms must be one or more with different names, got {names}"
            )
        if self.default not in self.presets:
            raise config.unknown("default preset", self.default, self.presets)
        for claim in self.claims:
            beside = (arm for estimand in claim.beside for arm in estimand.arms_used())
            for arm in (*claim.arms_used(), *beside):
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
                if any(inner.startswith(f"{path}.") for arm in self.arms for inner in arm.settings):
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
        """Whether the study judges a claim of the paper. The paper's claims are numbered C1, C2, ..., questions beyond
        the paper B1, B2, ..."""
        return any(claim.id.startswith("C") for claim in self.claims)

    def layered(self, arm: Arm, preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The changes of an arm, a preset and further settings to the base config, merged."""
        changed = arm.settings
        chosen = self.presets[preset].settings
        sizes = {path: value for path, value in chosen.items() if path not in changed}
        return layered(changed, sizes, settings)

    def select(
        self,
        preset: str | None = None,
        seeds: SeedsLike | None = None,
        settings: Mapping[str, Any] | None = None,
        axes: Mapping[str, Sequence[Any]] | None = None,
    ) -> Selection:
        """Apply a preset, then single settings, then further axes.

        A setting of a swept path fixes this axis; an axis replaces the study's axis of the same path, or adds one. Arms
        keep their ``fixed`` values. Raises `InvalidInput` for unknown names, values out of range, no seeds.
        """
        name = self.default if preset is None else preset
        if name not in self.presets:
            raise config.unknown(f"preset of study {self.name}", name, self.presets)
        chosen = self.presets[name]
        replications = seeds_from(chosen.seeds if seeds is None else seeds)
        settings, axes = dict(settings or {}), dict(axes or {})
        twice = settings.keys() & axes.keys()
        if twice:
            raise InvalidInput(f"{twice.pop()} is both set and swept: give one of --set and --axis")
        grid = self.axes if chosen.axes is None else chosen.axes
        pinned = {path: [settings.pop(path)] for path in list(settings) if path in grid.paths}
        changed = [*settings, *pinned, *axes]
        for path in changed:
            self._refuse_reserved(path)
        added = [Axis(path, values) for path, values in (pinned | axes).items()]

        def applied(grid: Grid) -> Grid:
            return product(grid.without(*changed), *added) if changed else grid

        further = {arm: applied(more) for arm, more in chosen.further.items()}
        given = tuple(pinned | axes)
        return Selection(self, name, replications, settings, applied(grid), further, given)

    def select_texts(
        self,
        preset: str | None,
        seeds: SeedsLike | None,
        settings: Sequence[str],
        axes: Sequence[str],
    ) -> Selection:
        """`select` with the command line's texts: ``path=value`` and ``path=a,b,c``."""
        name = self.select(preset, seeds).preset
        values: dict[str, Any] = {}
        for text in settings:
            path, value = split(text, "--set", "path=value")
            values[path] = self._parse(name, values, path, value)
        swept: dict[str, list[Any]] = {}
        for text in axes:
            path, value = split(text, "--axis", "path=a,b,c")
            if path in swept:
                raise InvalidInput(f"--axis {path} is given twice: list all its values in one")
            swept[path] = [self._parse(name, values, path, item) for item in split_values(value)]
        return self.select(preset, seeds, values, swept)

    def _parse(self, preset: str, settings: Mapping[str, Any], path: str, text: str) -> Any:
        """Parse a value for ``path``, with the type of the first arm that has this field."""
        problems = []
        for arm in self.arms:
            changes = self.layered(arm, preset, settings)
            # The values that a field admits depend only on the modules that contain it.
            above = {name: x for name, x in changes.items() if path.startswith(f"{name}.")}
            try:
                return config.parse(config.replace_all(self.base, above), path, text)
            except InvalidInput as problem:
                problems.append(problem)
        raise problems[0]

    def derived(self, name: str, title: str, **settings: Any) -> "Study":
        """The same question with other settings: the fields in ``settings`` (``__`` for a dot) are set in the base
        config, and neither axes nor presets change them. Raises `InvalidInput` as `select` does."""
        paths = {path.replace("__", "."): value for path, value in settings.items()}
        for path in paths:
            self._refuse_reserved(path)

        presets = {
            size: replace(
                chosen,
                settings={path: x for path, x in chosen.settings.items() if path not in paths},
                axes=chosen.axes and chosen.axes.without(*paths),
                further={arm: grid.without(*paths) for arm, grid in chosen.further.items()},
            )
            for size, chosen in self.presets.items()
        }
        base, axes = config.replace_all(self.base, paths), self.axes.without(*paths)
        return replace(self, name=name, title=title, base=base, axes=axes, presets=presets)

    def points(
        self,
        preset: str | None = None,
        seeds: SeedsLike | None = None,
        settings: Mapping[str, Any] | None = None,
        axes: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[Point]:
        """The runs of a preset; see `select` for the arguments."""
        return self.select(preset, seeds, settings, axes).points()

    def _refuse_reserved(self, path: str) -> None:
        if path == "seed":
            raise InvalidInput(
                "seed cannot be set or swept: --seeds N runs the seeds 0 to N-1, A:B those from A to B-1"
            )
        arms = [
            arm.name
            for arm in self.arms
            if any(f"{inner}.".startswith(f"{path}.") for inner in arm.settings)
        ]
        if arms:
            raise InvalidInput(
                f"{path} cannot be set or swept: it is what tells the arms {', '.join(arms)} apart"
            )


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


def split(text: str, option: str, form: str) -> tuple[str, str]:
    """The two sides of ``path=value``, the form of an option of the command line. Raises `InvalidInput`."""
    path, equals, value = text.partition("=")
    if not (equals and path.strip() and value.strip()):
        raise InvalidInput(f"{option} takes {form}, got '{text}'")
    return path.strip(), value.strip()


def study_names() -> list[str]:
    """Names of the studies that come with the testbed. The studies are not imported."""
    folder = Path(__file__).parent / "studies"
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def list_studies() -> list[Study]:
    """All studies that come with the testbed."""
    return [load_study(name) for name in study_names()]


def load_study(name_or_path: str) -> Study:
    """A study by name, or from a user's Python file, which may import other files of its folder.

    Raises `InvalidInput` for an unknown name, a missing file, a file that fails to load, or a file without a ``study``.
    """
    if name_or_path.endswith(".py") or "/" in name_or_path:
        module = user_files.load(Path(name_or_path))
    elif name_or_path in study_names():
        module = importlib.import_module(f"{_STUDIES}.{name_or_path}")
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
