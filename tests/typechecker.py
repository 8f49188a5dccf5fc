"""What checks the shapes and types of every public function while the tests run (see addopts in pyproject.toml)."""

from beartype import BeartypeConf, beartype

check = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # an int is welcome where a float is asked for
