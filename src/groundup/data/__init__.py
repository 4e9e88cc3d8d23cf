"""Small data sets that lie inside installed packages: no download, no account, the same numbers everywhere.

    from groundup.data import digits, shakespeare

A loader finds its files without importing the package that carries them, and says in one line what to install if they
are not there.
"""

from groundup.data._digits import Split, digits
from groundup.data._gpt2_ranks import gpt2_ranks
from groundup.data._shakespeare import Text, shakespeare

__all__ = ["Split", "Text", "digits", "gpt2_ranks", "shakespeare"]
