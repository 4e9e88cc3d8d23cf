"""The process in which `groundup check` runs a notebook's definitions; see groundup.notebook.

Reads a plan (JSON) from stdin and writes one JSON line per event to what was stdout when it started. The notebook
itself gets a stdout, a stderr and a stdin that lead nowhere.
"""

import json
import linecache
import os
import sys
import traceback
import types


def main() -> None:
    """Run the plan's cells in one namespace, then grade the plan's exercises."""
    plan = json.loads(sys.stdin.buffer.read())
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (the old one is at its end)
    os.environ["GROUNDUP_NO_RECORD"] = "1"  # `groundup check` records, once it knows whose work it is

    def tell(event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}), file=channel, flush=True)

    from groundup.check import grade

    # As in a kernel: the notebook is __main__, and modules beside it can be imported.
    os.chdir(plan["folder"])
    sys.path.insert(0, plan["folder"])
    notebook = types.ModuleType("__main__")
    sys.modules["__main__"] = notebook
    for cell in plan["cells"]:
        tell("cell", number=cell["number"], seconds=cell["seconds"])
        why = run(cell, vars(notebook))
        if why is not None:
            tell("failed", number=cell["number"], message=why)
    for exercise in plan["exercises"]:
        name = exercise["name"]
        if name not in vars(notebook):
            tell("absent", id=exercise["id"], name=name)
            continue
        tell("grade", id=exercise["id"], name=name, seconds=plan["grading_seconds"])
        status, message = grade_one(grade, exercise["id"], vars(notebook)[name])
        tell("result", id=exercise["id"], status=status, message=message)
    tell("end")
    os._exit(0)  # threads or handlers that the notebook left behind have no say


def run(cell: dict, namespace: dict) -> str | None:
    """Execute one cell as a kernel would; None, or what went wrong in the form 'stopped with …'."""
    source, filename = cell["source"], f"<cell {cell['number']}>"
    before = {name: namespace.get(name) for name in cell["defines"]}
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    try:
        exec(compile(source, filename, "exec", dont_inherit=True), namespace)
    except BaseException as error:  # sys.exit() and its like must not end the other exercises' checks
        for name, old in before.items():
            if namespace.get(name) is old:
                namespace.pop(name, None)  # a meaning from an earlier cell is not this cell's answer
        return f"stopped with {one_line(error)}{where(error, filename)}"
    return None


def grade_one(grade, exercise_id: str, answer: object) -> tuple[str, str]:
    """Status and message of one answer; a failing engine is an `error` of this exercise alone."""
    home = getattr(answer, "__module__", None)
    if isinstance(home, str) and home.startswith("groundup."):
        return "todo", f"This is the course's own version ({home}): write yours to have it checked."
    try:
        result = grade(exercise_id, answer)
    except (ImportError, OSError) as error:  # OSError: a library of PyTorch's that cannot be loaded
        return (
            "error",
            f"The checks need something that is not installed, or is broken ({one_line(error)}): see `groundup doctor`.",
        )
    except BaseException as error:
        return "error", f"The check itself stopped with {one_line(error)}."
    return result.status, result.message


def one_line(error: BaseException) -> str:
    """'NameError: name …', on one line and of bounded length, whatever the exception's own __str__ does."""
    try:
        text = traceback.format_exception_only(error)[-1]
    except BaseException:
        text = type(error).__name__
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def where(error: BaseException, filename: str) -> str:
    """' (line N)' of the cell, where that is known."""
    if isinstance(error, SyntaxError) and error.filename == filename and error.lineno:
        return f" (line {error.lineno})"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename
    ]
    return f" (line {lines[-1]})" if lines else ""


if __name__ == "__main__":
    main()
