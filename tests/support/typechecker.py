"""The runtime type checker of the test run, named by the import hook in `conftest`."""

from typing import Self

from beartype import BeartypeConf, FrozenDict, beartype

#: jaxtyping decorates the methods of `equinox.Module` one by one, where beartype cannot resolve ``Self``.
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: object})))
