"""The text world: English text by a pretrained model, with a golden reward computed from a model's activations or
tokens.

Prompts are openings of reviews, messages and editorials, which are continued, or requests, which are answered. The
pretrained model takes the part of the human writers. The golden reward is made by a
`envs.pretrained_rewards.AbstractTaste`, and standardised within prompts over the model's own samples.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from envs import prompts, ratings
from envs.goldens.human_rating import HumanTaste
from envs.goldens.residual import Residual
from envs.pretrained_rewards import AbstractTaste
from envs.prompts import Form, ListedPrompts
from envs.writers import PretrainedWriters
from testbed import decode
from testbed.config import ranges, user_code
from testbed.config.ranges import hyper
from testbed.environment import AbstractTask, World
from testbed.errors import InvalidInput
from testbed.paths import expanded
from testbed.policies import pretrained
from testbed.policies.pretrained import Pretrained, Tokenizer
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt


class SharedText(eqx.Module):
    """Data that all text worlds of a task share.

    Attributes:
        model: the checkpoint, renumbered, at the task's temperature. prompts, held_out: prompts of the file that worlds
            draw from, and prompts that they do not. learnt: data that the golden reward needs.
    """

    model: Pretrained
    prompts: Prompt
    held_out: Prompt
    learnt: PyTree


class Text(AbstractTask):
    """A world of English.

    Attributes:
        vocabulary: token ids of the checkpoint, the end token included. prompt_length, response_length: tokens.
        checkpoint: a name that `testbed.llm.load` knows. temperature: of the policy and of the model as its writers.
        golden: what is liked. without_length: whether the dependence of the reward on length is removed.
        prompts: a JSON Lines file (`envs.prompts`), none for the project's own. chat: whether prompts are requests to
            be answered, in the checkpoint's format of conversations, and not openings to be continued. system: the
            system prompt of conversations without one; empty and none add none; empty also leaves out SmolLM2's own.
    """

    checkpointed = True
    standardised = True
    standardising = (32, 8)

    vocabulary: int = hyper(49_152, least=2, static=True)
    prompt_length: int = hyper(24, least=2, static=True)
    response_length: int = hyper(32, least=1, static=True)
    checkpoint: str = eqx.field(static=True, default="smollm2")
    temperature: float = hyper(0.7, above=0, static=True)
    golden: AbstractTaste = HumanTaste()
    without_length: bool = eqx.field(static=True, default=False)
    prompts: str = eqx.field(static=True, default="")
    chat: bool = eqx.field(static=True, default=False)
    system: str | None = eqx.field(static=True, default="")

    def __check_init__(self) -> None:
        ranges.check(self)

    @property
    def file(self) -> Path:
        """The file of the prompts."""
        return Path(expanded(self.prompts)) if self.prompts else prompts.own(self.chat)

    def loaded(self) -> tuple[Pretrained, Tokenizer]:
        """The checkpoint, loaded once a process. Raises `InvalidInput` if its vocabulary has another size, if it has
        too few positions for the task's texts, or too few blocks for the golden reward."""
        model, tokenizer = pretrained.pretrained(self.checkpoint)
        found = model.model.vocabulary
        if found != self.vocabulary:
            raise InvalidInput(
                f"vocabulary must be that of checkpoint {self.checkpoint}, {found}, got {self.vocabulary}"
            )
        self._refuse(model.model.config)
        return model.configured(temperature=self.temperature), tokenizer

    def _refuse(self, shape: TransformerConfig) -> None:
        """Raise `InvalidInput` for a checkpoint that is too small: beyond the last position that was trained, its
        results have no meaning."""
        longest, room = self.prompt_length + self.response_length, shape.room
        if room is not None and longest > room:
            raise InvalidInput(
                f"prompt_length + response_length must be at most the {room} positions that checkpoint "
                f"{self.checkpoint} was trained for, got {self.prompt_length} + {self.response_length} = {longest}"
            )
        self.golden.refuse(shape)

    def check(self) -> None:
        """Refuse prompts that cannot be used: a file that cannot be read, a prompt that the checkpoint's chat template
        refuses, or one that is too long. Loads the checkpoint."""
        self._given()

    def material(self) -> SharedText:
        """The checkpoint, the prompts, and the learnt data of the golden reward; downloaded if missing."""
        (model, tokenizer), given = self.loaded(), self._given()
        apart = prompts.is_held_out(given.length.shape[0])
        drawn, held_out = (
            jax.tree.map(lambda x, own=own: x[own], given) for own in (~apart, apart)
        )
        return SharedText(model, drawn, held_out, self.golden.learn(model, tokenizer))

    def world(self, key: PRNGKeyArray) -> World:
        """Draw a world, its golden reward standardised within prompts over the model's samples. Loads the checkpoint.
        Compiled programs should use `world_on` with `material` as an argument, because weights inside of a program
        become constants."""
        return _drawn(self, self.material(), key)

    def world_on(self, material: SharedText, key: PRNGKeyArray) -> World:
        """`world` from the task's `material`."""
        k_prompts, k_samples, k_golden = jax.random.split(key, 3)
        source, model = ListedPrompts(material.prompts), material.model
        count, each = self.standardising
        asked = jax.vmap(source)(jax.random.split(k_prompts, count))
        keys = jax.random.split(k_samples, count)
        samples = decode.sample(model.model, asked, keys, self.response_length, each).response
        golden = self.golden.golden(k_golden, model, material.learnt, asked, samples)
        golden = Residual.standardised(golden, asked, samples, self.without_length)
        return World(source, PretrainedWriters(model, self.response_length), golden)

    def world_with(self, material: SharedText, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world_on`: the writers are the checkpoint in every world."""
        return self.world_on(material, key)

    def policy(self, material: SharedText) -> Transformer:
        """The checkpoint."""
        return material.model.model

    def shape(self, model: TransformerConfig) -> TransformerConfig:
        """The checkpoint's shape; loads the checkpoint."""
        shape = self.loaded()[0].model.config
        return dataclasses.replace(
            shape, checkpointing=model.checkpointing, precision=model.precision
        )

    def prompt(self, text: str) -> Prompt:
        """A person's text as a prompt. Raises `InvalidInput` if it is empty, or too long."""
        return prompts.one(text, self.loaded()[1], self._form)

    def text(self, tokens: Sequence[int]) -> str:
        """The readable text of a response, up to its end token, as it reads behind its prompt."""
        return self.loaded()[1].decode(np.asarray(tokens))

    def prompt_text(self, tokens: Sequence[int]) -> str:
        """The readable text of a whole prompt, special tokens spelt out."""
        return self.loaded()[1].decode_prompt(np.asarray(tokens))

    def words(self) -> tuple[str, ...]:
        """The readable text of each token, a leading space included."""
        return self.loaded()[1].words(self.vocabulary)

    @property
    def _form(self) -> Form:
        return Form(self.chat, self.system, self.prompt_length)

    def _given(self) -> Prompt:
        """All prompts of the file."""
        return _encoded(self.file, _digest(self.file), self.loaded()[1], self._form)

    def content(self) -> str:
        """A text that identifies the content of the prompts' file and its tokens (a chat template may write the date),
        of all files of the checkpoint, and of the ratings."""
        tokens = np.asarray(self._given().tokens)
        read = hashlib.sha256(tokens.tobytes()).hexdigest()
        return (
            f"{_digest(self.file)} {read} {pretrained.content(self.checkpoint)} {ratings.CHECKSUM}"
        )


@functools.lru_cache(maxsize=8)
def _encoded(file: Path, digest: str, tokenizer: Tokenizer, form: Form) -> Prompt:
    """`envs.prompts.encoded` of a file, once a process for each content; ``digest`` identifies the content."""
    return prompts.encoded(file, tokenizer, form)


def _digest(file: Path) -> str:
    """A hash of a file's content; empty if the file cannot be read, which `envs.prompts.read` refuses."""
    try:
        return user_code.file_hash(file)
    except (OSError, ValueError):
        return ""


@eqx.filter_jit
def _drawn(task: Text, material: SharedText, key: PRNGKeyArray) -> World:
    return task.world_on(material, key)
