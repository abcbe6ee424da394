"""Configs: trees of modules, changed by path, spelt as text, checked by ranges."""

from testbed.config.canonical_form import canonical as canonical
from testbed.config.canonical_form import describe as describe
from testbed.config.canonical_form import field_names as field_names
from testbed.config.canonical_form import fingerprint as fingerprint
from testbed.config.canonical_form import flatten as flatten
from testbed.config.canonical_form import jsonable as jsonable
from testbed.config.canonical_form import spell as spell
from testbed.config.overrides import admits as admits
from testbed.config.overrides import get as get
from testbed.config.overrides import members as members
from testbed.config.overrides import parse as parse
from testbed.config.overrides import parts as parts
from testbed.config.overrides import replace as replace
from testbed.config.overrides import replace_all as replace_all
from testbed.config.overrides import varied as varied
from testbed.errors import unknown as unknown
