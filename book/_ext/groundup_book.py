"""The course's Sphinx extension: lesson pages, the map of the course, and assets from packages.

What it does, in the order of a build: gives myst-nb a reader for each chapter; fills `[[lesson.id]]` and
`<!-- part … -->` and the like in the hand-written pages; shapes exercises; loads on each page only the scripts it needs; copies
MathJax, plotly.js and the exercise notebooks beside the pages, so that the site asks no other host for anything.
"""

import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import lesson_page  # noqa: E402  (needs ROOT on the path for ci.lesson)
import study_pages  # noqa: E402

from ci.lesson import chapters, read_notebook, write_notebook  # noqa: E402

LOGGER = logging.getLogger("groundup")
LESSON = re.compile(r"\[\[([a-z0-9_]+\.[a-z0-9_]+)\]\]")
PART = re.compile(r"^<!-- part (?P<id>\w+): (?P<line>.+) -->$", re.M)
MATH_AND_MARK = re.compile(r'(<span class="math[^>]*>[^<]*</span>)([.,;:!?)’”]+)')
FLASHCARDS = "<!-- flashcards -->"
LADDER = "<!-- ladder -->"
PROGRESS = "<!-- progress -->"
OWNED = re.compile(r"^<!-- owned (?P<id>\w+) -->$", re.M)
REVISION = 'REVISION = "main"'
# The files of MathJax that pages load, and those that it asks for when a formula needs them.
MATHJAX = (
    "startup.js", "core.js", "input/tex.js", "output/chtml.js", "a11y/assistive-mml.js",
    "output/chtml/fonts/tex.js", "output/chtml/fonts/woff-v2", "input/tex/extensions",
)  # fmt: skip
# Scripts and styles that a page keeps; the rest of what the extensions of Jupyter Book add is for features not in use.
SCRIPTS = (
    "documentation_options.js", "doctools.js", "sphinx_highlight.js", "clipboard.min.js", "copybutton.js",
    "sphinx-book-theme.js", "searchtools.js", "language_data.js", "searchindex.js",
)  # fmt: skip
STYLES = ("pygments.css", "sphinx-book-theme.css", "mystnb.", "copybutton.css", "course.css")


class Course:
    """The plan (ci/curriculum.toml) and which of its lessons are written (chapters/)."""

    def __init__(self, root: Path):
        self.parts = tomllib.loads((root / "ci" / "curriculum.toml").read_text(encoding="utf-8"))["part"]
        self.ready: dict[str, str] = {}  # lesson id: page relative to the site's root, without .html
        self.titles: dict[str, str] = {}
        self.number: dict[str, str] = {}
        for part in self.parts:
            for place, lesson in enumerate(part["lesson"], 1):
                self.titles[lesson["id"]] = lesson["title"]
                self.number[lesson["id"]] = f"{part['number']}.{place}"
        for path in chapters(root):
            identity = f"{path.parent.name[3:]}.{path.stem[3:]}"
            self.ready[identity] = path.relative_to(root).with_suffix("").as_posix()
            title = re.search(r"^title: (.+)$", path.read_text(encoding="utf-8"), re.M)
            self.titles[identity] = title[1].strip("\"'") if title else identity

    def part_of(self, identity: str) -> dict:
        return next(part for part in self.parts if part["id"] == identity.split(".")[0])


def repository() -> str:
    """owner/name, from the publishing CI if it says so."""
    given = os.environ.get("GITHUB_REPOSITORY")
    return given or _url().removeprefix("https://github.com/").strip("/")


def _url() -> str:
    import yaml

    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def add_configuration(app: Sphinx, config) -> None:
    # What pages depend on besides their sources is configuration, so that Sphinx reads all pages again when it changes.
    config.groundup_repository = repository()
    config.groundup_revision = os.environ.get("GROUNDUP_PUBLISH_REVISION", "")
    makers = [*Path(__file__).parent.glob("*.py"), ROOT / "ci" / "lesson.py"]
    config.groundup_makers = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(makers))
    ).hexdigest()


def add_readers(app: Sphinx) -> None:
    """One reader for each chapter. Registering `.md` itself would take the hand-written pages too."""
    app.set_html_assets_policy("per_page")
    app.groundup_course = course = Course(Path(app.srcdir))
    branch = "gh-pages" if app.config.groundup_revision else "main"
    colab = f"https://colab.research.google.com/github/{app.config.groundup_repository}/blob/{branch}/"
    for page in course.ready.values():
        notebook = page.replace("chapters/", "exercises/", 1) + ".ipynb"
        links = lesson_page.Links(
            colab=colab + notebook,
            download=f"../../{notebook}",
            titles=course.titles,
            pages={key: value.removeprefix("chapters/") + ".html" for key, value in course.ready.items()},
        )
        path = str(Path(app.srcdir, page + ".md"))
        options = {"path": path, "root": str(app.srcdir), "links": links}
        app.env.mystnb_config.custom_formats[page + ".md"] = (read_lesson, options, False)


def read_lesson(text: str, *, path: str, root: str, links: lesson_page.Links):
    def warn(message: str) -> None:
        LOGGER.warning(message, type="groundup", subtype="outputs")

    return lesson_page.notebook(path, root, links, warn)


def note_dependencies(app: Sphinx, docname: str, source: list[str]) -> None:
    """A page is out of date also when only the notebook behind it changed; and fills the hand-written pages."""
    course = app.groundup_course
    if docname.startswith("chapters/"):
        for folder in ("solutions", "exercises"):
            app.env.note_dependency(docname.replace("chapters", folder, 1) + ".ipynb")
        return
    for page in course.ready.values():
        app.env.note_dependency(page + ".md")
    app.env.note_dependency("ci/curriculum.toml")
    up = "../" * docname.count("/")

    def lesson_link(match: re.Match) -> str:
        identity = match[1]
        if identity not in course.titles:
            LOGGER.warning("no lesson is called %s", identity, location=docname)
        name = f"{course.number.get(identity, '')} {course.titles.get(identity, identity)}".strip()
        return (
            f"[{name}]({up}{course.ready[identity]}.md)" if identity in course.ready else f"{name} (coming)"
        )

    source[0] = source[0].replace("<!-- strata -->", strata(course))
    if FLASHCARDS in source[0]:
        cards = study_pages.flashcards(Path(app.srcdir), course.ready, course.number)
        source[0] = source[0].replace(FLASHCARDS, cards)
    if PROGRESS in source[0]:
        page = study_pages.progress(Path(app.srcdir), course.ready, up)
        source[0] = source[0].replace(PROGRESS, page)
    asked = OWNED.search(source[0])
    if asked or LADDER in source[0]:
        for page in course.ready.values():
            app.env.note_dependency(page.replace("chapters", "solutions", 1) + ".ipynb")
    if LADDER in source[0]:
        source[0] = source[0].replace(
            LADDER, study_pages.ladder(Path(app.srcdir), course.ready, course.number)
        )
    if asked:
        app.env.note_dependency(study_pages.PROOFS)
        pages = study_pages.owned(Path(app.srcdir), asked["id"], course.ready, course.number)
        source[0] = source[0].replace(asked[0], pages)
    source[0] = PART.sub(lambda match: part_card(course, match["id"], match["line"]), source[0])
    source[0] = LESSON.sub(lesson_link, source[0])


def strata(course: Course) -> str:
    """The picture of the home page: the parts as layers of ground, the ready ones solid, each a link to its place."""
    started = {identity.split(".")[0] for identity in course.ready}
    layers = "".join(
        f'<li><a class="{"is-ready" if part["id"] in started else "is-coming"}" href="#part-{part["id"]}">'
        f"{html.escape(part['title'])}</a></li>"
        for part in course.parts
    )
    return f'<ol class="strata">{layers}</ol>'


def part_card(course: Course, identity: str, line: str) -> str:
    """One part on the home page: what is ready as links, the rest folded. One HTML block: no blank lines."""
    part = next(part for part in course.parts if part["id"] == identity)
    ready = [lesson["id"] for lesson in part["lesson"] if lesson["id"] in course.ready]
    coming = [lesson["id"] for lesson in part["lesson"] if lesson["id"] not in course.ready]
    number = part["number"]

    def item(lesson: str, link: bool) -> str:
        title = html.escape(course.titles[lesson])
        name = f'<a href="{course.ready[lesson]}.html">{title}</a>' if link else title
        return f'<li><span class="number">{course.number[lesson]}</span> {name}</li>'

    links = f'<ul class="ready">{"".join(item(lesson, True) for lesson in ready)}</ul>' if ready else ""
    more = f"{len(coming)} {'more ' * bool(ready)}lesson{'s' * (len(coming) != 1)} coming"
    rest = "".join(item(lesson, False) for lesson in coming)
    folded = f'<details><summary>{more}</summary><ul class="coming">{rest}</ul></details>' if coming else ""
    return (
        f'<section class="part{" is-ready" if ready else ""}" id="part-{identity}"><p class="part-number" aria-hidden="true">{number}</p>'
        f'<div><h3><span class="visually-hidden">Part {number}: </span>{html.escape(part["title"])}</h3>'
        f"<p>{html.escape(line)}</p>{links}{folded}</div></section>"
    )


def outdated(app: Sphinx, env, added: set, changed: set, removed: set) -> list[str]:
    """A new or removed lesson changes the map, the sidebar and the 'first' links of other lessons."""
    return sorted(env.found_docs - added - changed) if added or removed else []


def shape_exercises(app: Sphinx, doctree: nodes.document) -> None:
    """Makes an exercise's section end after its check, so that the section is the box that readers see."""
    if not app.env.docname.startswith("chapters/"):
        return
    for section in list(doctree.findall(nodes.section)):
        if not section[0].astext().startswith("Exercise: "):
            continue
        title = section[0]
        if isinstance(title[0], nodes.Text):  # course.css says "Exercise" above it
            title.replace(title[0], nodes.Text(title[0].removeprefix("Exercise: ")))
        section["classes"].append("exercise")
        checks = [
            place
            for place, node in enumerate(section.children)
            if "tag_exercise-check" in node.get("classes", ())
        ]
        parent, place = section.parent, section.parent.index(section)
        rest = section.children[checks[0] + 1 :]
        for node in rest:
            section.remove(node)
        for offset, node in enumerate(rest, 1):
            parent.insert(place + offset, node)


def dress_page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Keeps the scripts and styles that this page needs, and says above a lesson's title where in the course it is."""
    # The label would hide what the summary says ("Show the solution") from people who listen to the page.
    body = context["body"] = context.get("body", "").replace(' aria-label="Toggle hidden content"', "")
    # A line must not begin with the full stop after a formula.
    body = context["body"] = MATH_AND_MARK.sub(r'<span class="nobreak">\1\2</span>', body)
    math = 'class="math' in body
    figures = 'class="figure-plot"' in body

    def wanted(script) -> bool:
        name = str(getattr(script, "filename", script) or "")
        if not name:  # written into the page: MathJax's settings
            return math and "MathJax" in str(script.attributes.get("body", ""))
        return any(part in name for part in SCRIPTS) or (math and "mathjax" in name)

    context["script_files"] = [script for script in context["script_files"] if wanted(script)]
    if pagename != "search":  # words in the search page itself use its scripts
        context["script_files"] = [deferred(script) for script in context["script_files"]]
    context["css_files"] = [
        sheet for sheet in context["css_files"] if any(part in str(sheet.filename) for part in STYLES)
    ]
    context["groundup_figures"] = figures
    context["groundup_formulas"] = math
    context["groundup_description"] = description(body)
    identity = next((key for key, page in app.groundup_course.ready.items() if page == pagename), None)
    if identity:
        course = app.groundup_course
        part = course.part_of(identity)
        place = course.number.get(identity, "").partition(".")[2]
        eyebrow = f"Part {part['number']} · {html.escape(part['title'])}" + (
            f" · Lesson {place}" if place else ""
        )
        context["body"] = body.replace("<h1>", f'<p class="eyebrow">{eyebrow}</p><h1>', 1)


def deferred(script):
    """A copy of `script`, which other pages share, that runs when the page is there, in its order: no page waits for it."""
    if not getattr(script, "filename", None):
        return script
    return type(script)(script.filename, priority=script.priority, **{**script.attributes, "defer": "defer"})


def description(body: str) -> str:
    """The page's first paragraph as plain text, cut at a word: what a search engine or a shared link shows."""
    found = re.search(r"</h1>.*?<p(?:\s[^>]*)?>(.*?)</p>", body, re.S)
    words = html.unescape(re.sub(r"<[^>]+>", "", found[1])).split() if found else []
    text = " ".join(words)
    return text if len(text) <= 160 else text[:160].rsplit(" ", 1)[0] + " …"


def copy_assets(app: Sphinx, error: Exception | None) -> None:
    """Puts what pages load from packages, and the exercise notebooks, beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    # Sphinx copies these too, but not when no page is out of date.
    shutil.copytree(Path(app.srcdir, "book", "_static"), static, dirs_exist_ok=True)
    mathjax = package("mathjax", "django-static-mathjax") / "static" / "mathjax" / "es5"
    for name in MATHJAX:
        _copy(mathjax / name, static / "mathjax" / name)
    _copy(package("plotly", "plotly") / "package_data" / "plotly.min.js", static / "plotly.min.js")
    from groundup.show import style

    palettes = {"base": style.COLOURS, "light": style.LIGHT, "dark": style.DARK}
    (static / "palettes.js").write_text(
        f"window.groundupPalettes = {json.dumps(palettes)};\n", encoding="utf-8"
    )
    (static / "lessons.js").write_text(
        f"window.groundupLessons = {json.dumps(study_pages.index(Path(app.srcdir), app.groundup_course.ready))};\n",
        encoding="utf-8",
    )
    # Not for pages: templates, source maps, and the icon font (4 MB; course.css has a dozen small drawings instead).
    unused = [static / "vendor", static / "locales", *static.glob("scripts/fontawesome*")]
    for path in [*unused, *static.glob("*.html"), *static.rglob("*.map"), *static.glob("sphinx-thebe.*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for page in app.groundup_course.ready.values():
        name = page.replace("chapters/", "exercises/", 1) + ".ipynb"
        if Path(app.srcdir, name).exists():
            publish(Path(app.srcdir, name), Path(app.outdir, name), app.config)


def package(module: str, distribution: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        RuntimeError: it is not installed.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"the site needs the package {distribution}: run `make setup`")
    return Path(next(iter(found.submodule_search_locations)))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif not target.exists() or target.stat().st_size != source.stat().st_size:
        shutil.copyfile(source, target)


def publish(source: Path, target: Path, config) -> None:
    """The exercise notebook beside the site; when publishing, it installs the course at the published commit.

    Raises:
        RuntimeError: the setup cell has not exactly one line that says which revision to install.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not config.groundup_revision:
        shutil.copyfile(source, target)
        return
    notebook = read_notebook(source)
    setup = [cell for cell in notebook.cells if cell.source.count(REVISION) == 1]
    if len(setup) != 1:
        raise RuntimeError(f"{source}: expected one cell with the line {REVISION}")
    url = f"https://github.com/{config.groundup_repository}"
    setup[0].source = setup[0].source.replace(REVISION, f'REVISION = "{config.groundup_revision}"')
    setup[0].source = setup[0].source.replace(f"git+{_url()}@", f"git+{url}@")
    target.write_text(write_notebook(notebook), encoding="utf-8", newline="\n")


def setup(app: Sphinx) -> dict:
    app.add_config_value("groundup_repository", "", "env")
    app.add_config_value("groundup_revision", "", "env")
    app.add_config_value("groundup_makers", "", "env")
    app.connect("config-inited", add_configuration)
    app.connect("builder-inited", add_readers, priority=900)  # after myst-nb has made its configuration
    app.connect("source-read", note_dependencies)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-read", shape_exercises, priority=400)  # before the contents are collected
    app.connect("html-page-context", dress_page, priority=990)  # after every extension has added its files
    app.connect("build-finished", copy_assets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
