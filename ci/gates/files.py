"""Gates that read files and run nothing."""

import ast
import json
import re
from collections.abc import Iterator

from ci.execute import OUTPUT_BYTES, out_of_date
from ci.gates import Course, Problem
from ci.lesson import BEGIN, END, Exercise, Lesson, LessonError, front_matter_line
from ci.sync import derive, stale

NOTEBOOK_BYTES = 1_000_000
CODE_WIDTH = 88  # characters beside the contents of a page 1,280 pixels wide
RECALL_QUESTIONS = 5
FEWEST_EXERCISES = 3


def form(course: Course) -> Iterator[Problem]:
    """A chapter keeps the agreed form (ci/lesson.py): front matter, exercises with difficulty, hints, regions."""
    yield from course.form


def drift(course: Course) -> Iterator[Problem]:
    """exercises/, solutions/, exported modules and catalogue are exactly what chapters/ generates."""
    if course.form:
        return  # nothing can be derived until the form is right
    try:
        files = derive(course.root)
    except LessonError as error:
        where, _, message = str(error).partition(": ")
        yield Problem("drift", where, message)
        return
    for path, text in files.items():
        target = course.root / path
        if not target.exists():
            yield Problem("drift", str(path), "is missing; run `make sync`")
        elif target.read_text(encoding="utf-8") != text:
            yield Problem("drift", str(path), "is not what chapters/ gives; run `make sync`")
    for path in stale(course.root, files):
        yield Problem("drift", str(path), "has no chapter any more; run `make sync`")


def fresh(course: Course) -> Iterator[Problem]:
    """The stored outputs come from today's source."""
    for lesson in course.lessons:
        if out_of_date(lesson, list(course.every)):
            yield Problem(
                "fresh", str(lesson.solution_path), "its outputs come from another source; run `make execute`"
            )


def coverage(course: Course) -> Iterator[Problem]:
    """Each lesson stands in the plan (ci/curriculum.toml), in its place, covers its rows, needs only earlier ones."""
    order = list(course.planned)
    for lesson in course.lessons:
        where = _says(lesson, "lesson")
        entry = course.planned.get(lesson.id)
        if entry is None:
            yield Problem("coverage", where, f"{lesson.id} is not in ci/curriculum.toml: add it there")
            continue
        if sorted(lesson.covers) != sorted(entry["rows"]):
            planned, said = sorted(entry["rows"]), sorted(lesson.covers)
            where = _says(lesson, "covers")
            yield Problem("coverage", where, f"covers {said}, but ci/curriculum.toml gives it {planned}")
        place = [i for i in order if i.split(".")[0] == lesson.part].index(lesson.id) + 1
        if int(lesson.path.stem[:2]) != place:
            where = _says(lesson, "lesson")
            yield Problem("coverage", where, f"is lesson {place} of its part by ci/curriculum.toml")
        where = _says(lesson, "needs")
        for need in lesson.needs:
            if need not in order:
                yield Problem("coverage", where, f"needs {need}, which is in no plan")
            elif order.index(need) >= order.index(lesson.id):
                yield Problem("coverage", where, f"needs {need}, which comes later")


def _says(lesson: Lesson, key: str) -> str:
    """`file:line` of what a lesson's front matter says under `key`."""
    text = (lesson.root / lesson.path).read_text(encoding="utf-8")
    return f"{lesson.path}:{front_matter_line(text, key)}"


def imports(course: Course) -> Iterator[Problem]:
    """No lesson imports from itself or a later one; earlier ones are imported by the lesson's module."""
    order = list(course.planned)
    for lesson in course.lessons:
        for cell in lesson.code():
            for node, module in _imported(cell.source):
                pieces = module.split(".")
                if pieces[0] != "groundup" or len(pieces) < 2 or pieces[1] not in course.parts:
                    continue
                where = f"{lesson.path}:{cell.line + node.lineno - 1}"
                identity = ".".join(pieces[1:3])
                if len(pieces) < 3:
                    yield Problem("imports", where, f"imports from {module}: name the lesson's module")
                elif identity not in order:
                    yield Problem("imports", where, f"imports from {module}, which is no lesson of the plan")
                elif lesson.id in order and order.index(identity) >= order.index(lesson.id):
                    which = "itself" if identity == lesson.id else f"{identity}, a later lesson"
                    yield Problem("imports", where, f"imports from {which}")


def independence(course: Course) -> Iterator[Problem]:
    """checks/ never imports what the lessons define: an oracle that calls the solution proves nothing."""
    for path in sorted((course.root / "src" / "groundup" / "checks").rglob("*.py")):
        package = ["groundup", *path.relative_to(course.root / "src" / "groundup").parts[:-1]]
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            where = f"{path.relative_to(course.root)}:{error.lineno}"
            yield Problem("independence", where, f"does not parse: {error.msg}")
            continue
        names = [(node, module) for node, module in _imported(tree, package)]
        # importlib.import_module("groundup.autograd.graph") and runpy are imports too.
        names += [
            (node, node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"[\w.]+", node.value)
        ]
        for node, module in names:
            pieces = module.split(".")
            if pieces[0] == "groundup" and len(pieces) > 1 and pieces[1] in course.parts:
                where = f"{path.relative_to(course.root)}:{node.lineno}"
                yield Problem("independence", where, f"imports {module}: the oracle must not be the solution")


def _imported(source: str | ast.AST, package: list[str] | None = None) -> Iterator[tuple[ast.AST, str]]:
    """Each import with the full name of the module it reads; `package` is where relative imports start."""
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (package or [])[: len(package or []) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            if module == "groundup":  # `from groundup import autograd` names a module in its list of names
                yield from ((node, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node, module


def hints(course: Course) -> Iterator[Problem]:
    """No hint is repeated: neither as another hint, nor elsewhere in a lesson's prose."""
    seen: dict[str, str] = {}
    for lesson in course.lessons:
        for exercise in lesson.exercises:
            where = f"{lesson.path}:{exercise.markdown.line}"
            for number, hint in enumerate(exercise.hints, 1):
                text = _plain(hint)
                if text in seen:
                    yield Problem(
                        "hints", where, f"hint {number} of {exercise.name} is also a hint of {seen[text]}"
                    )
                    continue
                seen[text] = exercise.name
                copies = sum(
                    _plain(cell.source).count(text) for cell in lesson.cells if cell.kind == "markdown"
                )
                if copies > 1 and len(text) > 20:
                    yield Problem(
                        "hints",
                        where,
                        f"hint {number} of {exercise.name} also stands elsewhere in the lesson",
                    )


def _plain(text: str) -> str:
    return " ".join(text.split())


def expected(course: Course) -> Iterator[Problem]:
    """The expected output beside each exercise is what the solved example printed."""
    for lesson in course.lessons:
        notebook = course.notebook(lesson.solution_path)
        if notebook is None or out_of_date(lesson, list(course.every)):
            continue  # `fresh` says so
        cells = {cell.id: cell for cell in notebook.cells}
        for exercise in lesson.exercises:
            example = cells.get(exercise.example.id)
            outputs = example.get("outputs", []) if example else []
            printed = "".join(
                out.text for out in outputs if out.output_type == "stream" and out.name == "stdout"
            )
            if printed.rstrip() != exercise.expected.rstrip():
                yield Problem(
                    "expected",
                    f"{lesson.path}:{exercise.markdown.line}",
                    f"{exercise.name} promises {_short(exercise.expected)}; the solved example prints {_short(printed)}",
                )


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else text[:77] + "…")


def stub(course: Course) -> Iterator[Problem]:
    """Stub and solution agree outside the regions, and no text of a solution reaches exercises/."""
    for lesson in course.lessons:
        notebook = course.notebook(lesson.exercise_path)
        if notebook is None:
            continue
        where = str(lesson.exercise_path)
        cells = {cell.id: cell for cell in notebook.cells}
        for cell in notebook.cells:
            if cell.get("outputs") or cell.get("execution_count"):
                yield Problem("stub", where, f"cell {cell.id} carries an output")
            if BEGIN in cell.source or END in cell.source:
                yield Problem("stub", where, f"cell {cell.id} holds a solution's marker")
        for exercise in lesson.exercises:
            blank = cells.get(exercise.code.id)
            if blank is None or blank.source.splitlines() != _blanked(exercise):
                yield Problem("stub", where, f"{exercise.name} differs from its solution outside the regions")
            for region in _regions(exercise.source):
                for cell in notebook.cells:
                    if _gives_away(region, cell.source):
                        yield Problem("stub", where, f"cell {cell.id} holds the solution of {exercise.name}")


def _blanked(exercise: Exercise) -> list[str]:
    """The stub as it must be, written here a second time so that sync's own way of cutting is checked."""
    lines, inside = [], False
    in_class, what = exercise.source.lstrip().startswith("class "), exercise.name
    for line in exercise.source.splitlines():
        if in_class and (method := re.match(r" {4}def (\w+)", line)):
            what = f"{exercise.name}.{method[1]}"
        if BEGIN in line:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f'{indent}raise NotImplementedError("write {what}")')
        elif END in line:
            inside = False
        elif not inside:
            lines.append(line)
    return lines


def _regions(source: str) -> list[list[str]]:
    """The code lines of each solution region, stripped of indentation, comments left out."""
    found: list[list[str]] = []
    inside = False
    for line in source.splitlines():
        if BEGIN in line:
            inside = True
            found.append([])
        elif END in line:
            inside = False
        elif inside and line.strip() and not line.strip().startswith("#"):
            found[-1].append(line.strip())
    return found


def _gives_away(region: list[str], text: str) -> bool:
    """Whether the whole region stands in `text`, line after line; one short line proves nothing."""
    if sum(map(len, region)) < 30:
        return False
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    return any(lines[i : i + len(region)] == region for i in range(len(lines) - len(region) + 1))


def anatomy(course: Course) -> Iterator[Problem]:
    """Each lesson has the parts that CONTRIBUTING.md asks for, as far as a program can see them."""
    for lesson in course.lessons:
        prose = "\n\n".join(cell.source for cell in lesson.cells if cell.kind == "markdown")
        for missing in _missing_parts(lesson, prose):
            yield Problem("anatomy", str(lesson.path), missing)


def _missing_parts(lesson: Lesson, prose: str) -> Iterator[str]:
    if "<!-- measured -->" not in prose:
        yield "lacks the line `<!-- measured -->` under its promise"
    if not any(lesson.code("setup")):
        yield "has no cell tagged setup"
    if not any(lesson.code("parameters")):
        yield "has no cell tagged parameters"
    if not any(lesson.code("interactive")):
        yield "has no interactive figure (a cell tagged interactive)"
    if len(lesson.exercises) < FEWEST_EXERCISES:
        yield f"has {len(lesson.exercises)} exercises; at least {FEWEST_EXERCISES} are asked for"
    headings = re.findall(r"^## (.+?)\s*$", prose, re.M)
    for heading in ("Prove it", "Break it", "Recall", "Read next"):
        if not any(h == heading or h.startswith(f"{heading}:") for h in headings):
            yield f"has no heading `## {heading}`"
    if "Recall" in headings and len(lesson.recall) != RECALL_QUESTIONS:
        yield f"has {len(lesson.recall)} recall questions; {RECALL_QUESTIONS} are asked for"


def sizes(course: Course) -> Iterator[Problem]:
    """Notebooks stay small: each output below 150 KB, each file below 1 MB."""
    for lesson in course.lessons:
        notebook = course.notebook(lesson.solution_path)
        for cell in notebook.cells if notebook is not None else []:
            for output in cell.get("outputs", []):
                if (size := len(json.dumps(output))) > OUTPUT_BYTES:
                    yield Problem(
                        "sizes",
                        str(lesson.solution_path),
                        f"cell {cell.id} has an output of {size // 1000} KB",
                    )
        for path in (lesson.exercise_path, lesson.solution_path):
            if (course.root / path).exists():
                size = (course.root / path).stat().st_size
                if size > NOTEBOOK_BYTES:
                    yield Problem("sizes", str(path), f"is {size // 1000} KB; 1,000 KB are allowed")


def width(course: Course) -> Iterator[Problem]:
    """Code fits the page: readers of the first lessons found lines cut off at the right."""
    for lesson in course.lessons:
        for cell in lesson.code():
            for number, line in enumerate(cell.source.splitlines(), start=cell.line):
                if len(line) > CODE_WIDTH:
                    where = f"{lesson.path}:{number}"
                    yield Problem(
                        "width", where, f"a line of {len(line)} characters; {CODE_WIDTH} fit the page"
                    )


GATES = (form, drift, fresh, coverage, imports, independence, hints, expected, stub, anatomy, sizes, width)
