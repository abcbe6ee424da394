"""Seeds of parts of an experiment: which parts a new seed redraws, and which parts several seeds share."""

from typing import NamedTuple

import equinox as eqx

from testbed.config import ranges
from testbed.config.canonical_form import read
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput

#: The largest seed.
LAST = 2**31 - 1


class UsedSeeds(NamedTuple):
    """The seeds that the parts of an experiment are drawn from."""

    golden: int
    writers: int
    labels: int
    training: int


class Seeds(eqx.Module):
    """Seeds of parts of an experiment; None: the experiment's ``seed``, or for golden reward and writers the first seed
    of its family. Everything else (prompts, the writers' texts, SFT, proxy, opponent) is drawn from ``seed``.

    Attributes:
        golden: of the world: its golden reward and its distribution of prompts.
        writers: of the population of writers. It may differ from the golden reward's seed only for tasks that can draw
            the two apart (`testbed.environment.AbstractTask.world_with`).
        labels: of D_golden's labels.
        training: of the policy's training and evaluations, and of the recorded run that a source or an evaluation uses.
        training_shift: added to ``seed`` if ``training`` is None. All worlds of an arm then train with other random
            numbers than without the shift, and no two worlds with the same ones.
        families: number of consecutive seeds that share golden reward and writers. A family is named by its first seed:
            with 4, the seeds 100 to 103 take golden reward and writers from seed 100.
    """

    golden: int | None = hyper(None, least=0, most=LAST)
    writers: int | None = hyper(None, least=0, most=LAST)
    labels: int | None = hyper(None, least=0, most=LAST)
    training: int | None = hyper(None, least=0, most=LAST)
    training_shift: int = hyper(0, least=0, most=LAST)
    families: int = hyper(1, least=1)

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.training is not None and self.training_shift:
            raise InvalidInput(
                f"training_shift must be 0 where training is set, got {self.training_shift} and {self.training}"
            )

    def of(self, seed: int) -> UsedSeeds:
        """The seeds of the parts of an experiment with this seed."""
        family = seed - seed % read(self, "families")
        given = {
            "golden": family,
            "writers": family,
            "labels": seed,
            "training": seed + read(self, "training_shift"),
        }
        chosen = {name: read(self, name) for name in given}
        return UsedSeeds(
            **{name: given[name] if one is None else one for name, one in chosen.items()}
        )
