"""Builds the website into _build/html, with every warning an error. Nothing executes.

python -m ci.book            what changed since the last build
python -m ci.book --fresh    every page
python -m ci.book --draft    also when a lesson's outputs are missing or out of date (the page says so)
"""

import argparse
import logging
import shutil
import sys
import time
import warnings
from pathlib import Path

from ci.lesson import ROOT, LessonError

# Written after a clean build only: Sphinx repeats a page's warnings only when it reads the page again, so the build
# after a failed one must read everything.
CLEAN = Path("_build", ".clean")


def build(root: Path = ROOT, *, fresh: bool = False, draft: bool = False, quiet: bool = True) -> int:
    """Builds the site of the course at `root`; returns 0, or 1 if anything was wrong (said on stderr)."""
    from jupyter_book.sphinx import build_sphinx

    target, clean = root / "_build" / "html", root / CLEAN
    again = fresh or not clean.exists()
    clean.unlink(missing_ok=True)
    if again:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
    settings = {
        "external_toc_path": (root / "_toc.yml").as_posix(),
        "nitpicky": True,
        "latex_individualpages": False,
    }
    if draft:
        settings["suppress_warnings"] = ["etoc.glob", "groundup.outputs"]
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    result = build_sphinx(
        root,
        target,
        noconfig=True,
        path_config=root / "_config.yml",
        confoverrides=settings,
        warningiserror=True,
        keep_going=True,
        freshenv=again,
        quiet=quiet,
    )
    if result:
        print("the site was not built cleanly: see above", file=sys.stderr)
        return 1
    clean.write_text("The site in html/ was built without a warning.\n", encoding="utf-8")
    return 0


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.book", description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="read and write every page again")
    parser.add_argument("--draft", action="store_true", help="allow lessons whose outputs are out of date")
    parser.add_argument("--verbose", action="store_true", help="show what Sphinx does")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        failed = build(root, fresh=options.fresh, draft=options.draft, quiet=not options.verbose)
    except LessonError as error:
        print(error, file=sys.stderr)
        return 2
    if not failed:
        print(
            f"site built in {time.perf_counter() - started:.0f} s: {root / '_build' / 'html' / 'index.html'}"
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
