"""Requirements on tasks, golden rewards and labelers, and their checks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from sweeps.contracts import samples
from sweeps.contracts.goldens import check_golden, check_golden_shape, check_rewards
from sweeps.contracts.samples import TEXTS, Sizes, as_arrays, quick
from sweeps.contracts.sentences import (
    guarded,
    named,
    require_array,
    require_finite,
    require_kind,
    require_like,
    require_numbers,
)
from testbed.environment import AbstractTask, AbstractWriters, World
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler, Outcome, View
from testbed.streams import Stream, stream
from testbed.types import END_TOKEN, Label, Prompt, Response

_OUTCOMES = f"the probabilities of {', '.join(one.name.lower() for one in Outcome)}"


class Drawn(NamedTuple):
    """The samples of a world that were checked: prompts, the writers' responses, and golden rewards of these responses
    and of made-up texts of every length."""

    world: World
    prompts: Prompt
    written: Response
    ideal: Response | None
    made_up: Response
    rewards: Float[np.ndarray, "2 text"]


def check_task(task: AbstractTask) -> Drawn | None:
    """A task must give prompts and texts of the stated sizes with tokens inside the vocabulary, and a finite golden
    reward that varies. Raises `InvalidInput`.

    The check draws the world of seed 0. For a task that needs a checkpoint, which would have to be loaded, only sizes
    are checked, and None is returned.
    """
    if type(task).checkpointed:
        check_sizes(task)
        return None
    sizes, key = Sizes.of(task), stream(jax.random.key(0), Stream.WORLD)
    task, material, world = check_form(task)
    if not jax.tree.leaves((world.prompts, world.golden)):
        # Checks that draw nothing come first: drawing a world may take seconds.
        with guarded(world.golden):
            _, made_up, rewards = jax.device_get(_rewarded(sizes, world))
        check_rewards(world.golden, made_up, rewards)
    with guarded(task, "world"):
        drawn = Drawn(*jax.device_get(_draw(task, material, key)))
    check_text(f"{named(world.prompts)} of {named(task)}", drawn.prompts, sizes)
    check_text(f"{named(world.writers)} of {named(task)}", drawn.written, sizes)
    if drawn.ideal is not None:
        check_text(f"{named(world.ideal)} of {named(task)}", drawn.ideal, sizes)
    prompts, texts = (
        jax.tree.map(lambda *both: np.concatenate(both), *pair)
        for pair in ((drawn.prompts, drawn.prompts), (drawn.written, drawn.made_up))
    )
    rewards = np.ravel(drawn.rewards)
    check_golden(drawn.world.golden, prompts, texts, sizes.vocabulary, rewards)
    return drawn


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
    with guarded(task, "material"):
        material = task.material()
    task = as_arrays(task)
    key = stream(jax.random.key(0), Stream.WORLD)
    with guarded(task, "world"):
        world = jax.eval_shape(lambda t, m, k: t.world_on(m, k), task, material, key)
    require_kind(named(task, "world"), world, World)
    _check_shapes(world, sizes)
    return task, material, world


def _check_words(task: AbstractTask, sizes: Sizes) -> None:
    with guarded(task, "words"):
        words = task.words()
    if not isinstance(words, tuple) or not all(isinstance(word, str) for word in words):
        raise InvalidInput(
            f"{named(task, 'words')} returns a {type(words).__name__}: needs a tuple of texts"
        )
    if len(words) != sizes.vocabulary:
        raise InvalidInput(
            f"{named(task, 'words')} returns {len(words)} words: needs one for each of the "
            f"{sizes.vocabulary} token ids"
        )
    with guarded(task, "text"):
        text = task.text([min(1, sizes.vocabulary - 1), END_TOKEN])
    require_kind(named(task, "text"), text, str)


def _check_shapes(world: World, sizes: Sizes) -> None:
    """Check the shapes of one prompt, one response and one reward."""
    key = jax.random.key(0)
    with guarded(world.prompts):
        prompt = jax.eval_shape(lambda w, k: w.prompts(k), world, key)
    _require_text(named(world.prompts), prompt, Prompt, sizes.prompt)
    for writers in filter(None, (world.writers, world.ideal)):
        with guarded(writers):
            text = jax.eval_shape(lambda w, k, p: w(k, p), writers, key, prompt)
        _require_text(named(writers), text, Response, sizes.response)
    prompt, text = _one(sizes)
    check_golden_shape(world.golden, prompt, text)


def _one(sizes: Sizes) -> tuple[Prompt, Response]:
    texts = samples.prompts(sizes, 1), samples.responses(sizes, 1)
    return jax.tree.map(lambda x: x[0], texts)


def _require_text(what: str, text: Any, kind: type, size: int) -> None:
    require_kind(what, text, kind)
    require_array(f"{what}: `tokens`", text.tokens, (size,), "a token id a place", jnp.integer)
    require_array(f"{what}: `length`", text.length, (), "tokens up to the end", jnp.integer)


@functools.partial(quick, static_argnums=0)
def _rewarded(sizes: Sizes, world: World) -> tuple[Prompt, Response, Float[Array, " text"]]:
    """Prompts of a world, made-up responses of every length, and their golden rewards."""
    prompts = jax.vmap(world.prompts)(jax.random.split(jax.random.key(1), TEXTS))
    made_up = samples.responses(sizes, TEXTS)
    return prompts, made_up, jax.vmap(world.golden)(prompts, made_up)


@quick
def _draw(task: AbstractTask, material: PyTree, key: PRNGKeyArray) -> tuple:
    """The parts of `Drawn`."""
    world = task.world_on(material, key)
    k_prompts, k_texts = jax.random.split(jax.random.key(0))
    prompts = jax.vmap(world.prompts)(jax.random.split(k_prompts, TEXTS))

    def answered(writers: AbstractWriters | None) -> Response | None:
        keys = jax.random.split(k_texts, TEXTS)
        return None if writers is None else jax.vmap(writers)(keys, prompts)

    written: Any = answered(world.writers)
    made_up = samples.responses(Sizes.of(task), TEXTS)
    rewards = [jax.vmap(world.golden)(prompts, texts) for texts in (written, made_up)]
    return world, prompts, written, answered(world.ideal), made_up, jnp.stack(rewards)


def check_text(what: str, text: Prompt | Response, sizes: Sizes) -> None:
    """Texts (leading axis: text) must consist of tokens in the vocabulary and end where their length says, with end
    tokens after that. Raises `InvalidInput`."""
    tokens, length = np.asarray(text.tokens), np.asarray(text.length)
    outside = tokens[(tokens < 0) | (tokens >= sizes.vocabulary)]
    if outside.size:
        raise InvalidInput(
            f"{what} gives token {int(outside[0])}: vocabulary={sizes.vocabulary} has the ids from 0 to "
            f"{sizes.vocabulary - 1}"
        )
    size = tokens.shape[1]
    if np.any((length < 1) | (length > size)):
        wrong = length[(length < 1) | (length > size)][0]
        raise InvalidInput(f"{what} gives a length of {int(wrong)}: needs 1 to {size} tokens")
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
    if np.any((last != END_TOKEN) & (length < size)):
        raise InvalidInput(
            f"{what} gives a text of {int(length[(last != END_TOKEN) & (length < size)][0])} tokens without an end "
            f"token: needs token {END_TOKEN} at the end, unless the text fills all {size} places"
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
    one = jax.tree.map(lambda x: x[0], views)
    with guarded(labeler, "outcomes"):
        shape = jax.eval_shape(lambda labeler, a, b: labeler.outcomes(a, b), labeler, one, one)
    require_array(named(labeler, "outcomes"), shape, (len(Outcome),), _OUTCOMES)
    with guarded(labeler, "preference"):
        shape = jax.eval_shape(lambda labeler, a, b: labeler.preference(a, b), labeler, one, one)
    require_array(named(labeler, "preference"), shape, (), "P(first is preferred)")
    with guarded(labeler):
        label = jax.eval_shape(
            lambda labeler, a, b: labeler(jax.random.key(0), a, b), labeler, one, one
        )
    require_kind(named(labeler), label, Label)
    for name in ("preference", "weight"):
        require_array(f"{named(labeler)}: `{name}`", getattr(label, name), (), "one number a label")

    @quick
    def answers(labeler: AbstractLabeler, a: View, b: View) -> tuple:
        labels = jax.vmap(lambda a, b: labeler(jax.random.key(0), a, b))(a, b)
        return jax.vmap(labeler.outcomes)(a, b), jax.vmap(labeler.preference)(a, b), labels

    with guarded(labeler, "outcomes"):
        pair = (jax.tree.map(lambda x, i=i: x[i], views) for i in (first, second))
        chance, preference, labels = jax.device_get(answers(labeler, *pair))
    check_chances(labeler, chance)
    for name, values in (("preference", preference), ("__call__", labels.preference)):
        require_finite(named(labeler, name), values, "comparisons")
        if np.any((values < -1e-5) | (values > 1 + 1e-5)):
            raise InvalidInput(
                f"{named(labeler, name)} gives the first a preference of {values.max():.6g}: needs 0 to 1"
            )


def check_chances(labeler: AbstractLabeler, chance: Float[np.ndarray, "n outcome"]) -> None:
    """Probabilities must be finite, from 0 to 1, and sum to one in each comparison. Raises `InvalidInput`."""
    what = named(labeler, "outcomes")
    require_finite(what, chance, f"numbers ({_OUTCOMES})")
    if np.any((chance < -1e-5) | (chance > 1 + 1e-5)):
        wrong = chance[(chance < -1e-5) | (chance > 1 + 1e-5)][0]
        raise InvalidInput(f"{what} gives an answer a probability of {wrong:.6g}: needs 0 to 1")
    totals = np.sum(np.asarray(chance, np.float64), axis=1)
    worst = int(np.argmax(np.abs(totals - 1)))
    if abs(totals[worst] - 1) > 1e-5:
        raise InvalidInput(
            f"{what} gives probabilities that sum to {totals[worst]:.6g}: needs a sum of one over "
            f"{', '.join(one.name.lower() for one in Outcome)}"
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
    material, key = task.material(), stream(jax.random.key(0), Stream.WORLD)
    see = lambda labeler, world, p, r: jax.vmap(functools.partial(labeler.view, world))(p, r)  # noqa: E731
    with guarded(task, "world"):
        world = jax.eval_shape(lambda t, m, k: t.world_on(m, k), task, material, key)
    with guarded(labeler, "view"):
        found = jax.eval_shape(see, labeler, world, prompts, texts)
    require_kind(named(labeler, "view"), found, View)
    if type(found) is View:
        require_like(named(labeler, "view"), found, plain, "a View of a response")
        return plain
    with guarded(task, "world"):
        world = quick(lambda t, m, k: t.world_on(m, k))(task, material, key)
    with guarded(labeler, "view"):
        return quick(see)(labeler, world, prompts, texts)
