"""Small data sets that lie inside installed packages: no download, no account, the same numbers everywhere.

    from groundup.data import digits

A loader finds its files without importing the package that carries them, and says in one line what to install if they
are not there.
"""

from groundup.data._digits import Split, digits

__all__ = ["Split", "digits"]
