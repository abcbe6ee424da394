"""People's ratings of how positive a text is, as a pretrained transformer predicts them."""

from pathlib import Path

from jaxtyping import PRNGKeyArray

from envs import ratings, regression
from envs.goldens.headed import AbstractHeaded
from envs.pretrained_rewards import AbstractTaste
from envs.regression import STANDARD, Fitted, Split
from testbed import numerics
from testbed.cache import Cache
from testbed.config import fingerprint
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.paths import cache_directory
from testbed.policies import features, pretrained
from testbed.policies.pretrained import Pretrained, Tokenizer
from testbed.proxies.linear_head import Head
from testbed.stages import code as stage_code
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response


class HumanRating(AbstractHeaded):
    """A linear function of standardised mean activations, in points of the rating scale from -4 to 4."""

    trunk: Pretrained
    head: Head

    @classmethod
    def learnt(
        cls,
        trunk: Pretrained,
        tokenizer: Tokenizer,
        archive: Path,
        directory: Path,
        split: Split = STANDARD,
    ) -> Fitted:
        """The head of a trunk. It is learnt once from an archive, and kept in a ``directory`` under a name that covers
        everything the head depends on. Raises `InvalidInput` for an archive that cannot be read."""
        cache = Cache(directory)
        address = _address(trunk, tokenizer.begin, split)
        fitted = cache.load(address)
        if fitted is None:
            fitted = regression.learn(trunk, tokenizer, ratings.read(archive), split)
            cache.save(address, fitted)
        return fitted


class HumanTaste(AbstractTaste):
    """What people call positive, as far as a linear function of activations predicts it (`HumanRating`).

    Attributes:
        layers: blocks of the checkpoint that are read.
    """

    layers: int = hyper(15, least=1, static=True)

    def refuse(self, model: TransformerConfig) -> None:
        """See `AbstractTaste`; rated texts are read behind one end token."""
        features.refuse_layers(model, self.layers, "golden.layers")
        needed = 1 + regression.WIDTHS[-1]
        if model.room is not None and model.room < needed:
            raise InvalidInput(
                f"golden must be another reward than HumanTaste, which learns from rated texts of up to {needed} "
                f"tokens, for a checkpoint with positions for {model.room}"
            )

    def learn(self, model: Pretrained, tokenizer: Tokenizer) -> Head:
        """The head; downloads the ratings and fits the head if this has not been done."""
        # Imported when used, like everything that only pretrained models need.
        from testbed.llm import fetch

        directory = cache_directory() / "heads"
        return HumanRating.learnt(
            model.trunk(self.layers), tokenizer, fetch.ratings(), directory
        ).head

    def golden(
        self, key: PRNGKeyArray, model: Pretrained, learnt: Head, prompts: Prompt, samples: Response
    ) -> HumanRating:
        """The same golden reward in every world."""
        return HumanRating(model.trunk(self.layers), learnt)


def _address(trunk: Pretrained, begin: tuple[int, ...], split: Split) -> str:
    """A hash of everything that a learnt head depends on: the checkpoint's files, the shape of its trunk, ratings,
    code, libraries and settings."""
    checkpoint = pretrained.content(trunk.source.checkpoint)
    code = stage_code.installed().hash_of([__name__])
    settings = numerics.settings()
    parts = (checkpoint, trunk.model.config, begin, *split, ratings.CHECKSUM, code, settings)
    return fingerprint("human rating", *parts)
