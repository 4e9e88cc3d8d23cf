"""Small wrong edits of a solution: what a grader must reject.

`mutants(source)` edits the syntax tree of an exercise's solution in one place at a time, only inside its
solution regions, and returns each edit once. Whether the source calls NumPy, PyTorch, JAX or Triton makes no
difference: the edits know operators, constants, axes, slices, calls and statements, not libraries.

By hand: `python -m ci.mutants autograd.arrays.softmax` lists them; `python -m ci.audit` grades them.
"""

import ast
import copy
import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ci.lesson import BEGIN, END, lessons

Path = tuple[tuple[str, int | None], ...]  # from the root of the tree: (field, index in that field's list)
Edit = tuple[Path, ast.AST | list[ast.stmt]]  # what stands there instead; a list replaces one statement


def _words(text: str) -> list[str]:
    return text.split()


ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
NOT_COMMUTATIVE = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult, ast.LShift, ast.RShift)
COMPARISON = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_PAIRS = _words("""
    sum:mean max:min amax:amin argmax:argmin maximum:minimum zeros:ones zeros_like:ones_like any:all var:std
    exp:log expm1:log1p sin:cos sinh:cosh floor:ceil tril:triu cumsum:cumprod keys:values append:appendleft
    logical_and:logical_or logical_not:logical_and startswith:endswith softmax:log_softmax float32:float64
    repeat:tile repeat_interleave:repeat vstack:hstack row_stack:column_stack popleft:pop eval:train add:sub
    matmul:multiply dot:multiply less:less_equal greater:greater_equal floor_divide:mod arange:zeros
""")
# The other name of each method or function that a learner confuses with it.
OTHER_NAME = {b: a for a, b in (pair.split(":") for pair in _PAIRS)}
OTHER_NAME |= {a: b for a, b in (pair.split(":") for pair in _PAIRS)}
OTHER_NAME |= {"prod": "sum", "tanh": "sin", "sqrt": "square", "rsqrt": "sqrt", "abs": "neg", "norm": "sum"}
# Calls that only change how a value is held: replacing f(x) by x would mostly leave the same behaviour.
HOLDERS = frozenset(
    _words(
        "float int bool str list tuple set asarray ascontiguousarray contiguous item tolist len range isinstance "
        "super print enumerate zip iter next program_id arange load store numpy"
    )
)
DROPPED_ATTRIBUTES = frozenset(["T", "mT", "H", "data", "real"])
PATTERN = re.compile(r"^(?P<given>[^>]*)->(?P<made>[^>]*)$")  # einsum and einops


@dataclass(frozen=True)
class Mutant:
    """One edited solution. `change` says what was edited, and is unique among an exercise's mutants."""

    source: str
    change: str


def regions(source: str) -> list[tuple[int, int]]:
    """The solution regions, as (line of the begin marker, line of the end marker), counted from 1."""
    marks = [(n, line) for n, line in enumerate(source.splitlines(), 1) if BEGIN in line or END in line]
    return [(begin[0], end[0]) for begin, end in zip(marks[::2], marks[1::2], strict=True)]


def mutants(source: str) -> list[Mutant]:
    """Every different one-place edit of `source` inside its solution regions, in the order of the source."""
    tree = ast.parse(source)
    original = ast.unparse(_normal(copy.deepcopy(tree)))
    seen = {original}
    found: list[Mutant] = []
    changes: dict[str, int] = {}
    for path, replacement in _edits(tree, regions(source)):
        mutated = _apply(tree, path, replacement)
        normal = ast.unparse(_normal(mutated))
        if normal in seen:
            continue
        seen.add(normal)
        try:
            compile(normal, "<mutant>", "exec")
        except SyntaxError:  # such as a return moved out of its function: nobody could submit it
            continue
        change = _change(original, normal)
        changes[change] = changes.get(change, 0) + 1
        if changes[change] > 1:
            change += f" ({changes[change]})"
        found.append(Mutant(normal, change))
    return found


def _edits(tree: ast.Module, spans: list[tuple[int, int]]) -> Iterator[Edit]:
    """All edits of all nodes that lie inside one of `spans`."""
    for path, node, function in _walk(tree, (), None):
        if any(b < node.lineno and node.end_lineno < e for b, e in spans):
            if isinstance(node, ast.stmt):
                yield from ((path, new) for new in _statement(node, function))
            else:
                yield from ((path, new) for new in _expression(node))


def _walk(node: ast.AST, path: Path, function: ast.FunctionDef | None):
    """Yields (path, node, enclosing function) for the statements and expressions that decide behaviour.

    Left out: docstrings, annotations, and the messages of exceptions and assertions.
    """
    if isinstance(node, ast.expr | ast.stmt):
        yield path, node, function
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node
    if isinstance(node, ast.JoinedStr):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if (isinstance(node, ast.Raise) and field in ("exc", "cause")) or (
            isinstance(node, ast.Assert) and field == "msg"
        ):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or _is_docstring(node, field, index, child):
                continue
            yield from _walk(child, (*path, (field, index)), function)


def _is_docstring(parent: ast.AST, field: str, index: int | None, child: ast.AST) -> bool:
    documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    return (
        isinstance(parent, documented)
        and (field, index) == ("body", 0)
        and isinstance(child, ast.Expr)
        and isinstance(child.value, ast.Constant)
        and isinstance(child.value.value, str)
    )


def _apply(tree: ast.Module, path: Path, replacement: ast.AST | list[ast.stmt]) -> ast.Module:
    new = copy.deepcopy(tree)
    parent = new
    for field, index in path[:-1]:
        parent = getattr(parent, field) if index is None else getattr(parent, field)[index]
    field, index = path[-1]
    replacement = copy.deepcopy(replacement)
    if index is None:
        setattr(parent, field, replacement)
    elif isinstance(replacement, list):
        body = getattr(parent, field)
        body[index : index + 1] = replacement
        if not body and field == "body":
            body.append(ast.Pass())
    else:
        getattr(parent, field)[index] = replacement
    return ast.fix_missing_locations(new)


class _Normal(ast.NodeTransformer):
    """Writes the same value the same way, so that two edits with one meaning count once."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.USub):
            inner = node.operand
            if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub):
                return inner.operand
            if isinstance(inner, ast.Constant) and type(inner.value) is int and inner.value == 0:
                return inner
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Compare):
            compare = node.operand
            opposite = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
            opposite |= {ast.In: ast.NotIn, ast.NotIn: ast.In}
            if len(compare.ops) == 1 and type(compare.ops[0]) in opposite:
                return ast.Compare(compare.left, [opposite[type(compare.ops[0])]()], compare.comparators)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        offset = _offset(node)
        if offset is None:
            return node
        left = node.left
        while isinstance(left, ast.BinOp) and (inner := _offset(left)) is not None:
            left, offset = left.left, offset + inner
        if isinstance(left, ast.Constant) and type(left.value) is int:
            return self.visit_Constant(ast.Constant(left.value + offset))
        if offset == 0:
            return left
        return ast.BinOp(left, ast.Add() if offset > 0 else ast.Sub(), ast.Constant(abs(offset)))

    def visit_Slice(self, node: ast.Slice) -> ast.Slice:
        self.generic_visit(node)
        if isinstance(node.lower, ast.Constant) and node.lower.value == 0 and node.step is None:
            node.lower = None
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if type(node.value) in (int, float) and node.value < 0:
            return ast.UnaryOp(ast.USub(), ast.Constant(-node.value))
        return node


def _offset(node: ast.BinOp) -> int | None:
    """What `… + 2` or `… - -2` adds, where that is a whole number."""
    right, sign = node.right, 1
    if isinstance(right, ast.UnaryOp) and isinstance(right.op, ast.USub):
        right, sign = right.operand, -1
    if not isinstance(right, ast.Constant) or type(right.value) is not int:
        return None
    if isinstance(node.op, ast.Add | ast.Sub):
        return sign * right.value if isinstance(node.op, ast.Add) else -sign * right.value
    return None


def _normal(tree: ast.Module) -> ast.Module:
    return ast.fix_missing_locations(_Normal().visit(tree))


def _change(old: str, new: str) -> str:
    """The lines that differ, as `old → new`; lines of one side are joined by ` ⏎ `."""
    gone, came = [], []
    for line in difflib.ndiff(old.splitlines(), new.splitlines()):
        if line.startswith("- "):
            gone.append(line[2:].strip())
        elif line.startswith("+ "):
            came.append(line[2:].strip())
    return f"{' ⏎ '.join(gone) or '(nothing)'} → {' ⏎ '.join(came) or '(nothing)'}"


# ---------------------------------------------------------------------------------------- expressions


def _expression(node: ast.expr) -> Iterator[ast.expr]:
    """What may stand in the place of the expression `node`."""
    if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        if isinstance(node, ast.Tuple) and len(node.elts) > 1:  # a, b = … → b, a = …
            yield _with(node, elts=[node.elts[1], node.elts[0], *node.elts[2:]])
        if isinstance(node, ast.Subscript):
            yield from _subscript(node)
        return
    match node:
        case ast.BinOp(left, op, right):
            yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
            yield left
            yield right
            if isinstance(op, NOT_COMMUTATIVE):
                yield ast.BinOp(right, op, left)
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                for other in COMPARISON[type(op)]:
                    yield _with(node, ops=[*ops[:index], other(), *ops[index + 1 :]])
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for index in range(len(values)):
                rest = values[:index] + values[index + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant():
            yield from _constant(node)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
            yield body
            yield orelse
        case ast.Call():
            yield from _call(node)
        case ast.Attribute(value, name):
            if name in DROPPED_ATTRIBUTES:
                yield value
            if name in OTHER_NAME:
                yield _with(node, attr=OTHER_NAME[name])
        case ast.Subscript():
            yield from _subscript(node)
        case ast.Tuple(elts) if len(elts) > 1:
            yield _with(node, elts=[elts[1], elts[0], *elts[2:]])
        case (
            ast.ListComp(generators=generators)
            | ast.SetComp(generators=generators)
            | ast.GeneratorExp(generators=generators)
        ):
            for index, generator in enumerate(generators):
                if generator.ifs:
                    bare = _with(generator, ifs=[])
                    yield _with(node, generators=[*generators[:index], bare, *generators[index + 1 :]])


def _constant(node: ast.Constant) -> Iterator[ast.expr]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield from (ast.Constant(new) for new in (value + 1, value - 1, -value) if new != value)
    elif isinstance(value, float):
        others = (value * 2, -value, 0.0) if value else (1.0, -1.0)
        yield from (ast.Constant(new) for new in others)
    elif isinstance(value, str):
        if pattern := PATTERN.match(value):
            yield from (ast.Constant(new) for new in _patterns(pattern["given"], pattern["made"]))
        elif value:
            yield ast.Constant("")


def _patterns(given: str, made: str) -> Iterator[str]:
    """Other einsum or einops patterns: two axes of the result swapped, or of the inputs."""
    for side, form in ((made, given + "->{}"), (given, "{}->" + made)):
        # einops separates axes by spaces; einsum's axes are single letters.
        axes = side.split() if " " in side.strip() else list(side.strip())
        for index in range(len(axes) - 1):
            first, second = axes[index : index + 2]
            if first.isalpha() and second.isalpha() and first != second:
                swapped = [*axes[:index], second, first, *axes[index + 2 :]]
                between = " " if " " in side.strip() else ""
                yield form.format(side.replace(side.strip(), between.join(swapped)))
                break


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _call(node: ast.Call) -> Iterator[ast.expr]:
    name, args, keywords = _called(node), node.args, node.keywords
    plain = not any(isinstance(arg, ast.Starred) for arg in args)
    if isinstance(node.func, ast.Name) and name in OTHER_NAME:
        yield _with(node, func=ast.Name(OTHER_NAME[name], ast.Load()))
    if name == "range" and plain:
        yield from _range(node)
    if plain:
        for index in range(len(args) - 1):
            yield _with(node, args=[*args[:index], args[index + 1], args[index], *args[index + 2 :]])
        if len(args) > 1 and name != "range":
            yield _with(node, args=args[:-1])
    for index, keyword in enumerate(keywords):
        if keyword.arg is not None:
            yield _with(node, keywords=keywords[:index] + keywords[index + 1 :])
    if name not in HOLDERS:
        # Applied to nothing: np.exp(x) → x, x.detach() → x. A module's name in front is no receiver.
        if isinstance(node.func, ast.Attribute) and not _names_module(node.func.value):
            yield node.func.value
        elif args and plain:
            yield args[0]


def _names_module(node: ast.expr) -> bool:
    """Whether `node` is np, torch.nn.functional, jax.numpy, tl … by the names that the field gives them."""
    while isinstance(node, ast.Attribute):
        node = node.value
    known = (
        "np numpy torch jax jnp F nn tl triton math einops random itertools functools lax os sys np_random"
    )
    return isinstance(node, ast.Name) and node.id in known.split()


def _range(node: ast.Call) -> Iterator[ast.expr]:
    args = node.args
    stop = 0 if len(args) == 1 else 1
    for index in range(min(len(args), 2)):
        if not isinstance(args[index], ast.Constant):  # constants are edited as constants
            for edited in _beside(args[index]):
                yield _with(node, args=[*args[:index], edited, *args[index + 1 :]])
    if stop == 0:
        yield _with(node, args=[ast.Constant(1), args[0]])


def _beside(node: ast.expr) -> Iterator[ast.expr]:
    yield ast.BinOp(node, ast.Add(), ast.Constant(1))
    yield ast.BinOp(node, ast.Sub(), ast.Constant(1))


def _subscript(node: ast.Subscript) -> Iterator[ast.expr]:
    where = node.slice
    parts = where.elts if isinstance(where, ast.Tuple) else [where]
    for index, part in enumerate(parts):
        for edited in _index(part):
            new = [*parts[:index], edited, *parts[index + 1 :]]
            yield _with(node, slice=_with(where, elts=new) if isinstance(where, ast.Tuple) else edited)


def _index(node: ast.expr) -> Iterator[ast.expr]:
    """Off by one: in both bounds of a slice, in an index that is no constant."""
    if isinstance(node, ast.Slice):
        lower, upper, step = node.lower, node.upper, node.step
        if lower is None and upper is None and step is None:
            return  # `:` takes everything and is meant to
        for edited in [ast.Constant(1)] if lower is None else [*_off(lower), None]:
            yield ast.Slice(edited, upper, step)
        for edited in [ast.UnaryOp(ast.USub(), ast.Constant(1))] if upper is None else [*_off(upper), None]:
            yield ast.Slice(lower, edited, step)
        if step is not None:
            yield ast.Slice(lower, upper, None)
    elif isinstance(node, ast.Name | ast.BinOp):
        yield from _beside(node)


def _off(bound: ast.expr) -> list[ast.expr]:
    constant = bound.operand if isinstance(bound, ast.UnaryOp) else bound
    return [] if isinstance(constant, ast.Constant) else list(_beside(bound))


def _with(node: ast.AST, **fields) -> ast.AST:
    """A shallow copy of `node` with some fields replaced."""
    new = copy.copy(node)
    for field, value in fields.items():
        setattr(new, field, value)
    return new


# ----------------------------------------------------------------------------------------- statements


def _statement(node: ast.stmt, function: ast.FunctionDef | None) -> Iterator[ast.stmt | list[ast.stmt]]:
    """What may stand in the place of the statement `node`; an empty list leaves it out."""
    if isinstance(node, ast.Pass | ast.Global | ast.Nonlocal | ast.Import | ast.ImportFrom):
        return
    match node:
        case ast.Return(value) if value is not None:
            yield ast.Return(ast.Constant(None))
            if first := _first_input(function):
                yield ast.Return(ast.Name(first, ast.Load()))
            return  # leaving a return out returns None
        case ast.AugAssign(target, op, value):
            yield ast.Assign([target], value)
            yield ast.AugAssign(target, ARITHMETIC[type(op)](), value)
        case ast.If(test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
            yield body
            if orelse:
                yield ast.If(test, body, [])
        case ast.While():
            yield ast.If(node.test, node.body, [])
        case ast.With(_, body):
            yield body
        case ast.Try(body):
            yield body
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.FunctionDef() if node.decorator_list:
            for index in range(len(node.decorator_list)):
                rest = node.decorator_list[:index] + node.decorator_list[index + 1 :]
                yield _with(node, decorator_list=rest)
    yield []


def _first_input(function: ast.FunctionDef | None) -> str | None:
    if function is None:
        return None
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    names = [name for name in names if name not in ("self", "cls")]
    return names[0] if names else None


# ------------------------------------------------------------------------------------- empty answers


def emptied(source: str) -> list[Mutant]:
    """The solution with the body of each function that holds a region replaced: it does nothing, or returns its input."""
    tree = ast.parse(source)
    found = []
    for path, node, _ in _walk(tree, (), None):
        if not isinstance(node, ast.FunctionDef):
            continue
        if not any(node.lineno < begin <= node.end_lineno for begin, _ in regions(source)):
            continue
        where = "" if path == (("body", 0),) else f"{node.name} "
        bodies = {"does nothing": [ast.Pass()]}
        if first := _first_input(node):
            bodies["does nothing but return its input"] = [ast.Return(ast.Name(first, ast.Load()))]
        for label, body in bodies.items():
            found.append(Mutant(ast.unparse(_apply(tree, path, _with(node, body=body))), where + label))
    return found


def main(names: list[str]) -> int:
    """Lists the mutants of the exercises whose ids begin with one of `names`."""
    exercises = [exercise for lesson in lessons() for exercise in lesson.exercises]
    chosen = [exercise for exercise in exercises if exercise.id.startswith(tuple(names))]
    if not names or not chosen:
        print(
            "usage: python -m ci.mutants EXERCISE ..., of: " + ", ".join(e.id for e in exercises),
            file=sys.stderr,
        )
        return 2
    for exercise in chosen:
        for mutant in mutants(exercise.source):
            print(f"{exercise.id}: {mutant.change}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
