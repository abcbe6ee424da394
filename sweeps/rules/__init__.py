"""Rules that turn posterior draws of an effect into a verdict, one per file. Every module here is imported."""

import importlib
import pkgutil

from sweeps.rules.base import Described, Draws, Judgement, Rule, Side, Verdict
from sweeps.rules.more import More
from sweeps.rules.no_more import NoMore
from sweeps.rules.same import Same

__all__ = ["Described", "Draws", "Judgement", "More", "NoMore", "Rule", "Same", "Side", "Verdict"]

# A further rule needs no entry above: the import registers its kind for the reader of stored claims.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
