"""Rotary settings of a config: base and scaling of the frequencies.

They are read as in transformers 5 (``RotaryEmbeddingConfigMixin`` in its modeling_rope_utils.py): from the object
``rope_scaling`` if it is not empty, else from ``rope_parameters``. Fields ``rope_theta`` and ``partial_rotary_factor``
inside the object take precedence over fields of the same names beside it. Settings nested by type of layer are read if
they are the same for all layers of the model. The other object is refused too if it has settings that are not computed
here.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from testbed.llm.fields import Fields
from testbed.nn.rotary import Llama3Scaling

DEFAULT_BASE: Final = 10_000.0
#: Settings of plain rotary positions; ``original_max_position_embeddings`` changes nothing if there is no scaling.
_PLAIN: Final = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
_LLAMA3: Final = (*_PLAIN, "factor", "low_freq_factor", "high_freq_factor")
#: Types of layers by which settings may be nested.
_LAYERS: Final = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")


class Rotary(NamedTuple):
    """Base of the frequencies, and their scaling; None for no scaling."""

    base: float
    scaling: Llama3Scaling | None


def read(fields: Fields) -> Rotary:
    """The rotary settings of a config. Raises `InvalidInput`, naming the field, for a setting that is not computed
    here."""
    base = fields.number("rope_theta", DEFAULT_BASE)
    fields.require("partial_rotary_factor", (1.0,), 1.0)
    newer, older = (_object(fields, name, base) for name in ("rope_parameters", "rope_scaling"))
    return older or newer or Rotary(base, None)


def _object(fields: Fields, name: str, base: float) -> Rotary | None:
    """The settings in one of the two objects; None if the object is missing or empty."""
    given = fields.get(name, {})
    if not isinstance(given, dict):
        raise fields.refusal(name, given, "an object")
    if not given:
        return None
    nested = _by_layer(fields, name, given)
    first, *others = (_one(fields, at, settings, base) for at, settings in nested.items())
    if any(other != first for other in others):
        raise fields.refusal(name, given, "the same for all layers")
    return first


def _by_layer(fields: Fields, name: str, given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of the layers, by the name of the object that contains them."""
    if not any(kind in given for kind in _LAYERS):
        return {name: given}
    used = fields.get("layer_types") or list(given)
    found = {}
    for kind in sorted(map(str, used)):
        settings = given.get(kind)
        if not isinstance(settings, dict):
            raise fields.refusal(f"{name}.{kind}", settings, "an object")
        found[f"{name}.{kind}"] = settings
    for extra in given:
        if extra not in _LAYERS:
            raise fields.refusal(f"{name}.{extra}", given[extra], "inside of a type of layer")
    return found


def _one(fields: Fields, at: str, given: Mapping[str, Any], base: float) -> Rotary:
    """The settings in one object; ``at`` is the object's name."""
    given = {name: value for name, value in given.items() if value is not None}
    kind = given.get("rope_type", given.get("type", "default"))
    if given.get("type", kind) != kind:
        raise fields.refusal(f"{at}.type", given["type"], f"{at}.rope_type ({kind!r})")
    if kind not in ("default", "llama3"):
        raise fields.refusal(f"{at}.rope_type", kind, "'default' or 'llama3'")
    known = _PLAIN if kind == "default" else _LLAMA3
    for name, value in given.items():
        if name not in known:
            allowed = f"left out: rotary positions of type {kind!r} have no such setting"
            raise fields.refusal(f"{at}.{name}", value, allowed)
    share = given.get("partial_rotary_factor", 1.0)
    if share != 1.0:
        raise fields.refusal(f"{at}.partial_rotary_factor", share, "1.0")
    base = fields.positive(f"{at}.rope_theta", given.get("rope_theta", base))
    outside = "original_max_position_embeddings"
    trained = fields.get(outside)
    if kind == "default":
        return Rotary(base, None)
    factor, low, high = (
        fields.positive(f"{at}.{part}", given.get(part))
        for part in ("factor", "low_freq_factor", "high_freq_factor")
    )
    # The field beside the object takes precedence, as in transformers.
    trained = given.get(outside) if trained is None else trained
    trained = fields.get("max_position_embeddings") if trained is None else trained
    context = fields.positive(f"{at}.{outside}", trained)
    if context != int(context):
        raise fields.refusal(f"{at}.{outside}", trained, "a whole number")
    return Rotary(base, Llama3Scaling(factor, low, high, int(context)))
