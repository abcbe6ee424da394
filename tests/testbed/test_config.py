"""Configs as data: canonical forms, changes through constructors, parsing of command-line text."""

import hashlib
import json
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import experiment as small_experiment

from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from envs.summarize import Summarize
from testbed import config
from testbed.config.canonical_form import later
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.experiment import Experiment

FAMILY = textwrap.dedent("""
    import abc
    from typing import ClassVar
    import equinox as eqx
    from testbed.errors import InvalidInput

    class AbstractLoss(eqx.Module):
        family: ClassVar[str] = "{package}"
        @abc.abstractmethod
        def value(self): ...
""")

MEMBERS = textwrap.dedent("""
    import equinox as eqx
    from testbed.errors import InvalidInput
    from {package} import AbstractLoss

    class Ipo(AbstractLoss):
        beta: float = 0.1
        length_normalised: bool = eqx.field(static=True, default=False)
        def __check_init__(self):
            if self.beta <= 0:
                raise InvalidInput(f"beta must be > 0, got {{self.beta}}")
        def value(self):
            return 0

    class Dpo(AbstractLoss):
        beta: float
        def value(self):
            return 0

    class Scaled(AbstractLoss):
        inner: AbstractLoss
        scale: float = 1.0
        def value(self):
            return 0

    class StillAbstract(AbstractLoss):
        pass
""")


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real package of one family on disk, as `testbed.losses` is one."""
    root: Path = tmp_path_factory.mktemp("packages")
    name = "family_for_config_tests"
    (root / name).mkdir()
    (root / name / "__init__.py").write_text(FAMILY.format(package=name))
    (root / name / "ipo.py").write_text(MEMBERS.format(package=name))
    sys.path.insert(0, str(root))
    yield __import__(name + ".ipo", fromlist=["Ipo"])
    sys.path.remove(str(root))


class Shape(eqx.Module):
    width: int = eqx.field(static=True, default=8)
    heads: int = eqx.field(static=True, default=2)

    def __check_init__(self) -> None:
        if self.width % self.heads:
            raise InvalidInput(f"heads must divide width={self.width}, got {self.heads}")


def experiment(losses: Any, **changes: Any) -> Any:
    class Small(eqx.Module):
        family: ClassVar[str] = "nothing here"
        loss: losses.AbstractLoss
        model: Shape = Shape()
        rate: float | jnp.ndarray = 1e-3
        steps: int = eqx.field(static=True, default=100)
        mode: Literal["fast", "exact"] = eqx.field(static=True, default="fast")
        name: str | None = eqx.field(static=True, default=None)
        widths: tuple[int, ...] = eqx.field(static=True, default=(1, 2))

    return Small(**({"loss": losses.Ipo()} | changes))


def test_describe_and_flatten(losses: Any) -> None:
    small = experiment(losses)
    assert config.describe(small) == {
        "kind": "Small",
        "loss": {"kind": "Ipo", "beta": 0.1, "length_normalised": False},
        "model": {"kind": "Shape", "width": 8, "heads": 2},
        "rate": 0.001,
        "steps": 100,
        "mode": "fast",
        "name": None,
        "widths": [1, 2],
    }
    assert config.flatten(small) == {
        "loss": "Ipo",
        "loss.beta": 0.1,
        "loss.length_normalised": False,
        "model": "Shape",
        "model.width": 8,
        "model.heads": 2,
        "rate": 0.001,
        "steps": 100,
        "mode": "fast",
        "name": None,
        "widths": "(1, 2)",
    }


def test_fingerprint_is_of_the_value_not_of_its_spelling(losses: Any) -> None:
    prints = {
        config.fingerprint(losses.Ipo(beta=beta))
        for beta in (1, 1.0, np.float32(1), np.int64(1), jnp.float32(1.0))
    }
    assert len(prints) == 1
    assert len(prints.pop()) == 16
    assert config.fingerprint(losses.Ipo(jnp.float32(0.1))) == config.fingerprint(losses.Ipo(0.1))
    assert config.fingerprint(losses.Dpo(-0.0)) == config.fingerprint(losses.Dpo(0.0))
    # Another kind, another value and another number of things all differ.
    different = [(losses.Ipo(),), (losses.Dpo(0.1),), (losses.Ipo(0.2),), (losses.Ipo(), 1)]
    assert len({config.fingerprint(*things) for things in different}) == len(different)


def test_fingerprint_is_fixed_for_good(losses: Any) -> None:
    # sha256 of '[{"beta":0.1,"kind":"Ipo","length_normalised":false}]', worked out apart from here:
    # stores from earlier versions must stay readable.
    assert config.fingerprint(losses.Ipo()) == "b6be84bdbe15fd94"
    assert config.canonical(losses.Dpo(1e-7)) == '{"beta":1e-07,"kind":"Dpo"}'
    assert config.canonical(losses.Dpo(float("inf"))) == '{"beta":"inf","kind":"Dpo"}'


def test_a_field_that_came_later_is_named_only_where_it_is_set() -> None:
    class Old(eqx.Module):
        """A config of an earlier version."""

        beta: float = 0.1

    class Inner(eqx.Module):
        """Fields added together."""

        seed: int | None = hyper(None, least=0, later=True)

    class New(eqx.Module):
        """The config with two fields more."""

        beta: float = 0.1
        rate: float = hyper(1.0, later=True)
        inner: Inner = later(Inner())

    def text(thing: Any) -> str:
        return config.canonical(thing).replace('"New"', '"Old"')

    assert text(New()) == text(New(rate=1)) == text(New(inner=Inner())) == config.canonical(Old())
    assert text(New(rate=2)) == '{"beta":0.1,"kind":"Old","rate":2.0}'
    assert (
        text(New(inner=Inner(0))) == '{"beta":0.1,"inner":{"kind":"Inner","seed":0},"kind":"Old"}'
    )
    # A description has all fields.
    assert config.describe(New())["rate"] == 1.0
    assert config.get(New(), "inner.seed") is None
    assert config.replace(New(), "inner.seed", 7) == New(inner=Inner(7))


def test_runs_keep_the_names_of_earlier_versions() -> None:
    """Names worked out before fields were added; defaults that change on purpose move them."""
    named = {
        "71c724ea9d1bb5fa": Experiment(Neural(), BradleyTerry()),
        "f06e92acfc3820af": Experiment(Summarize(), BradleyTerry(), seed=3),
    }
    for name, run in named.items():
        assert config.fingerprint(run) == name


def plain(*things: Any) -> str:
    """The fingerprint as it is defined: described from the top, without anything remembered."""
    text = json.dumps(
        config.jsonable(list(things)), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Odd(eqx.Module):
    """Fields whose values are normalised, or are written in ways of their own."""

    anything: Any = -0.0
    either: int | float = 1
    number: float = -0.0
    flag: bool | None = None
    text: str = 'a "quoted" ü'
    pair: tuple[float, ...] = (1, -0.0)
    kind: str = "a field, not the class"


def test_the_canonical_text_is_that_of_the_description(losses: Any) -> None:
    for thing in (
        Odd(),
        Odd(2**70, 0.5, float("nan"), True, "", ()),
        Odd(np.float32(0.1), np.float32(0.1), jnp.float32(0.1), False),
        experiment(losses),
        experiment(losses, rate=jnp.float32(0.1), name="x", widths=[3]),
        {"b": Odd(), 1: [Odd(), None, float("-inf")], "a": (1, 1.0, True)},
    ):
        for _ in range(2):  # the second time from what is remembered
            assert config.fingerprint(thing, thing) == plain(thing, thing)
            assert config.fingerprint([thing]) == plain([thing])
    with pytest.raises(InvalidInput, match="loss must be AbstractLoss, got Shape"):
        config.canonical(type(experiment(losses))(loss=Shape()))


def test_arrays_that_may_change_are_read_anew(losses: Any) -> None:
    beta = np.array(0.1)
    small = experiment(losses, loss=losses.Ipo(beta))
    before = config.fingerprint(small)
    beta[...] = 0.2
    assert config.fingerprint(small) == plain(small) != before


def test_replace_all_shares_what_comes_of_the_same_changes(losses: Any) -> None:
    small, made = experiment(losses), {}
    one, same, other, whole = (
        config.replace_all(small, {"loss.beta": beta, "steps": steps}, made)
        for beta, steps in ((0.2, 1), (0.2, 2), (1, 1), (1.0, 1))
    )
    assert one.loss is same.loss
    assert one.loss is not other.loss
    assert whole.loss == other.loss
    assert isinstance(other.loss.beta, float)
    assert one.model is small.model
    with pytest.raises(InvalidInput, match="loss: beta must be > 0, got -1"):
        config.replace_all(small, {"loss.beta": -1}, made)


def test_a_rebuilt_module_is_as_its_constructor_makes_it(losses: Any) -> None:
    class Converted(eqx.Module):
        rate: float = eqx.field(converter=lambda value: 2 * value, default=1.0)

    class Derived(Shape):
        depth: int = 1
        area: int = eqx.field(init=False)

        def __post_init__(self) -> None:
            self.area = self.width * self.depth

    small = experiment(losses)
    for module, path, value in (
        (small, "rate", 0.5),
        (small, "loss.beta", 0.5),
        (Converted(), "rate", 3.0),
        (Derived(), "width", 4),
    ):
        changed = config.replace(module, path, value)
        fields = {name: getattr(changed, name) for name in config.field_names(changed)}
        if isinstance(module, Converted):
            fields["rate"] = value
        assert changed == type(module)(**fields)
        assert vars(changed).keys() == vars(type(module)(**fields)).keys()
    assert config.varied(small, "steps", 7) == config.replace(small, "steps", 7)
    with pytest.raises(InvalidInput, match=r"steps must be a whole number, got 1\.5"):
        config.varied(small, "steps", 1.5)


def test_replace_at_any_depth(losses: Any) -> None:
    small = experiment(losses)
    changed = config.replace(small, "loss.beta", 1)
    assert isinstance(changed.loss.beta, float)
    assert (changed.loss.beta, changed.steps, small.loss.beta) == (1.0, 100, 0.1)
    assert config.replace(small, "loss", losses.Dpo(0.3)).loss.beta == 0.3
    assert config.replace(small, "name", "x").name == "x"
    assert config.get(changed, "loss.beta") == 1.0


def test_replace_all_checks_the_result_and_not_the_way_there(losses: Any) -> None:
    small = experiment(losses)
    with pytest.raises(InvalidInput, match="model: heads must divide width=8, got 3"):
        config.replace(small, "model.heads", 3)
    changed = config.replace_all(small, {"model.heads": 3, "model.width": 9})
    assert (changed.model.heads, changed.model.width) == (3, 9)
    # A whole module first, whatever the order, then its fields.
    changed = config.replace_all(small, {"loss.beta": 0.7, "loss": losses.Dpo(0.3)})
    assert config.spell(changed.loss) == "Dpo(beta=0.7)"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("loss.betta", 1.0, r"unknown field 'loss.betta': did you mean 'loss.beta'\? known: loss"),
        ("beta", 1.0, r"unknown field 'beta': did you mean 'loss.beta'\?"),
        ("steps.x", 1, "'steps' is 100, without fields"),
        ("zzzzzz", 1, "unknown field 'zzzzzz': known: loss, model, rate"),
        ("loss.beta", "0.1", "loss.beta must be a number, got '0.1'"),
        ("loss.beta", True, "loss.beta must be a number, got true"),
        ("loss.beta", -1, "loss: beta must be > 0, got -1.0"),
        ("steps", 1.5, "steps must be a whole number, got 1.5"),
        ("loss", 3, "loss must be AbstractLoss, got 3"),
        ("loss", Shape(), "loss must be AbstractLoss, got Shape"),
        ("mode", "slow", "mode must be one of fast, exact, got 'slow'"),
        ("widths", (1, 2.5), "widths must be a whole number, got 2.5"),
    ],
)
def test_replace_refuses(losses: Any, path: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        config.replace(experiment(losses), path, value)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("loss.beta", "3e-1", 0.3),
        ("rate", "1", 1.0),
        ("steps", "20", 20),
        ("loss.length_normalised", "True", True),
        ("mode", "exact", "exact"),
        ("name", "none", None),
        ("name", "a name", "a name"),
        ("widths", "(3, 4)", (3, 4)),
    ],
)
def test_parse_scalars(losses: Any, path: str, text: str, expected: Any) -> None:
    value = config.parse(experiment(losses), path, text)
    assert value == expected
    assert type(value) is type(expected)
    assert config.parse(experiment(losses), path, config.spell(value)) == expected


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("Ipo", "Ipo"),
        ("ipo()", "Ipo"),
        ("DPO(beta=2)", "Dpo(beta=2.0)"),
        ("Ipo(length_normalised=true, beta=0.2)", "Ipo(beta=0.2, length_normalised=true)"),
        ("Scaled(inner=Dpo(beta=0.2), scale=3)", "Scaled(inner=Dpo(beta=0.2), scale=3.0)"),
    ],
)
def test_parse_kinds(losses: Any, text: str, spelt: str) -> None:
    value = config.parse(experiment(losses), "loss", text)
    assert config.spell(value) == spelt
    again = config.parse(experiment(losses), "loss", spelt)
    assert config.fingerprint(again) == config.fingerprint(value)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("loss", "Ipq", r"unknown kind for loss 'Ipq': did you mean 'Ipo'\? known: Ipo, Dpo"),
        ("loss", "StillAbstract", "unknown kind for loss"),
        ("loss", "Dpo", "loss: Dpo needs beta, got 'Dpo'"),
        ("loss", "Ipo(0.1)", "arguments of Ipo are named"),
        ("loss", "Ipo(bta=0.1)", r"unknown field of Ipo 'bta': did you mean 'beta'\?"),
        ("loss", "Ipo(beta=0)", "loss: beta must be > 0, got 0.0"),
        ("loss", "Ipo(beta=open('x'))", "loss.beta must be a number, got"),
        ("loss", "Ipo(beta=", "loss takes a kind such as"),
        ("loss", "1+1", "loss takes a kind such as"),
        ("loss.beta", "fast", "loss.beta must be a number, got 'fast'"),
        ("steps", "1.5", "steps must be a whole number, got '1.5'"),
        ("model", "Ipo", "unknown kind for model 'Ipo': known: Shape"),
        ("lossy", "Ipo", "unknown field 'lossy': did you mean 'loss'"),
    ],
)
def test_parse_refuses(losses: Any, path: str, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        config.parse(experiment(losses), path, text)


def test_members_are_the_final_kinds_of_a_family(losses: Any) -> None:
    base = losses.AbstractLoss
    assert set(config.members(base, base.family)) == {"Ipo", "Dpo", "Scaled"}
    assert set(config.members(losses.Dpo, base.family)) == {"Dpo"}


def test_parse_a_module_that_may_be_missing() -> None:
    """A field that holds nothing by default takes its declared kind, and ``none`` again."""
    base = small_experiment()
    shape = config.parse(
        base, "baseline_model", "TransformerConfig(width=16, heads=2, key_value_heads=2)"
    )
    assert (shape.width, shape.heads) == (16, 2)
    assert (
        config.parse(config.replace(base, "baseline_model", shape), "baseline_model", "none")
        is None
    )
    recorded = config.parse(
        base, "evaluation.stream", "Recorded(run=OnlineRun(steps=7), teacher='golden')"
    )
    assert (recorded.run.steps, recorded.teacher) == (7, "golden")
    proxy = config.parse(base, "proxy", "ProxyConfig(model=none)")
    assert proxy.model is None
    with pytest.raises(InvalidInput, match="unknown kind for baseline_model 'Ipo': known: Trans"):
        config.parse(base, "baseline_model", "Ipo")


def test_a_value_that_no_config_holds_is_named() -> None:
    """A path, an array or a function in a field of a user's class."""
    for value in (Path("a"), np.ones(2), len):
        with pytest.raises(InvalidInput, match=f"got a {type(value).__name__}"):
            config.canonical([value])
