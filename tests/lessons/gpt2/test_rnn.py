"""The lesson gpt2.rnn: its cells over time against torch's layers, and answers that must pass or fail."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from groundup.check import grade
from groundup.gpt2 import rnn
from groundup.gpt2.rnn import LSTMCell, RecurrentModel, RNNCell, clip_gradients, truncated_step, windows
from tests.lessons.edits import edited

SIZES = st.integers(1, 5)


@settings(max_examples=25, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from([(RNNCell, nn.RNN), (LSTMCell, nn.LSTM)]))
def test_cells_over_time_are_torchs_layers(n_in, n_hidden, batch_size, length, pair):
    torch.manual_seed(n_in + 10 * n_hidden + 100 * length)
    model = RecurrentModel(6, n_in, n_hidden, pair[0]).double()
    layer = pair[1](n_in, n_hidden, batch_first=True).double()
    layer.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    idx = torch.randint(6, (batch_size, length))
    logits, state = model.read(idx)
    outputs, last = layer(model.embedding(idx))
    assert torch.allclose(logits, model.head(outputs))
    for ours, theirs in zip(state, last if isinstance(last, tuple) else (last,), strict=True):
        assert torch.allclose(ours, theirs[0])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(1, 6)), min_size=1, max_size=5).filter(any),
    st.floats(0.01, 50),
    st.integers(0, 999),
)
def test_clipping_is_torchs(shapes, max_norm, seed):
    results = []
    for clip in (clip_gradients, nn.utils.clip_grad_norm_):
        torch.manual_seed(seed)
        parameters = [nn.Parameter(torch.zeros(n or 1)) for n in shapes]
        for n, parameter in zip(shapes, parameters, strict=True):
            parameter.grad = n and torch.randn(n)
        results.append([clip(parameters, max_norm), *(p.grad for p in parameters if p.grad is not None)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-8)


@given(st.integers(2, 60), st.integers(1, 4), st.integers(1, 7))
def test_rows_of_windows_go_on(n, batch_size, block_size):
    pairs = list(windows(torch.arange(n), batch_size, block_size))
    for x, y in pairs:
        assert x.shape == y.shape == (batch_size, block_size)
        assert torch.equal(y, x + 1)
    for (x, _), (following, _) in pairwise(pairs):
        assert torch.equal(following[:, 0], x[:, -1] + 1)
    assert len(pairs) == max(0, (n // batch_size - 1) // block_size)


def test_the_gradient_stops_at_the_border():
    """A window's gradient is that of its own graph, with the state given as a constant."""
    torch.manual_seed(0)
    model = RecurrentModel(5, 3, 4, LSTMCell).double()
    ids = torch.randint(5, (2, 9))
    _, state = model.read(ids[:, :4])
    state = tuple(part.detach() for part in state)
    loss = nn.functional.cross_entropy(model.read(ids[:, 4:8], state)[0].flatten(0, 1), ids[:, 5:9].flatten())
    expected = torch.autograd.grad(loss, model.parameters())
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    truncated_step(model, still, ids[:, 4:8], ids[:, 5:9], state, max_norm=1e9)
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, grad)


# name, edits of the course's version that are right too
RIGHT = [
    (
        "RNNCell",
        (
            "return (torch.tanh(F.linear(x, self.weight_ih, self.bias_ih) + moved),)",
            "return tuple([(moved + x @ self.weight_ih.T + self.bias_ih).tanh()])",
        ),
    ),
    (
        "LSTMCell",
        (
            "i, f, g, o = z.chunk(4, dim=-1)",
            "n = self.n_hidden; i, f, g, o = (z[:, k * n : (k + 1) * n] for k in range(4))",
        ),
    ),
    (
        "RecurrentModel",
        (
            "for x in self.embedding(idx).unbind(1):",
            "for t in range(idx.shape[1]):\n            x = self.embedding(idx[:, t])",
        ),
    ),
    (
        "RecurrentModel",
        ("state[0])", "self.head(state[0]))"),
        ("self.head(torch.stack(outputs, dim=1))", "torch.stack(outputs, 1)"),
    ),
    (
        "clip_gradients",
        (
            "torch.sqrt(sum((grad**2).sum() for grad in grads))",
            "torch.cat([g.flatten() for g in grads]).norm()",
        ),
    ),
    (
        "clip_gradients",
        ("    for grad in grads:", "    if norm <= max_norm:\n        return norm\n    for grad in grads:"),
    ),
    ("truncated_step", ("    optimizer.zero_grad()\n", "    optimizer.zero_grad(set_to_none=False)\n")),
    ("truncated_step", ("optimizer.step()", "optimizer.step()\n    optimizer.zero_grad()")),
    ("truncated_step", ("clip_gradients(model", "torch.nn.utils.clip_grad_norm_(model")),
]

# name, edits that must fail, and what the reply must say or the mistake that it must name
WRONG = [
    ("RNNCell", ("return (", "return ["), (",)\n", "]\n"), "must be a tuple"),
    ("RNNCell", ("(h,) = state", "self.kept = getattr(self, 'kept', state[0]); h = self.kept"), ""),
    ("RNNCell", ("(h,) = state", "h = state[0].clamp(-0.9, 0.9)"), ""),
    ("RNNCell", ("(h,) = state", "h = state[0].mean(0, keepdim=True)"), ""),
    ("LSTMCell", ("c = torch.sigmoid(f) * c", "c = torch.sigmoid(f + 1) * c"), ""),
    ("LSTMCell", ("* torch.tanh(c), c", "* torch.tanh(c.detach()), c"), "The gradient of"),
    ("LSTMCell", ("* torch.tanh(c), c", "* torch.tanh(c), c.clamp(-1, 1)"), ""),
    ("LSTMCell", ("dim=-1", "dim=0"), ""),
    ("RNNCell", ("(h,) = state", "h = state[0]; self.last = h"), "leave nothing behind"),
    ("LSTMCell", ("h, c = state", "h, c = state; h = h.detach()"), "The gradient of the former h"),
    ("RecurrentModel", ("dim=1)), state", "dim=1)).double(), state"), "dtype"),
    ("truncated_step", ("read(x, state)", "read(x[:, -10:], state)"), ""),
    ("truncated_step", ("optimizer.step()", "optimizer.step(); model.eval()"), "the mode of the model"),
    ("truncated_step", ("optimizer.step()", "model.train(); optimizer.step()"), "the mode of the model"),
    ("truncated_step", ("max_norm)\n", "min(max_norm, 1.0))\n"), ""),
    ("RecurrentModel", ("len(idx)", "idx.shape[1]"), ""),
    ("RecurrentModel", ("len(idx)", "1"), "cell.start"),
    ("RecurrentModel", ("if state is None:", "if True:"), "always_from_the_start"),
    ("RecurrentModel", ("state[0]", "state[-1]"), "shows_the_last_part"),
    (
        "RecurrentModel",
        ("state = self.cell(x, state)", "state = self.cell(x, state); self.cell(x, state)"),
        "once for each position",
    ),
    ("RecurrentModel", ("dim=1)", "dim=0)"), "time_first"),
    ("RecurrentModel", ("state[0])", "state[0].detach())"), ""),
    ("clip_gradients", ("(norm + 1e-6)", "norm.clamp(min=0.1)"), ""),
    ("clip_gradients", ("return norm", "return norm.item()"), ""),
    ("clip_gradients", ("grad.mul_(scale)", "grad = grad * scale"), ""),
    ("clip_gradients", (" if p.grad is not None", ""), ""),
    (
        "clip_gradients",
        ("p.grad for p in parameters", "p.data.mul_(0.5).mul_(0) + p.grad for p in parameters"),
        "",
    ),
    ("truncated_step", ("logits, state =", "logits, _ ="), ""),
    ("truncated_step", ("loss.item()", "loss"), "plain Python number"),
    ("truncated_step", ("loss.item()", "loss.item() / y.numel()"), ""),
    ("truncated_step", ("part.detach()", "part"), "never_detached"),
    ("truncated_step", ("part.detach()", "part.detach().sign()"), ""),
    (
        "truncated_step",
        ("optimizer.step()", "optimizer.step(); state = model.read(x)[1]"),
        "Read each window once",
    ),
    ("truncated_step", ("read(x, state)", "read(x)"), "every_window_from_the_start"),
    ("truncated_step", ("    clip_gradients(model.parameters(), max_norm)\n", ""), "not_clipped_in_time"),
    ("truncated_step", ("max_norm)\n", "1.0)\n"), ""),
    ("truncated_step", ("optimizer.zero_grad()", "pass"), "gradients_never_cleared"),
    ("truncated_step", ("return loss.item(), tuple", "loss.item(), tuple"), "Is a return missing?"),
]


@pytest.mark.parametrize("answer", RIGHT, ids=lambda a: f"{a[0]}: {a[1][1][:40]}")
def test_written_differently(answer):
    result = grade(f"gpt2.rnn.{answer[0]}", edited(rnn, answer[0], *answer[1:]), seed=1)
    assert result.status == "passed", result.message


@pytest.mark.parametrize("answer", WRONG, ids=lambda a: f"{a[0]}: {a[1][1][:40]}")
def test_wrong_answers_fail(answer):
    name, *edits, said = answer
    for seed in range(2):
        result = grade(f"gpt2.rnn.{name}", edited(rnn, name, *edits), seed=seed)
        assert result.status in ("failed", "error"), result
        assert said in result.message or said == result.mistake, (result.mistake, result.message)
