"""Requirements on tasks, golden rewards and labelers, and their checks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sweeps.contracts import samples
from sweeps.contracts.goldens import check_golden, check_golden_shape, check_rewards
from sweeps.contracts.samples import TEXTS, Sizes, as_arrays
from sweeps.contracts.sentences import (
    called,
    computed,
    named,
    require_array,
    require_finite,
    require_kind,
    require_like,
    require_numbers,
    require_tokens,
    require_traced,
    require_within,
    traced,
)
from testbed.environment import AbstractTask, World
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler, Outcome, View
from testbed.streams import Stream, stream
from testbed.types import END_TOKEN, Label, Prompt, Response

_ANSWERS = ", ".join(answer.name.lower() for answer in Outcome)
_OUTCOMES = f"the probabilities of {_ANSWERS}"


def check_task(task: AbstractTask) -> None:
    """A task must give prompts and texts of the stated sizes with tokens inside the vocabulary, and a finite golden
    reward that varies. Raises `InvalidInput`.

    The check draws the world of seed 0. For a task that needs a checkpoint, which would have to be loaded, only sizes
    are checked.
    """
    if type(task).checkpointed:
        check_sizes(task)
        return
    sizes = Sizes.of(task)
    task, material, world = check_form(task)
    if not jax.tree.leaves((world.prompts, world.golden)):
        # Checks that draw nothing come first: drawing a world may take seconds.
        rewarded = functools.partial(_rewarded, sizes)
        check_rewards(world.golden, *computed(world.golden, "", rewarded, world))
    world, drawn, made_up, rewards = computed(task, "world", _draw, task, material)
    for part in filter(drawn.get, ("prompts", "writers", "ideal")):
        check_text(f"{named(getattr(world, part))} of {named(task)}", drawn[part], sizes)
    twice: Callable = lambda *parts: np.concatenate(parts)  # noqa: E731
    prompts = jax.tree.map(twice, drawn["prompts"], drawn["prompts"])
    texts = jax.tree.map(twice, drawn["writers"], made_up)
    check_golden(world.golden, prompts, texts, sizes.vocabulary, np.ravel(rewards))


def check_sizes(task: AbstractTask) -> None:
    """Vocabulary and lengths must be whole numbers that are known when programs are traced. Raises `InvalidInput`."""
    require_numbers(task)
    sizes = Sizes.of(task)
    for name, size in zip(("vocabulary", "prompt_length", "response_length"), sizes, strict=True):
        if not isinstance(size, int) or isinstance(size, bool):
            raise InvalidInput(
                f"{named(task)} has {size!r} as its {name}: needs a whole number, in a field that is "
                "eqx.field(static=True)"
            )


def check_form(task: AbstractTask) -> tuple[AbstractTask, PyTree, World]:
    """Check sizes, words, and the shapes of prompts, texts and rewards, without drawing them. Raises `InvalidInput`.

    Returns the task with arrays for its numbers, its material, and the shapes of a world.
    """
    check_sizes(task)
    sizes = Sizes.of(task)
    _check_words(task, sizes)
    material = called(task, "material", object)
    task = as_arrays(task)
    world = traced(task, "world", _world, task, material)
    require_kind(named(task, "world"), world, World)
    _check_shapes(world, sizes)
    return task, material, world


def _world(task: AbstractTask, material: PyTree) -> Any:
    """The world of seed 0, if the task gives a `World`."""
    return task.world_on(material, stream(jax.random.key(0), Stream.WORLD))


def _check_words(task: AbstractTask, sizes: Sizes) -> None:
    words = called(task, "words", object)
    if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
        raise InvalidInput(
            f"{named(task, 'words')} returns a {type(words).__name__}: needs a tuple of texts"
        )
    if len(words) != sizes.vocabulary:
        raise InvalidInput(
            f"{named(task, 'words')} returns {len(words)} words: needs one for each of the "
            f"{sizes.vocabulary} token ids"
        )
    called(task, "text", str, [min(1, sizes.vocabulary - 1), END_TOKEN])


def _check_shapes(world: World, sizes: Sizes) -> None:
    """Check the shapes of one prompt, one response and one reward."""
    key = jax.random.key(0)
    prompt = traced(world.prompts, "", lambda w, k: w.prompts(k), world, key)
    _require_text(named(world.prompts), prompt, Prompt, sizes.prompt)
    for writers in filter(None, (world.writers, world.ideal)):
        text = traced(writers, "", lambda w, k, p: w(k, p), writers, key, prompt)
        _require_text(named(writers), text, Response, sizes.response)
    texts = samples.prompts(sizes, 1), samples.responses(sizes, 1)
    check_golden_shape(world.golden, *samples.first(texts))


def _require_text(what: str, text: Any, kind: type, size: int) -> None:
    require_kind(what, text, kind)
    require_array(f"{what}: `tokens`", text.tokens, (size,), "a token id a place", jnp.integer)
    require_array(f"{what}: `length`", text.length, (), "tokens up to the end", jnp.integer)


def _rewarded(sizes: Sizes, world: World) -> tuple[Response, Float[Array, " text"]]:
    """Made-up responses of every length to prompts of a world, and their golden rewards."""
    prompts = jax.vmap(world.prompts)(jax.random.split(jax.random.key(1), TEXTS))
    made_up = samples.responses(sizes, TEXTS)
    return made_up, jax.vmap(world.golden)(prompts, made_up)


def _draw(task: AbstractTask, material: PyTree) -> tuple[World, dict, Response, Array]:
    """A world, the texts by the part of the world that gives them, made-up responses of every length, and the golden
    rewards of the writers' responses and of the made-up ones."""
    world = _world(task, material)
    k_prompts, k_texts = jax.random.split(jax.random.key(0))
    prompts = jax.vmap(world.prompts)(jax.random.split(k_prompts, TEXTS))
    drawn: dict[str, Any] = {"prompts": prompts}
    for part in ("writers", "ideal"):
        if getattr(world, part) is not None:
            keys = jax.random.split(k_texts, TEXTS)
            drawn[part] = jax.vmap(getattr(world, part))(keys, prompts)
    made_up = samples.responses(Sizes.of(task), TEXTS)
    rewards = [jax.vmap(world.golden)(prompts, texts) for texts in (drawn["writers"], made_up)]
    return world, drawn, made_up, jnp.stack(rewards)


def check_text(what: str, text: Prompt | Response, sizes: Sizes) -> None:
    """Texts (leading axis: text) must consist of tokens in the vocabulary and end where their length says, with end
    tokens after that. Raises `InvalidInput`."""
    tokens, length = np.asarray(text.tokens), np.asarray(text.length)
    require_tokens(f"{what} gives", tokens, sizes.vocabulary)
    size = tokens.shape[1]
    require_within(f"{what} gives a length of", length, 1, size, f": needs 1 to {size} tokens")
    index = np.arange(size)
    if np.any(tokens[index >= length[:, None]] != END_TOKEN):
        raise InvalidInput(
            f"{what} gives tokens behind the end of the text: needs token {END_TOKEN} there"
        )
    if isinstance(text, Prompt):
        return
    if np.any(tokens[index < length[:, None] - 1] == END_TOKEN):
        raise InvalidInput(
            f"{what} gives end token {END_TOKEN} inside of a text: needs a length that ends with it"
        )
    last = np.take_along_axis(tokens, length[:, None] - 1, axis=1)[:, 0]
    unended = length[(last != END_TOKEN) & (length < size)]
    if unended.size:
        raise InvalidInput(
            f"{what} gives a text of {int(unended[0])} tokens without an end token: needs token {END_TOKEN} at the "
            f"end, unless the text fills all {size} places"
        )


def check_labeler(labeler: AbstractLabeler, task: AbstractTask) -> None:
    """A labeler must give probabilities of the four answers, which sum to one, and a label in [0, 1]. Raises
    `InvalidInput`.

    Its perception of a response (`AbstractLabeler.view`) is tried on the task's worlds. Parts of the world are drawn
    only if the labeler perceives more than a reward and a text; tasks that need a checkpoint are left out.
    """
    require_numbers(labeler)
    labeler = as_arrays(labeler)
    sizes = Sizes.of(task)
    views = _views(labeler, task, sizes)
    count = views.reward.shape[0]
    first, second = np.divmod(np.arange(count * count), count)
    uses: dict[str, Callable] = {
        "outcomes": lambda labeler, a, b: labeler.outcomes(a, b),
        "preference": lambda labeler, a, b: labeler.preference(a, b),
        "__call__": lambda labeler, a, b: labeler(jax.random.key(0), a, b),
    }
    one = labeler, *(samples.first(views),) * 2
    require_traced(labeler, "outcomes", (len(Outcome),), _OUTCOMES, uses["outcomes"], *one)
    require_traced(labeler, "preference", (), "P(first is preferred)", uses["preference"], *one)
    label = traced(labeler, "", uses["__call__"], *one)
    require_kind(named(labeler), label, Label)
    for name in ("preference", "weight"):
        require_array(f"{named(labeler)}: `{name}`", getattr(label, name), (), "one number a label")

    def answers(labeler: AbstractLabeler, a: View, b: View) -> list:
        return [jax.vmap(functools.partial(use, labeler))(a, b) for use in uses.values()]

    pair = (jax.tree.map(lambda x, i=i: x[i], views) for i in (first, second))
    chance, preference, labels = computed(labeler, "outcomes", answers, labeler, *pair)
    check_chances(labeler, chance)
    for name, values in (("preference", preference), ("__call__", labels.preference)):
        what = named(labeler, name)
        require_finite(what, values, "comparisons")
        require_within(
            f"{what} gives the first a preference of", values, 0, 1, ": needs 0 to 1", 1e-5
        )


def check_chances(labeler: AbstractLabeler, chance: Float[np.ndarray, "n outcome"]) -> None:
    """Probabilities must be finite, from 0 to 1, and sum to one in each comparison. Raises `InvalidInput`."""
    what = named(labeler, "outcomes")
    require_finite(what, chance, f"numbers ({_OUTCOMES})")
    require_within(f"{what} gives an answer a probability of", chance, 0, 1, ": needs 0 to 1", 1e-5)
    totals = np.sum(np.asarray(chance, np.float64), axis=1)
    worst = int(np.argmax(np.abs(totals - 1)))
    if abs(totals[worst] - 1) > 1e-5:
        raise InvalidInput(
            f"{what} gives probabilities that sum to {totals[worst]:.6g}: needs a sum of one over {_ANSWERS}"
        )


_REWARDS = (0.0, 0.5, -0.5, 1.0, -2.0, 3.0, 10.0, -10.0)


def _views(labeler: AbstractLabeler, task: AbstractTask, sizes: Sizes) -> View:
    """Responses of every length as the labeler perceives them, with rewards close to each other and far apart (leading
    axis: response)."""
    count = len(_REWARDS)
    texts, prompts = samples.responses(sizes, count), samples.prompts(sizes, count)
    plain = jax.vmap(View)(jnp.asarray(_REWARDS, jnp.float32), texts)
    if type(labeler).view is AbstractLabeler.view or type(task).checkpointed:
        return plain
    material = task.material()

    def see(labeler: AbstractLabeler, world: World, *text: Any) -> Any:
        return jax.vmap(functools.partial(labeler.view, world))(*text)

    world = traced(task, "world", _world, task, material)
    view = traced(labeler, "view", see, labeler, world, prompts, texts)
    require_kind(named(labeler, "view"), view, View)
    if type(view) is View:
        require_like(named(labeler, "view"), view, plain, "a View of a response")
        return plain
    world = computed(task, "world", _world, task, material)
    return computed(labeler, "view", see, labeler, world, prompts, texts)
