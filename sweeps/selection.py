"""The runs that one command asks for: a study's arms at every setting and seed."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import equinox as eqx

from sweeps.claims import Claim
from sweeps.grid import Grid
from sweeps.seeds import SeedsLike as SeedsLike
from sweeps.seeds import seeds_from as seeds_from
from sweeps.seeds import spelt_seeds as spelt_seeds
from sweeps.seeds import stored_seeds as stored_seeds
from testbed import config
from testbed.config import user_code
from testbed.errors import InvalidInput

if TYPE_CHECKING:
    from sweeps.study import Study


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a name, and changes to the base config.

    ``fixed`` holds swept paths that this arm keeps at one value, whatever the axes or the command line say. An arm
    ignores a swept path that its config does not have (a loss without a beta).
    """

    name: str
    settings: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A size of the study: changes to the base config, axes instead of the study's, seeds.

    ``arms`` are the arms that run (all arms if the tuple is empty); claims about other arms are left out. ``further``
    holds settings that single arms run in addition to the axes, on the same paths; an axis or a value from the command
    line replaces these settings too. ``fixed`` may give, for this size, the value of a path that arms keep fixed.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    axes: Grid | None = None
    seeds: int = 3
    note: str = ""
    arms: tuple[str, ...] = ()
    further: Mapping[str, Grid] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a study. ``run`` is the fingerprint of the experiment, including the seed, and of the files beside the
    config that the run depends on: users' own code, prompts, checkpoints (`testbed.config.user_code`).

    ``settings`` maps each swept path to its value as stored in the results: a scalar, or the text of a module.
    """

    run: str
    arm: str
    seed: int
    settings: Mapping[str, Any]
    experiment: Any


@dataclass(frozen=True)
class Selection:
    """The runs that one command asks for: the study with a preset and the command line applied.

    ``axes`` is the swept grid, and ``further`` the settings that single arms run in addition. ``given`` are the swept
    paths that the command line sets or sweeps; ``settings`` are the command line's other changes.
    """

    study: "Study"
    preset: str
    seeds: range
    settings: Mapping[str, Any]
    axes: Grid
    further: Mapping[str, Grid]
    given: tuple[str, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that run, with the values that they keep fixed in this size."""
        preset = self.study.presets[self.preset]

        def sized(arm: Arm) -> Arm:
            fixed = {path: preset.fixed.get(path, value) for path, value in arm.fixed.items()}
            return dataclasses.replace(arm, fixed=fixed)

        chosen = (arm for arm in self.study.arms if not preset.arms or arm.name in preset.arms)
        return tuple(map(sized, chosen))

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims about arms that run."""
        names = {arm.name for arm in self.arms}
        return tuple(claim for claim in self.study.claims if names.issuperset(claim.arms_used()))

    def points(self) -> list[Point]:
        """All runs: arm by arm, setting by setting, seed by seed; an arm has equal experiments once."""
        return list(self._planning[0])

    @property
    def size(self) -> int:
        """Number of `points`. Counting runs is cheaper than naming them: a name requires reading all files of a run."""
        kinds = {
            (arm.name, config.fingerprint(self.experiment(arm, setting)))
            for arm in self.arms
            for setting in self._of(arm)
        }
        return len(kinds) * len(self.seeds)

    def _of(self, arm: Arm) -> Iterator[Mapping[str, Any]]:
        """The settings that an arm runs."""
        return itertools.chain(self.axes, self.further.get(arm.name, ()))

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """The files beside the configs that the runs of each arm depend on, with hashes of their content
        (`testbed.config.user_code`); arms without any are left out."""
        return self._planning[1]

    @functools.cached_property
    def _planning(self) -> tuple[tuple[Point, ...], dict[str, dict[str, str]]]:
        points: dict[tuple[str, str], Point] = {}
        content: dict[str, dict[str, str]] = {}
        for arm in self.arms:
            for number, setting in enumerate(self._of(arm)):
                first, stored = self._maker.make(arm, setting, {"seed": self.seeds[0]})
                if number == 0:
                    # Every setting is checked with the lowest seed; one of them also with the highest.
                    config.replace(first, "seed", self.seeds[-1])
                depends = user_code.sources([first])
                if depends:
                    content.setdefault(arm.name, {}).update(user_code.files([first]))
                for seed in self.seeds:
                    experiment = (
                        config.varied(first, "seed", seed) if seed != self.seeds[0] else first
                    )
                    run = config.fingerprint(experiment, *depends)
                    if (arm.name, run) not in points:
                        points[arm.name, run] = Point(run, arm.name, seed, stored, experiment)
        return tuple(points.values()), content

    @functools.cached_property
    def _maker(self) -> "_Maker":
        return _Maker(self)

    def experiment(self, arm: Arm, setting: Mapping[str, Any]) -> Any:
        """The config of one arm at one setting.

        The layers are: arm; preset; axes with the arm's fixed values; command line. A preset can change fields inside
        the arm's modules, but no value that the arm itself sets. Paths that only other arms have are left out. Only the
        result is checked, not each layer: a preset may change the number of evaluations, while an axis changes the
        number of steps, which the number of evaluations must divide.
        """
        return self._maker.make(arm, setting)[0]

    def describe(self) -> dict[str, Any]:
        """The study as JSON-able data, in the form of `study.json`."""
        study = self.study
        base = config.describe(study.base)
        base.pop("seed", None)
        changes = layered(study.presets[self.preset].settings, self.settings)
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
            "seeds": stored_seeds(self.seeds),
            "base": base,
            "settings": _all_spelt(changes),
            "arms": {arm.name: _all_spelt(arm.settings) for arm in self.arms},
            "fixed": {arm.name: _all_spelt(arm.fixed) for arm in self.arms if arm.fixed},
            "axes": {path: list(map(_spelt, self.axes.values(path))) for path in self.axes.paths},
            "further": {arm.name: more for arm in self.arms if (more := self._besides(arm))},
            "content": self.content,
            "planned": {
                arm.name: [point.run for point in self._planning[0] if point.arm == arm.name]
                for arm in self.arms
            },
            "claims": [claim.describe() for claim in self.claims],
        }

    def _besides(self, arm: Arm) -> list[dict[str, Any]]:
        """The settings that an arm runs in addition to the axes, in stored form."""

        def stored(setting: Mapping[str, Any]) -> dict[str, Any]:
            return _all_spelt({path: arm.fixed.get(path, x) for path, x in setting.items()})

        further = [stored(setting) for setting in self.further.get(arm.name, ())]
        swept = {frozenset(stored(one).items()) for one in self.axes} if further else set()
        return [one for one in further if frozenset(one.items()) not in swept]

    def notes(self) -> list[str]:
        """Notes for users whose command gives other values to a path that an arm keeps fixed."""
        return [
            f"arm {arm.name} keeps {path} at {_spelt(arm.fixed[path])}, as its study says"
            for arm in self.arms
            for path in self.given
            if path in arm.fixed
            and [_spelt(value) for value in self.axes.values(path)] != [_spelt(arm.fixed[path])]
        ]


class _Maker:
    """Makes the experiments of a selection. Work that settings of the same paths and modules share is done once, and
    experiments share the modules inside them."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._modules: dict[Any, Any] = {}
        self._plans: dict[Any, tuple[dict[str, Any], list[str], list[str], Any]] = {}
        self._spelt: dict[int, tuple[Any, Any]] = {}

    def make(
        self, arm: Arm, setting: Mapping[str, Any], more: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The experiment of an arm at a setting with ``more`` changes, and the swept values in stored form."""
        selection = self._selection
        values = {path: arm.fixed.get(path, value) for path, value in setting.items()}
        # Which paths exist depends on the modules among the values, not on numbers.
        kinds = (id(value) if isinstance(value, eqx.Module) else None for value in values.values())
        key = (arm.name, tuple(values), tuple(kinds))
        if key not in self._plans:
            kept = self._kept(arm, values)
            example = config.replace_all(selection.study.base, kept, self._modules)
            swept = [path for path in setting if _reached(example, {}, path)]
            varied = [path for path in values if path in kept and path not in selection.settings]
            names, above = ({path.partition(".")[0] for path in some} for some in (kept, varied))
            # Fields that no swept path changes are taken from the example.
            fixed = {path: value for path, value in kept.items() if path.partition(".")[0] in above}
            fixed |= {name: config.get(example, name) for name in names - above}
            # The values are kept, too: otherwise Python could give their `id` to other objects.
            self._plans[key] = fixed, varied, swept, values
        fixed, varied, swept, _ = self._plans[key]
        changes = {**fixed, **{path: values[path] for path in varied}, **(more or {})}
        made = config.replace_all(selection.study.base, changes, self._modules)
        return made, {path: self._stored(config.get(made, path)) for path in swept}

    def _kept(self, arm: Arm, swept: Mapping[str, Any]) -> dict[str, Any]:
        """The changes that an arm at a setting makes to the base config, without paths that only other arms have."""
        selection, study = self._selection, self._selection.study
        merged = study.layered(arm, selection.preset, {**swept, **selection.settings})
        return {
            path: value
            for path, value in merged.items()
            if _reached(study.base, merged, path)
            or not any(
                _reached(study.base, study.layered(other, selection.preset, swept), path)
                for other in study.arms
            )
        }

    def _stored(self, value: Any) -> Any:
        """A value in stored form; a module, which many settings share, is converted to text once."""
        if not isinstance(value, eqx.Module):
            return _spelt(value)
        if id(value) not in self._spelt:
            self._spelt[id(value)] = _spelt(value), value
        return self._spelt[id(value)][0]


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of settings: a whole module in a later layer removes earlier settings inside the module."""
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
    """Whether the config has a field at ``path`` after these changes; only changes of whole modules matter."""
    above = [changed for changed in changes if path.startswith(f"{changed}.")]
    root = max(above, key=len, default="")
    module = changes[root] if root else base
    try:
        config.get(module, path.removeprefix(f"{root}."))
    except InvalidInput:
        return False
    return True


def _spelt(value: Any) -> bool | int | float | str | None:
    """A value in the form of the results table: a scalar, None, or text for any other object."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else config.spell(value)


def _all_spelt(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {path: _spelt(value) for path, value in settings.items()}


def _put(described: dict[str, Any], path: str, value: Any) -> None:
    """Change a described config; a path that the config does not have is ignored."""
    *parents, name = path.split(".")
    for parent in parents:
        described = described.get(parent, {}) if isinstance(described, dict) else {}
    if isinstance(described, dict) and name in described:
        described[name] = config.jsonable(value)
