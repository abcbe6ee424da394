"""Same: there is practically no effect."""

import dataclasses

from sweeps.rules.base import Rule


@dataclasses.dataclass(frozen=True)
class Same(Rule):
    """The claim says that there is practically no effect: between -`rope` and `rope`.

    Reproduced only if the whole interval lies between these two values. A rope of 0 is for effects that are known
    without error.
    """

    @property
    def limits(self) -> tuple[float, float]:
        return -self.rope, self.rope

    def words(self) -> tuple[str, str]:
        return f"|effect| ≤ {self.rope:g}", f"|effect| > {self.rope:g}"
