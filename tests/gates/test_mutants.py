"""The mutants of a solution: which ones are made, and that code of every framework is graded alike."""

import ast

import pytest

from ci.mutants import emptied, mutants
from ci.workers import Job, Workers

IMPORTS = {
    "weighted": "import numpy as np",
    "normalised": "import torch",
    "squared": "import jax\nimport jax.numpy as jnp",
    "scaled": "from groundup.run import tl, triton",
}
SOLUTIONS = {
    "weighted": '''
def weighted(x, w):
    """The weighted mean of each row."""
    ### BEGIN SOLUTION
    total = np.zeros(x.shape[0])
    for column in range(x.shape[1]):
        total += x[:, column] * w[column]
    return total / w.sum()
    ### END SOLUTION
''',
    "normalised": '''
def normalised(x):
    """Each row with mean 0 and variance 1."""
    ### BEGIN SOLUTION
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5)
    ### END SOLUTION
''',
    "squared": '''
def squared(x):
    """Half the squared length of x, and its gradient."""
    ### BEGIN SOLUTION
    def half(v):
        return jnp.sum(v**2) / 2

    return jax.value_and_grad(half)(x)
    ### END SOLUTION
''',
    "scaled": '''
@triton.jit
def scaled(x_ptr, out_ptr, factor, n, BLOCK: tl.constexpr):
    """out = x * factor, element by element."""
    ### BEGIN SOLUTION
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0)
    tl.store(out_ptr + offsets, x * factor, mask=mask)
    ### END SOLUTION
''',
}


def changes(source: str) -> list[str]:
    return [mutant.change for mutant in mutants(source)]


def body(*lines: str) -> str:
    inner = "\n".join(f"    {line}" for line in ["### BEGIN SOLUTION", *lines, "### END SOLUTION"])
    return f"def f(x, y):\n{inner}\n"


@pytest.mark.parametrize("name", sorted(SOLUTIONS))
def test_mutants_of_every_framework_run_and_are_rejected(template, name):
    """The solution passes, so the code runs as it must; then nearly all of its mutants fail."""
    source = SOLUTIONS[name]
    identity = f"sample.frameworks.{name}"
    found = mutants(source)
    jobs = [Job("source", "all", identity, mutant.source) for mutant in found]
    with Workers({"all": [IMPORTS[name], source]}, template, 1) as workers:
        ((own,), (copied,)) = workers.run(
            [Job("own", "all", identity), Job("source", "all", identity, ast.unparse(ast.parse(source)))]
        )
        assert own.status == copied.status == "passed", own.message + copied.message
        outcomes = [outcome for (outcome,) in workers.run(jobs)]
    survivors = [m.change for m, o in zip(found, outcomes, strict=True) if o.status == "passed"]
    rejected = {m.change: o for m, o in zip(found, outcomes, strict=True) if o.status != "passed"}
    assert len(found) >= 15
    statuses = {outcome.status for outcome in rejected.values()}
    # A kernel that reads where nothing is may take its process along.
    assert statuses <= {"failed", "error", "timeout"} | ({"crash"} if name == "scaled" else set()), statuses
    wrong = sum(outcome.status == "failed" for outcome in rejected.values())
    assert wrong >= len(found) / 4, "many mutants run and give a wrong answer; they do not all just raise"
    assert not any("source code" in outcome.message for outcome in rejected.values()), (
        "Triton reads the source"
    )
    assert len(survivors) <= len(found) * 0.1, survivors


def test_a_mutant_may_kill_hang_or_exhaust_its_process(template):
    """Each is rejected, and the jobs after it are answered as if nothing had happened."""
    head = "def centred(x):\n    "
    right = head + "return x - x.mean(axis=1, keepdims=True)"
    sources = [
        head + "import ctypes\n    ctypes.string_at(0)",
        right,
        head + "import ctypes\n    ctypes.CDLL(None)._exit(0)",
        head + "while True:\n        pass",
        head + "return np.ones(10**10)",
        right,
    ]
    jobs = [Job("source", "all", "sample.first.centred", source) for source in sources]
    with Workers({"all": ["import numpy as np"]}, template, 1) as workers:
        statuses = [outcomes[0].status for outcomes in workers.run(jobs)]
    assert statuses == ["crash", "passed", "crash", "timeout", "error", "passed"]


def test_nothing_outside_the_regions_is_touched():
    source = (
        'def f(x, y=3):\n    """Docs with 1 + 1."""\n    if x > 0:\n        x = x + 1\n'
        "    ### BEGIN SOLUTION\n    z = x - y\n    ### END SOLUTION\n    return z * 2\n"
    )
    found = mutants(source)
    assert found
    for mutant in found:
        for kept in ("y=3", "Docs with 1 + 1.", "x > 0", "x = x + 1", "return z * 2"):
            assert kept in mutant.source
    assert all(change.startswith("z = x - y →") for change in changes(source))


def test_several_regions_of_a_class():
    source = (
        "class A:\n    def f(self, x):\n        ### BEGIN SOLUTION\n        return x + 1\n        ### END SOLUTION\n\n"
        "    def g(self, x):\n        return x + 7\n\n"
        "    def h(self, y):\n        ### BEGIN SOLUTION\n        return y * 3\n        ### END SOLUTION\n"
    )
    found = changes(source)
    assert "return x + 1 → return x - 1" in found and "return y * 3 → return y / 3" in found
    assert not any("x + 7" in change for change in found)
    assert "return y * 3 → return y" in found
    labels = [empty.change for empty in emptied(source)]
    assert labels == [
        "f does nothing",
        "f does nothing but return its input",
        "h does nothing",
        "h does nothing but return its input",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return x + y", ["x - y", "x", "y", "None"]),
        ("return x / y", ["x * y", "y / x"]),
        ("return x < y", ["x <= y", "x >= y"]),
        ("return x and y", ["x or y"]),
        ("return -x", ["x"]),
        ("return 2.0", ["4.0", "-2.0", "0.0"]),
        ("return x[0]", ["x[1]", "x[-1]"]),
        ("return x[1:]", ["x[2:]", "x[:]", "x[1:-1]"]),
        ("return x[y]", ["x[y + 1]", "x[y - 1]"]),
        ("return x[:, None]", ["x[None, :]"]),
        (
            "return x.sum(axis=0, keepdims=True)",
            ["x.mean(axis=0, keepdims=True)", "x.sum(axis=1, keepdims=True)"],
        ),
        ("return x.sum(axis=0, keepdims=True)", ["x.sum(axis=0, keepdims=False)", "x.sum(keepdims=True)"]),
        ("return x.max()", ["x.min()"]),
        ("return x.detach().T", ["x.T", "x.detach()"]),
        ("return np.zeros(y)", ["np.ones(y)"]),
        ("return g(x, y)", ["g(y, x)", "g(x)"]),
        ("return list(range(y))", ["list(range(y + 1))", "list(range(y - 1))", "list(range(1, y))"]),
        ("return np.einsum('ij,jk->ik', x, y)", ["np.einsum('ij,jk->ki', x, y)"]),
        (
            "return rearrange(x, 'b h d -> b d h')",
            ["rearrange(x, 'b h d -> d b h')", "rearrange(x, 'h b d -> b d h')"],
        ),
        ("return x if y else 0", ["0 if y else x"]),
        ("return (x, y)", ["(y, x)"]),
        ("return [v for v in x if v]", ["[v for v in x]"]),
    ],
)
def test_each_kind_of_edit(line, expected):
    found = changes(body(line))
    for new in expected:
        assert f"{line} → return {new}" in found, found


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["x += y", "return x"], "x += y → x = y"),
        (["x += y", "return x"], "x += y → (nothing)"),
        (["if x:", "    y = 1", "return y"], "if x: → if not x:"),
        (["with torch.no_grad():", "    x.add_(y)"], "with torch.no_grad(): ⏎ x.add_(y) → x.add_(y)"),
        (["for v in x:", "    break"], "break → continue"),
        (["@staticmethod", "def g(a):", "    return a", "return g(x)"], "@staticmethod → (nothing)"),
    ],
)
def test_each_kind_of_statement(lines, expected):
    assert expected in changes(body(*lines))


def test_what_only_people_read_is_left_alone():
    source = body(
        'if x < 0:\n        raise ValueError(f"need {x + 1} or {0}")',
        "assert y, 'never 1'",
        "z: int = x",
        "return z",
    )
    for change in changes(source):
        new = change.split("→")[1]
        assert "raise" not in new or "raise ValueError(f'need {x + 1} or {0}')" in new
        assert "assert" not in new or "'never 1'" in new
        assert "z:" not in new or "z: int" in new


def test_equal_mutants_count_once_and_the_original_never():
    source = body("return x * 1 + y - 0")
    found = mutants(source)
    assert len({mutant.source for mutant in found}) == len(found)
    assert len({mutant.change for mutant in found}) == len(found)
    assert ast.unparse(ast.parse(source)) not in {mutant.source for mutant in found}


def test_every_mutant_is_a_program():
    for source in SOLUTIONS.values():
        for mutant in mutants(source):
            compile(mutant.source, "<mutant>", "exec")
