"""The lesson autograd.losses: its functions against torch and nudged slopes, and answers that its checks must tell apart."""

import functools
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import groundup.autograd.tensors as tensors
from groundup.autograd.gradients import jacobian
from groundup.autograd.losses import (
    cross_entropy,
    log_softmax,
    matmul_jacobian,
    smoothed_targets,
    softmax,
    softmax_jacobian,
)
from groundup.autograd.tensors import Tensor
from groundup.check import grade

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
shares = st.sampled_from([0.0, 0.05, 0.3, 1.0])


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, seeds)
def test_matmul_jacobian_is_the_nudged_one_and_gives_the_known_rule(m, n, r, seed):
    rng = np.random.default_rng(seed)
    a, b, grad = rng.normal(size=(m, n)), rng.normal(size=(n, r)), rng.normal(size=(m, r))
    table = matmul_jacobian(a, b)
    nudged = jacobian(lambda line: (line.reshape(m, n) @ b).ravel(), a.ravel())
    np.testing.assert_allclose(table, nudged, atol=1e-8)
    np.testing.assert_allclose((grad.ravel() @ table).reshape(m, n), grad @ b.T, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(sizes, st.sampled_from([1.0, 30.0, 1000.0]), seeds)
def test_softmax_jacobian_is_the_nudged_one(classes, scale, seed):
    x = np.random.default_rng(seed).normal(size=classes) * scale
    table = softmax_jacobian(x)
    np.testing.assert_allclose(table, jacobian(softmax, x), atol=1e-4 if scale > 30 else 1e-8)
    np.testing.assert_allclose(table.sum(axis=0), 0, atol=1e-15)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([1.0, 400.0, 1e5]), shares, seeds)
def test_losses_equal_torch(shape, scale, share, seed):
    rng = np.random.default_rng(seed)
    numbers, grad = rng.normal(size=shape) * scale, rng.normal(size=shape)
    ours, theirs = Tensor(numbers), torch.tensor(numbers, requires_grad=True)
    y, expected = log_softmax(ours), torch.log_softmax(theirs, -1)
    (y * grad).sum().backward()
    (expected * torch.tensor(grad)).sum().backward()
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), atol=1e-12)

    rows = numbers.reshape(-1, shape[-1])
    targets = rng.integers(shape[-1], size=len(rows))
    ours, theirs = Tensor(rows), torch.tensor(rows, requires_grad=True)
    loss = cross_entropy(ours, targets, share)
    wanted = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets), label_smoothing=share)
    (loss * -0.4).backward()
    (wanted * -0.4).backward()
    assert loss.shape == ()
    assert loss.data == pytest.approx(wanted.item(), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), atol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), shares)
def test_smoothed_targets_are_probabilities(targets, share):
    q = smoothed_targets(np.array(targets), 5, share)
    np.testing.assert_allclose(q.sum(axis=1), 1)
    assert q.dtype == np.float64
    assert share == 1 or (q.argmax(axis=1) == targets).all()


# -- right answers, written differently ----------------------------------------------------------------------------


def by_unit_vectors(a, b):
    units = np.eye(a.size, dtype=b.dtype).reshape(-1, *a.shape)
    return np.stack([(unit @ b).ravel() for unit in units], axis=1)


def by_loops(a, b):
    table = np.zeros((a.shape[0] * b.shape[1], a.size), b.dtype)
    for i in range(a.shape[0]):
        for k in range(b.shape[1]):
            for j in range(a.shape[1]):
                table[i * b.shape[1] + k, i * a.shape[1] + j] = b[j, k]
    return table


def diag_minus_outer(x):
    rows = softmax(x).reshape(-1, x.shape[-1])
    return np.stack([np.diag(p) - np.outer(p, p) for p in rows]).reshape(*x.shape, x.shape[-1])


def from_operations(logits):
    shifted = logits - logits.data.max(axis=-1, keepdims=True)
    return shifted - shifted.exp().sum(axis=-1, keepdims=True).log()


def from_operations_with_max(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - shifted.exp().sum(-1, True).log()


def through_a_module(logits):
    result = log_softmax(tensors.Tensor(logits.data)).data

    def backward(grad):
        logits.grad = logits.grad + grad - np.exp(result) * grad.sum(-1)[..., None]

    return tensors.Tensor(result, [logits], backward)


def by_torch(logits):
    def backward(grad):
        x = torch.tensor(logits.data, requires_grad=True)
        torch.log_softmax(x, -1).backward(torch.tensor(grad))
        logits.grad += x.grad.numpy()

    return type(logits)(torch.log_softmax(torch.tensor(logits.data), -1), (logits,), backward)


def by_eye(targets, classes, label_smoothing=0.0):
    return np.eye(classes)[targets] * (1 - label_smoothing) + label_smoothing / classes


def target_by_target(logits, targets, label_smoothing=0.0):
    x, count = logits.data, len(targets)
    top = x.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(x - top).sum(axis=1))
    hard = log_sum - x[np.arange(count), targets]
    soft = log_sum - x.mean(axis=1)
    p = np.exp(x - log_sum[:, None])

    def backward(grad):
        share = p - label_smoothing / x.shape[1]
        share[np.arange(count), targets] -= 1 - label_smoothing
        logits.grad += share * (grad / count)

    return Tensor(((1 - label_smoothing) * hard + label_smoothing * soft).mean(), (logits,), backward)


def by_kron(a, b):
    return np.kron(np.eye(len(a), dtype=b.dtype), b.T)


def by_complex_step(x):
    shifted = (x - x.max(axis=-1, keepdims=True)).astype(complex)
    columns = []
    for unit in np.eye(x.shape[-1]):
        weights = np.exp(shifted + 1e-30j * unit)
        columns.append((weights / weights.sum(axis=-1, keepdims=True)).imag / 1e-30)
    return np.stack(columns, axis=-1).astype(x.dtype)


def by_log_sum_exp(x):
    top = x.max(axis=-1, keepdims=True)
    p = np.exp(x - (top + np.log(np.exp(x - top).sum(axis=-1, keepdims=True))))
    table = -np.einsum("...i,...j->...ij", p, p)
    table[..., np.arange(x.shape[-1]), np.arange(x.shape[-1])] += p
    return table


def target_by_target_in_a_loop(targets, classes, label_smoothing=0.0):
    q = np.full((len(targets), classes), label_smoothing / classes)
    for row, target in zip(q, targets, strict=True):
        row[target] += 1 - label_smoothing
    return q


def through_the_other_node(logits, targets, label_smoothing=0.0):
    q, y = smoothed_targets(targets, logits.shape[1], label_smoothing), log_softmax(logits)
    total = -(q * y.data).sum() / len(targets)
    return Tensor(total, (logits,), lambda grad: y._backward(-grad * q / len(targets)))


RIGHT = {
    "matmul_jacobian": [by_unit_vectors, by_loops, by_kron],
    "softmax_jacobian": [diag_minus_outer, by_complex_step, by_log_sum_exp],
    "log_softmax": [from_operations, from_operations_with_max, through_a_module, by_torch],
    "smoothed_targets": [by_eye, target_by_target_in_a_loop],
    "cross_entropy": [target_by_target, through_the_other_node],
}


@pytest.mark.parametrize("name, obj", [(n, f) for n, fs in RIGHT.items() for f in fs])
def test_right_answers_pass_however_they_are_written(name, obj):
    for seed in range(5):
        result = grade(f"autograd.losses.{name}", obj, seed=seed)
        assert result.status == "passed", result.message


# -- where a learner's Tensor comes from ---------------------------------------------------------------------------

IMPORTS = {
    "its name": ("from groundup.autograd.tensors import Tensor", "Tensor"),
    "another name": ("from groundup.autograd.tensors import Tensor as T", "T"),
    "a module": ("import torch\nimport groundup.autograd.tensors as t", "t.Tensor"),
    "a module, beside torch's": (
        "from torch import Tensor\nimport groundup.autograd.tensors as t",
        "t.Tensor",
    ),
    "a dotted name": ("import groundup.autograd.tensors", "groundup.autograd.tensors.Tensor"),
    "the part": ("import groundup.autograd as part", "part.Tensor"),
    "its own": (
        "from groundup.autograd.tensors import Tensor as Course\nclass Tensor(Course): pass",
        "Tensor",
    ),
}
NOTEBOOK = """
import numpy as np
{imports}
def one_node(logits):
    assert isinstance(logits, {tensor})
    shifted = logits.data - logits.data.max(axis=-1, keepdims=True)
    result = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    def backward(grad):
        logits.grad += grad - np.exp(result) * grad.sum(axis=-1, keepdims=True)
    return {tensor}(result, (logits,), backward)
def from_operations(logits):
    shifted = logits - logits.data.max(axis=-1, keepdims=True)
    return shifted - shifted.exp().sum(axis=-1, keepdims=True).log()
"""


def in_notebook(imports, tensor):
    names = {"__name__": "__main__"}
    exec(NOTEBOOK.format(imports=imports, tensor=tensor), names)
    return names


def passes(obj):
    result = grade("autograd.losses.log_softmax", obj, seed=3)
    assert result.status == "passed", result.message


@pytest.mark.parametrize("how", IMPORTS)
@pytest.mark.parametrize("name", ["one_node", "from_operations"])
def test_the_learners_tensor_is_found_however_it_is_imported(how, name):
    passes(in_notebook(*IMPORTS[how])[name])


class Called:
    def __init__(self, function):
        self.function = function

    def __call__(self, logits):
        return self.function(logits)


def plainly_decorated(function):
    return lambda *inputs: function(*inputs)


WRAPPERS = [functools.partial, functools.cache, Called, plainly_decorated, lambda f: Called(f).__call__]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", ["one_node", "from_operations"])
def test_the_learners_tensor_is_found_in_what_holds_the_function(wrap, name):
    passes(wrap(in_notebook(*IMPORTS["its own"])[name]))


def test_the_learners_tensor_is_found_when_it_is_imported_inside():
    def one_node(logits):
        from groundup.autograd.tensors import Tensor

        assert isinstance(logits, Tensor)
        return log_softmax(logits)

    passes(one_node)


def test_the_tensor_of_another_library_is_not_taken():
    other = types.ModuleType("other")
    other.Tensor = type("Tensor", (), {"shape": ()})
    names = in_notebook(*IMPORTS["a module"])
    passes(types.FunctionType(names["from_operations"].__code__, {"other": other, **names}))


# -- wrong answers -------------------------------------------------------------------------------------------------


def two_dtypes_only(a, b):
    return by_kron(a, b) if b.dtype == np.float32 else np.kron(np.eye(len(a)), b.T)


def reshaped_block(a, b):
    return np.kron(np.eye(len(a), dtype=b.dtype), b.reshape(b.T.shape))


def nudged_product(a, b):
    line = a.ravel().astype(np.float64)
    return jacobian(lambda line: (line.reshape(a.shape) @ b).ravel(), line).astype(b.dtype)


def nudged_softmax(x):
    rows = x.reshape(-1, x.shape[-1])
    return np.stack([jacobian(softmax, row) for row in rows]).reshape(*x.shape, x.shape[-1])


def nudged_after_the_shift(x):
    shifted = (x - x.max(axis=-1, keepdims=True)).astype(np.float64)
    return nudged_softmax(shifted).astype(x.dtype)


def three_axes_at_most(x):
    return softmax_jacobian(x) if x.ndim <= 3 else softmax_jacobian(x.reshape(-1, x.shape[-1]))


def diag_and_outer(x):
    p = softmax(x)
    return np.diag(p) - np.outer(p, p)


def first_size_is_remembered(x, known={}):  # noqa: B006
    p = softmax(x)
    known.setdefault(x.shape, p[..., :, None] * (np.eye(x.shape[-1], dtype=x.dtype) - p[..., None, :]))
    return known[x.shape]


def two_axes_at_most(logits):
    sums = "keepdims" if logits.data.ndim == 2 else None
    result = log_softmax(Tensor(logits.data)).data

    def backward(grad):
        total = grad.sum(axis=1, keepdims=True) if sums else grad.sum()
        logits.grad += grad - np.exp(result) * total

    return Tensor(result, (logits,), backward)


def nudged_backward(logits):
    result = log_softmax(Tensor(logits.data)).data

    def backward(grad):
        def weighted(line):
            return (log_softmax(Tensor(line.reshape(logits.shape))).data * grad).sum().reshape(1)

        logits.grad += jacobian(weighted, logits.data.ravel()).reshape(logits.shape)

    return Tensor(result, (logits,), backward)


def unstable_operations(logits):
    weights = logits.exp()
    return (weights / weights.sum(axis=-1, keepdims=True)).log()


def as_on_the_page(logits):
    weights = (logits - logits.max(axis=-1, keepdims=True)).exp()
    return (weights / weights.sum(axis=-1, keepdims=True)).log()


def changes_the_arriving_gradient(logits):
    result = log_softmax(Tensor(logits.data)).data

    def backward(grad):
        grad -= np.exp(result) * grad.sum(axis=-1, keepdims=True)
        logits.grad += grad

    return Tensor(result, (logits,), backward)


def shifts_in_place(logits):
    logits.data -= logits.data.max(axis=-1, keepdims=True)
    return log_softmax(logits)


def cut_off(logits):
    return log_softmax(Tensor(logits.data))


def no_parents(logits):
    return Tensor(log_softmax(logits).data)


def an_array(logits):
    return log_softmax(logits).data


def with_result(value):
    def exchanged(logits):
        node = log_softmax(logits)
        return Tensor(value(node.data, logits.data), (logits,), node._backward)

    return exchanged


def in_long_double(_, x):
    weights = np.exp(x.astype(np.longdouble) - x.max(axis=-1, keepdims=True))
    return np.log(weights / weights.sum(axis=-1, keepdims=True))


def three_axes_in_the_loss(logits):
    return log_softmax(logits) if logits.data.ndim <= 3 else log_softmax(logits.reshape(-1, logits.shape[-1]))


def overwrites_its_result(logits):
    node = log_softmax(logits)
    p = np.exp(node.data)

    def backward(grad):
        logits.grad += grad - p * grad.sum(axis=-1, keepdims=True)
        node.data[...] = 0

    return Tensor(node.data, (logits,), backward)


def no_backward(logits):
    return Tensor(log_softmax(logits).data, (logits,))


def backward_of_softmax(logits):
    node = log_softmax(logits)
    p = np.exp(node.data)

    def backward(grad):
        logits.grad += p * (grad - (p * grad).sum(axis=-1, keepdims=True))

    return Tensor(node.data, (logits,), backward)


last = {}


def remembers_the_last_call(logits):
    last["p"] = np.exp(log_softmax(logits).data)

    def backward(grad):
        logits.grad += grad - last["p"] * grad.sum(axis=-1, keepdims=True)

    return Tensor(log_softmax(logits).data, (logits,), backward)


def many_nodes(logits, targets, label_smoothing=0.0):
    q = smoothed_targets(targets, logits.shape[1], label_smoothing)
    return (log_softmax(logits) * q).sum() * (-1 / len(targets))


def clipped(logits, targets, label_smoothing=0.0):
    node = cross_entropy(logits, targets, label_smoothing)
    q = smoothed_targets(targets, logits.shape[1], label_smoothing)
    value = -(q * np.log(np.maximum(softmax(logits.data), 1e-300))).sum() / len(targets)
    return Tensor(value, (logits,), node._backward)


def with_one_axis(logits, targets, label_smoothing=0.0):
    node = cross_entropy(logits, targets, label_smoothing)
    return Tensor(node.data.reshape(1), (logits,), node._backward)


def targets_remembered_by_size(logits, targets, label_smoothing=0.0, known={}):  # noqa: B006
    q = smoothed_targets(targets, logits.shape[1], label_smoothing)
    q = known.setdefault(logits.shape, q)
    log_prob = log_softmax(logits).data

    def backward(grad):
        logits.grad += grad * (np.exp(log_prob) - q) / len(targets)

    return Tensor(-(q * log_prob).sum() / len(targets), (logits,), backward)


def stored_probabilities_changed(logits, targets, label_smoothing=0.0):
    node = cross_entropy(logits, targets, label_smoothing)
    p, rows = np.exp(log_softmax(logits).data), np.arange(len(targets))

    def backward(grad):
        p[rows, targets] -= 1 - label_smoothing
        logits.grad += grad * (p - label_smoothing / p.shape[1]) / len(targets)

    return Tensor(node.data, (logits,), backward)


def clipped_far_down(logits, targets, label_smoothing=0.0):
    q = smoothed_targets(targets, logits.shape[1], label_smoothing)
    value = -(q * np.maximum(log_softmax(logits).data, -5000)).sum() / len(targets)
    return Tensor(value, (logits,), cross_entropy(logits, targets, label_smoothing)._backward)


def remembered_by_size_and_share(targets, classes, label_smoothing=0.0, known={}):  # noqa: B006
    return known.setdefault(
        (len(targets), classes, label_smoothing), by_eye(targets, classes, label_smoothing)
    )


def one_hot_as_integers(targets, classes, label_smoothing=0.0):
    hot = np.eye(classes, dtype=int)[targets]
    return hot if label_smoothing == 0 else hot * (1 - label_smoothing) + label_smoothing / classes


def halves(targets, classes, label_smoothing=0.0):
    return by_eye(targets, classes, label_smoothing).astype(np.float32)


WRONG = [
    ("matmul_jacobian", nudged_product, ""),
    ("matmul_jacobian", two_dtypes_only, "float16"),
    ("matmul_jacobian", reshaped_block, "reshaped_instead_of_transposed"),
    ("softmax_jacobian", nudged_softmax, ""),
    ("softmax_jacobian", nudged_after_the_shift, ""),
    ("softmax_jacobian", three_axes_at_most, "three axes"),
    ("softmax_jacobian", diag_and_outer, "diag_and_outer"),
    ("softmax_jacobian", first_size_is_remembered, ""),
    ("log_softmax", two_axes_at_most, ""),
    ("log_softmax", nudged_backward, ""),
    ("log_softmax", unstable_operations, "softmax_and_log_chained_without_the_maximum"),
    ("log_softmax", as_on_the_page, "softmax_and_log_chained"),
    ("log_softmax", changes_the_arriving_gradient, "changes `grad`"),
    ("log_softmax", shifts_in_place, "changes its input logits"),
    ("log_softmax", cut_off, "do not lead to logits itself"),
    ("log_softmax", no_parents, "do not lead to logits itself"),
    ("log_softmax", an_array, "wrap the result in Tensor"),
    ("log_softmax", remembers_the_last_call, "logits.grad"),
    ("log_softmax", lambda logits: None, "Is a return missing?"),
    ("log_softmax", with_result(lambda result, _: np.maximum(result, -5000)), "very far apart"),
    ("log_softmax", with_result(in_long_double), "very far apart"),
    ("log_softmax", three_axes_in_the_loss, "three axes"),
    ("log_softmax", overwrites_its_result, "changes the data of the result"),
    ("log_softmax", no_backward, "nothing_arrives"),
    ("log_softmax", backward_of_softmax, "rule_of_softmax"),
    ("smoothed_targets", remembered_by_size_and_share, "the same sizes"),
    ("smoothed_targets", one_hot_as_integers, "int64"),
    ("smoothed_targets", halves, "float32"),
    ("cross_entropy", many_nodes, "must be one node"),
    ("cross_entropy", clipped, "the result"),
    ("cross_entropy", clipped_far_down, "very far apart"),
    ("cross_entropy", with_one_axis, "shape (1,)"),
    ("cross_entropy", targets_remembered_by_size, ""),
    ("cross_entropy", stored_probabilities_changed, "second"),
    ("cross_entropy", lambda logits, targets, label_smoothing=0.0: None, "Is a return missing?"),
]


@pytest.mark.parametrize("name, obj, said", WRONG)
def test_wrong_answers_fail_and_the_reply_says_why(name, obj, said):
    result = grade(f"autograd.losses.{name}", obj, seed=3)
    assert result.status in ("failed", "error"), result.message
    assert said in result.message or said == result.mistake, (result.mistake, result.message)
