"""Checks the shapes and types of functions while the tests run (addopts in pyproject.toml)."""

from beartype import BeartypeConf, beartype

# With the numeric tower an int is welcome where a float is asked for.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
