"""How calls to the library are checked against their annotations in tests: as type checkers read them."""

from beartype import BeartypeConf, beartype

# An int is welcome where a float is asked for (PEP 484's numeric tower); beartype alone would refuse it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
