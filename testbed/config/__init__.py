"""Configs: trees of modules, changed by path, spelt as text, checked by ranges."""

from testbed.config.overrides import (
    admits,
    canonical,
    describe,
    field_names,
    fingerprint,
    flatten,
    get,
    jsonable,
    members,
    parse,
    parts,
    replace,
    replace_all,
    spell,
    unknown,
    varied,
)

__all__ = [
    "admits",
    "canonical",
    "describe",
    "field_names",
    "fingerprint",
    "flatten",
    "get",
    "jsonable",
    "members",
    "parse",
    "parts",
    "replace",
    "replace_all",
    "spell",
    "unknown",
    "varied",
]
