"""Checks for the lesson gpt2.rnn.

The oracles are torch's own: nn.RNNCell and nn.LSTMCell, step by step, and nn.utils.clip_grad_norm_. What runs over time
is judged with cells of ours, which count their calls. An observation that is a text is a sentence for the learner.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from groundup.check import Case, Exercise, compare

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def by_name(got, expected) -> str | None:
    """Compares two observations: dicts entry by entry, in the order of the expected one."""
    if got is None:
        return None if expected is None else "You returned None. Is a return missing?"
    if isinstance(got, str) or not isinstance(expected, dict):
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if name not in got:
            return f"{name} is missing."
        if difference := compare(got[name], expected[name]):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


def _numbers(rng: np.random.Generator, *shape: int, dtype=torch.float64, size=1.0) -> torch.Tensor:
    """Normal numbers, none of them near 0."""
    drawn = rng.normal(size=shape)
    return torch.tensor(size * (drawn + 0.2 * np.sign(drawn))).to(dtype)


def _seed(tensor: torch.Tensor, shift: float) -> torch.Tensor:
    """Weights of a sum, the same for everybody, to go backward from."""
    return torch.cos(shift + torch.arange(tensor.numel(), dtype=tensor.dtype)).view(tensor.shape)


def _problem(state, parts: int, what: str) -> str | None:
    """What is wrong with something that should be a state."""
    if state is None:
        return f"{what} is None. Is a return missing?"
    if not isinstance(state, tuple):
        return f"{what} must be a tuple of {parts} tensor{'s' * (parts > 1)}, but it is a {type(state).__name__}."
    if len(state) != parts or not all(isinstance(part, torch.Tensor) for part in state):
        return f"{what} must be a tuple of {parts} tensor{'s' * (parts > 1)}; yours has {len(state)} entries."
    return None


class Base(nn.Module):
    """The parameters of a cell, as on the page."""

    blocks, n_states = 1, 1

    def __init__(self, n_in, n_hidden):
        super().__init__()
        self.n_hidden = n_hidden
        rows = self.blocks * n_hidden
        for name, shape in zip(NAMES, ((rows, n_in), (rows, n_hidden), (rows,), (rows,)), strict=True):
            setattr(self, name, nn.Parameter(0.1 * torch.ones(shape)))

    def start(self, batch_size):
        return tuple(self.weight_hh.new_zeros(batch_size, self.n_hidden) for _ in range(self.n_states))

    def sums(self, x, h):
        return x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh


# ---------------------------------------------------------------------------------------------------------------------
RNNCell = Exercise("gpt2.rnn.RNNCell", kind="class")
LSTMCell = Exercise("gpt2.rnn.LSTMCell", kind="class")


def _cell_cases(rng: np.random.Generator, blocks: int, parts: int) -> Iterator[Case]:
    def case(label, n_in, n_hidden, batch_size, dtype=torch.float64, size=1.0):
        rows, size = blocks * n_hidden, size / (n_in + n_hidden) ** 0.5
        shapes = {"weight_ih": (rows, n_in), "weight_hh": (rows, n_hidden), "bias_ih": (rows,)}
        shapes["bias_hh"] = (rows,)
        weights = {name: _numbers(rng, *shape, dtype=dtype, size=size) for name, shape in shapes.items()}
        state = tuple(_numbers(rng, batch_size, n_hidden, dtype=dtype, size=0.7) for _ in range(parts))
        x = _numbers(rng, batch_size, n_in, dtype=dtype)
        return Case(label, weights=weights, x=x, state=state, gradients=True)

    easy = case("one step with an empty memory, values only", 2, 3, 2).inputs
    easy |= {"state": tuple(torch.zeros_like(part) for part in easy["state"]), "gradients": False}
    easy["weights"]["bias_hh"] = torch.zeros_like(easy["weights"]["bias_hh"])
    yield Case("one step with an empty memory, values only", **easy)
    yield case("one number in, one unit", 1, 1, 1)
    yield case("three in, two units, a batch of four", 3, 2, 4)
    yield case("two in, five units, a batch of three", 2, 5, 3)
    yield case("as many in as units", 4, 4, 4)
    yield case("float32", 3, 6, 2, dtype=torch.float32)
    yield case("large weights", 3, 5, 4, size=4.0)


@RNNCell.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    return _cell_cases(rng, 1, 1)


@LSTMCell.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield from _cell_cases(rng, 4, 2)
    weights = {
        n: _numbers(rng, *s).repeat(4, *[1] * (len(s) - 1))
        for n, s in zip(NAMES, [(2, 3), (2, 2), (2,), (2,)], strict=True)
    }
    state = _numbers(rng, 3, 2), _numbers(rng, 3, 2)
    x = _numbers(rng, 3, 3)
    yield Case("four blocks alike, values only", weights=weights, x=x, state=state, gradients=False)


def _look_at_cell(cell, step, weights, x, state, gradients):
    """One step with all its gradients, and then two more, of another batch, as a check that nothing stays behind."""
    parts, seen = len(state), {"The names in state_dict()": list(cell.state_dict())}
    if sorted(seen["The names in state_dict()"]) != sorted(NAMES):
        return (
            f"state_dict() must have the names {', '.join(NAMES)}; yours has {', '.join(cell.state_dict())}."
        )
    cell.to(x.dtype).load_state_dict(weights)
    before = set(vars(cell))
    x = x.requires_grad_()
    state = tuple(part.requires_grad_() for part in state)
    after = step(cell, x, state)
    if problem := _problem(after, parts, "The next state"):
        return problem
    names = ("h", "c")[:parts]
    seen |= {f"The next {name}": part.detach() for name, part in zip(names, after, strict=True)}
    if not gradients:
        return seen
    if not all(part.requires_grad for part in after):
        return "The next state is cut from its graph, so that nothing can be learnt. Compute with the tensors themselves."
    total = sum((part * _seed(part, 1.0 + k)).sum() for k, part in enumerate(after))
    leaves = dict(cell.named_parameters()) | {"x": x}
    leaves |= {f"the former {name}": part for name, part in zip(names, state, strict=True)}
    grads = torch.autograd.grad(total, leaves.values(), allow_unused=True)
    seen |= {
        f"The gradient of {name}": torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }
    with torch.no_grad():
        again = tuple(part[:1] * 0.5 for part in state)
        for k in range(2):
            again = step(cell, x[:1] * (k + 0.5), again)
            if problem := _problem(again, parts, "The next state"):
                return problem
    if kept := set(vars(cell)) - before:
        return f"You keep something in self ({', '.join(sorted(kept))}). The state goes in and comes out; leave nothing behind."
    return seen | {f"Two steps later, {name}": part for name, part in zip(names, again, strict=True)}


def _observe_cell(obj, weights, x, state, gradients):
    n_hidden = state[0].shape[1]
    cell = obj(x.shape[1], n_hidden)
    return _look_at_cell(cell, lambda cell, x, state: cell(x, state), weights, x, state, gradients)


RNNCell.observe(_observe_cell)
LSTMCell.observe(_observe_cell)
RNNCell.agree(by_name)
LSTMCell.agree(by_name)


@RNNCell.oracle
def _(weights, x, state, gradients):
    cell = nn.RNNCell(x.shape[1], state[0].shape[1])
    return _look_at_cell(cell, lambda cell, x, state: (cell(x, state[0]),), weights, x, state, gradients)


@LSTMCell.oracle
def _(weights, x, state, gradients):
    cell = nn.LSTMCell(x.shape[1], state[0].shape[1])
    return _look_at_cell(cell, lambda cell, x, state: tuple(cell(x, state)), weights, x, state, gradients)


class _RNN(Base):
    """A right RNN cell, to be spoilt."""

    def forward(self, x, state):
        return (torch.tanh(self.sums(x, state[0])),)


@RNNCell.mistake(shape=True)  # right on no case
class no_tanh(_RNN):
    """You left out the tanh. Then the whole past is one linear map of the inputs, and the state can grow without limit."""

    def forward(self, x, state):
        return (self.sums(x, state[0]),)


@RNNCell.mistake(shape=True)  # right on no case
class sigmoid_for_tanh(_RNN):
    """You used the sigmoid. It gives numbers between 0 and 1 only; the equation has tanh, between −1 and 1."""

    def forward(self, x, state):
        return (torch.sigmoid(self.sums(x, state[0])),)


@RNNCell.mistake
class one_bias_only(_RNN):
    """You added bias_ih but not bias_hh. One of them would do, but then weights that came from PyTorch, where both are used, give other states."""

    def forward(self, x, state):
        return (torch.tanh(self.sums(x, state[0]) - self.bias_hh),)


@RNNCell.mistake
class memory_left_out(_RNN):
    """You left out the former h. Then each state knows the present character only, and nothing is remembered."""

    def forward(self, x, state):
        return (torch.tanh(x @ self.weight_ih.T + self.bias_ih + self.bias_hh),)


@RNNCell.mistake
class added_to_the_old_state(_RNN):
    """You added the tanh to the former h. This RNN replaces its state: the new h is the tanh alone."""

    def forward(self, x, state):
        return (state[0] + torch.tanh(self.sums(x, state[0])),)


@RNNCell.mistake
class state_cut_off(_RNN):
    """You detached the former state inside the cell. Then no gradient travels through time, and the cell cannot learn what to remember."""

    def forward(self, x, state):
        return (torch.tanh(self.sums(x, state[0].detach())),)


@RNNCell.mistake(shape=True)
class state_is_no_tuple(_RNN):
    """You returned h itself. The state goes in as a tuple and comes out as a tuple, here with one entry: (h,)."""

    def forward(self, x, state):
        return torch.tanh(self.sums(x, state[0]))


class _LSTM(Base):
    """A right LSTM cell, to be spoilt."""

    blocks, n_states = 4, 2
    order = "ifgo"

    def forward(self, x, state):
        h, c = state
        blocks = dict(zip(self.order, self.sums(x, h).chunk(4, dim=-1), strict=True))
        i, f, o = (torch.sigmoid(blocks[name]) for name in "ifo")
        return self.combine(i, f, torch.tanh(blocks["g"]), o, c)

    def combine(self, i, f, g, o, c):
        c = f * c + i * g
        return o * torch.tanh(c), c


@LSTMCell.mistake
class gates_in_another_order(_LSTM):
    """You took the blocks in the order i, f, o, g, as some papers write them. In PyTorch's weights the order is i, f, g, o."""

    order = "ifog"


@LSTMCell.mistake
class input_and_forget_exchanged(_LSTM):
    """You took the first block for the forget gate and the second for the input gate. The order is i, f, g, o."""

    order = "figo"


@LSTMCell.mistake(shape=True)  # right on no case
class shows_the_old_c(_LSTM):
    """You made h from the former c. It is the new c that is shown: otherwise everything is seen one step late."""

    def combine(self, i, f, g, o, c):
        return o * torch.tanh(c), f * c + i * g


@LSTMCell.mistake(shape=True)  # right on no case
class c_shown_without_tanh(_LSTM):
    """You showed o times c. In the equation c passes through a tanh first, which keeps h between −1 and 1 however large c grows."""

    def combine(self, i, f, g, o, c):
        c = f * c + i * g
        return o * c, c


@LSTMCell.mistake
class nothing_forgotten(_LSTM):
    """You kept all of the former c. It is kept to the share f: without the forget gate c only ever grows."""

    def combine(self, i, f, g, o, c):
        c = c + i * g
        return o * torch.tanh(c), c


@LSTMCell.mistake(shape=True)  # right on no case
class input_gate_is_one_minus_forget(_LSTM):
    """You wrote with 1 − f, as in another cell, the GRU. Here how much is written has a gate of its own, i."""

    def combine(self, i, f, g, o, c):
        c = f * c + (1 - f) * g
        return o * torch.tanh(c), c


@LSTMCell.mistake(shape=True)  # right on no case
class c_and_h_exchanged(_LSTM):
    """You returned (c, h). The order is (h, c): the first part is what the rest of the model sees."""

    def combine(self, i, f, g, o, c):
        return super().combine(i, f, g, o, c)[::-1]


@LSTMCell.mistake(shape=True)  # right on no case
class new_content_through_a_sigmoid(_LSTM):
    """You put all four blocks through a sigmoid. g is what is written: with a tanh it may be negative too; with a sigmoid c could only be pushed up."""

    def forward(self, x, state):
        i, f, g, o = torch.sigmoid(self.sums(x, state[0])).chunk(4, dim=-1)
        return self.combine(i, f, g, o, state[1])


# ---------------------------------------------------------------------------------------------------------------------
RecurrentModel = Exercise("gpt2.rnn.RecurrentModel", kind="class")


class _Counting:
    calls = 0

    def __init__(self, n_in, n_hidden):
        super().__init__(n_in, n_hidden)
        self.asked = []

    def forward(self, x, state):
        self.calls += 1
        return super().forward(x, state)

    def start(self, batch_size):
        """Not zeros, so that it is seen whether it was used."""
        self.asked.append(batch_size)
        zeros = super().start(batch_size)
        return tuple(part + 0.3 * (k + 1) for k, part in enumerate(zeros))


class CountingRNN(_Counting, _RNN):
    pass


class CountingLSTM(_Counting, _LSTM):
    pass


CELLS = {"RNN": CountingRNN, "LSTM": CountingLSTM}


@RecurrentModel.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, vocab_size, n_embd, n_hidden, cell, batch_size, first, second, dtype="float64"):
        sizes = {"vocab_size": vocab_size, "n_embd": n_embd, "n_hidden": n_hidden}
        idx = [torch.tensor(rng.integers(vocab_size, size=(batch_size, n))) for n in (first, second)]
        seed = int(rng.integers(1, 1000))
        going_on = idx[1] if second else None
        return Case(label, sizes=sizes, cell=cell, idx=idx[0], going_on=going_on, seed=seed, dtype=dtype)

    yield case("one reading, logits only", 4, 2, 3, "RNN", 2, 3, 0)
    yield case("an RNN that reads three characters, then two", 4, 2, 3, "RNN", 2, 3, 2)
    yield case("an LSTM that reads two characters, then five", 6, 5, 4, "LSTM", 3, 2, 5)
    yield case("as many texts as characters", 5, 3, 4, "RNN", 4, 4, 4)
    yield case("one character at a time", 5, 3, 4, "LSTM", 3, 1, 1)
    yield case("one text", 5, 4, 3, "RNN", 1, 6, 2)
    yield case("a longer text", 9, 4, 5, "LSTM", 2, 20, 15)
    yield case("float32", 6, 3, 4, "LSTM", 3, 4, 2, dtype="float32")


def _shapes(sizes, cell) -> dict[str, tuple[int, ...]]:
    V, E, H, rows = (*sizes.values(), CELLS[cell].blocks * sizes["n_hidden"])
    shapes = {"embedding.weight": (V, E)}
    shapes |= dict(zip([f"cell.{n}" for n in NAMES], ((rows, E), (rows, H), (rows,), (rows,)), strict=True))
    return shapes | {"head.weight": (V, H), "head.bias": (V,)}


def _weights(sizes, cell, seed) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {name: _numbers(rng, *shape, size=0.5) for name, shape in _shapes(sizes, cell).items()}


def _grads(total, parameters: dict) -> dict:
    grads = torch.autograd.grad(total, parameters.values(), allow_unused=True)
    pairs = zip(parameters.items(), grads, strict=True)
    return {f"The gradient of {n}": torch.zeros_like(p) if g is None else g for (n, p), g in pairs}


def _sum(*tensors) -> torch.Tensor:
    return sum((t * _seed(t, 1.0 + k)).sum() for k, t in enumerate(tensors))


@RecurrentModel.observe
def _(obj, sizes, cell, idx, going_on, seed, dtype):
    model = obj(*sizes.values(), CELLS[cell]).to(getattr(torch, dtype))
    weights, has = _weights(sizes, cell, seed), {n: tuple(v.shape) for n, v in model.state_dict().items()}
    if has != _shapes(sizes, cell):
        return f"The model's state_dict() has {has}; expected {_shapes(sizes, cell)}."
    model.load_state_dict(weights)
    parts, results, seen = CELLS[cell].n_states, [], {}
    for part, state in ((idx, None), (going_on, "the state returned")):
        if part is None:
            return seen
        state = state and results[0][1]
        model.cell.calls = 0
        result = model.read(part, state)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], torch.Tensor)):
            return "read must return two things: the logits, a tensor, and the state. Is a return missing?"
        if problem := _problem(result[1], parts, "The state that read returns"):
            return problem
        results.append(result)
        where = "the first part" if state is None else "the second part, from the state of the first"
        seen[f"The logits of {where}"] = result[0].detach()
        seen[f"The state after {where}"] = tuple(x.detach() for x in result[1])
        if model.cell.calls != part.shape[1]:
            return f"With T = {part.shape[1]} the cell is called once for each position; you called it {model.cell.calls} times."
    if set(model.cell.asked) - {len(idx)}:
        return f"You asked cell.start for a batch of {model.cell.asked[0]}; there are {len(idx)} texts, the rows of idx."
    (first, _), (second, last) = results
    if not second.requires_grad:
        return "The logits are cut from their graph, so that nothing can be learnt. Let the tensors keep their past."
    seen |= _grads(_sum(first, second, *last), dict(model.named_parameters()))
    with torch.no_grad():
        fewer = model(going_on[:1])
        if not isinstance(fewer, torch.Tensor):
            return "model(idx) must return the logits alone; read returns the logits and the state."
        return seen | {"The logits of model(idx), with another batch": fewer}


@RecurrentModel.oracle
def _(sizes, cell, idx, going_on, seed, dtype):
    dtype = getattr(torch, dtype)
    leaves = {n: w.to(dtype).requires_grad_() for n, w in _weights(sizes, cell, seed).items()}
    weights = [leaves[f"cell.{name}"] for name in NAMES]
    parts = CELLS[cell].n_states

    def run(idx, state):
        outputs = []
        for t in range(idx.shape[1]):
            x = leaves["embedding.weight"][idx[:, t]]
            if cell == "RNN":
                state = (torch.rnn_tanh_cell(x, state[0], *weights),)
            else:
                state = tuple(torch.lstm_cell(x, state, *weights))
            outputs.append(F.linear(state[0], leaves["head.weight"], leaves["head.bias"]))
        return torch.stack(outputs).transpose(0, 1).contiguous(), state

    def start(batch_size):
        shape = batch_size, sizes["n_hidden"]
        return tuple(torch.full(shape, 0.3 * (k + 1), dtype=dtype) for k in range(parts))

    first, middle = run(idx, start(len(idx)))
    if going_on is None:
        return {
            "The logits of the first part": first.detach(),
            "The state after the first part": tuple(x.detach() for x in middle),
        }
    second, last = run(going_on, middle)
    seen = {
        "The logits of the first part": first.detach(),
        "The state after the first part": tuple(x.detach() for x in middle),
        "The logits of the second part, from the state of the first": second.detach(),
        "The state after the second part, from the state of the first": tuple(x.detach() for x in last),
    }
    seen |= _grads(_sum(first, second, *last), leaves)
    return seen | {"The logits of model(idx), with another batch": run(going_on[:1], start(1))[0].detach()}


RecurrentModel.agree(by_name)


class _Model(nn.Module):
    """A right model, to be spoilt."""

    def __init__(self, vocab_size, n_embd, n_hidden, cell):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.cell = cell(n_embd, n_hidden)
        self.head = nn.Linear(n_hidden, vocab_size)

    def read(self, idx, state=None):
        state = self.begin(idx, state)
        outputs = []
        for t in self.times(idx.shape[1]):
            state = self.step(self.embedding(idx[:, t]), state)
            outputs.append(self.shown(state))
        return self.head(torch.stack(outputs, dim=1)), state

    def begin(self, idx, state):
        return self.cell.start(len(idx)) if state is None else state

    def times(self, count):
        return range(count)

    def step(self, x, state):
        return self.cell(x, state)

    def shown(self, state):
        return state[0]

    def forward(self, idx):
        return self.read(idx)[0]


@RecurrentModel.mistake
class always_from_the_start(_Model):
    """You begin at cell.start even if a state is given. Then a text that is read in two parts is forgotten in between."""

    def begin(self, idx, state):
        return self.cell.start(len(idx))


@RecurrentModel.mistake
class every_step_from_the_start(_Model):
    """You call the cell at each position with the state from the beginning. Hand on the state that the call before returned."""

    def read(self, idx, state=None):
        first = self.begin(idx, state)
        states = [self.cell(self.embedding(idx[:, t]), first) for t in range(idx.shape[1])]
        return self.head(torch.stack([s[0] for s in states], dim=1)), states[-1]


@RecurrentModel.mistake
class shows_the_last_part(_Model):
    """You gave the head the last part of the state. For the LSTM that is c; what the rest of the model sees is the first part, h."""

    def shown(self, state):
        return state[-1]


@RecurrentModel.mistake
class reads_backwards(_Model):
    """You read the text from its end. Then the logits know what comes later, and the state is that of the first character."""

    def times(self, count):
        return range(count)[::-1]

    def read(self, idx, state=None):
        logits, state = super().read(idx, state)
        return logits.flip(1), state


@RecurrentModel.mistake(shape=True)  # right on no case
class one_step_late(_Model):
    """You collect the state before the cell has read the character. Then the logits at t know nothing of the character at t."""

    def read(self, idx, state=None):
        state = self.begin(idx, state)
        outputs = []
        for t in range(idx.shape[1]):
            outputs.append(state[0])
            state = self.cell(self.embedding(idx[:, t]), state)
        return self.head(torch.stack(outputs, dim=1)), state


@RecurrentModel.mistake
class detached_at_each_step(_Model):
    """You detach the state at each step. The numbers are right, but no gradient travels through time: the model cannot learn what to remember."""

    def step(self, x, state):
        return self.cell(x, tuple(part.detach() for part in state))


@RecurrentModel.mistake
class state_detached_by_read(_Model):
    """You detach the state that read returns. Reading in two parts must be the same as reading at once, gradients too; whoever trains decides where to cut."""

    def read(self, idx, state=None):
        logits, state = super().read(idx, state)
        return logits, tuple(part.detach() for part in state)


@RecurrentModel.mistake
class state_kept_in_self(_Model):
    """You keep the state in self and go on from there. Then what a model says depends on what was read before. Begin at cell.start if no state is given."""

    def begin(self, idx, state):
        kept = getattr(self, "kept", None)
        state = kept if state is None and kept is not None else super().begin(idx, state)
        return tuple(part[: len(idx)] for part in state)

    def step(self, x, state):
        self.kept = self.cell(x, state)
        return self.kept


@RecurrentModel.mistake(shape=True)
class time_first(_Model):
    """Your logits have the shape (T, B, vocab_size). Stack the outputs along the second axis: the texts come first."""

    def read(self, idx, state=None):
        logits, state = super().read(idx, state)
        return logits.transpose(0, 1), state


@RecurrentModel.mistake(shape=True)
class last_logits_only(_Model):
    """You returned the logits of the last position only. Each position predicts its next character."""

    def read(self, idx, state=None):
        logits, state = super().read(idx, state)
        return logits[:, -1], state


# ---------------------------------------------------------------------------------------------------------------------
clip_gradients = Exercise("gpt2.rnn.clip_gradients")


@clip_gradients.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, shapes, max_norm, size=1.0, dtype=torch.float64):
        grads = [s and _numbers(rng, *s, dtype=dtype, size=size) for s in shapes]
        return Case(label, grads=grads, max_norm=max_norm)

    yield Case("lengths 3 and 4", grads=[torch.tensor([3.0, 0.0]), torch.tensor([4.0])], max_norm=1.0)
    yield case("ragged shapes, far too long", [(3, 2), (5,), (2, 4)], 0.5)
    yield case("short enough", [(3, 2), (4,)], 100.0)
    yield case("each short enough, together too long", [(2,), (3,), (2, 2), (3,)], 3.0, size=0.9)
    yield case("a parameter without a gradient", [(2, 3), None, (4,), None], 0.7)
    yield case("the first has none", [None, (3, 3)], 0.4, size=2.0)
    yield case("one parameter", [(4, 2)], 1.5)
    yield case("tiny gradients", [(3,), (2, 2)], 1e-6, size=1e-6)
    yield case("a limit above 1", [(6, 5), (7,)], 2.5, size=2.0)
    yield case("float32", [(3, 2), (4,)], 0.3, dtype=torch.float32)
    yield Case("all gradients are 0", grads=[torch.zeros(2), torch.zeros(3, 1)], max_norm=1.0)


def _clipped(obj, grads, max_norm, once=True):
    parameters = [nn.Parameter(torch.ones(2) if g is None else torch.ones_like(g)) for g in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    held = [parameter.grad for parameter in parameters]
    norm = obj((p for p in parameters) if once else parameters, max_norm)
    if norm is None:
        return "You returned None: the length of the gradients before the clipping is missing."
    seen = {"The length that you returned": norm}
    for k, parameter in enumerate(parameters):
        seen[f"The gradient of parameter {k}"] = parameter.grad
        if parameter.grad is not held[k]:
            seen[f"The gradient of parameter {k}, for one who held it before"] = held[k]
        seen[f"Parameter {k} itself"] = parameter.data
    return seen


@clip_gradients.observe
def _(obj, grads, max_norm):
    return _clipped(obj, grads, max_norm)


@clip_gradients.oracle
def _(grads, max_norm):
    return _clipped(nn.utils.clip_grad_norm_, grads, max_norm, once=False)


@clip_gradients.agree
def _(got, expected):
    if difference := by_name(got, expected):
        return difference
    if isinstance(got, dict):
        for name in got.keys() - expected.keys():
            return f"{name.partition(',')[0]} is a new tensor. Scale it in place: whoever holds the old one sees no change."
    return None


def _measure(grads) -> torch.Tensor:
    return torch.sqrt(sum((g**2).sum() for g in grads))


def _with_gradient(parameters) -> list:
    return [p for p in parameters if p.grad is not None]


@clip_gradients.mistake
def each_by_itself(parameters, max_norm):
    """You clipped each gradient by its own length. That turns the step: large gradients are shortened, small ones are not. There is one length for all together."""
    found = _with_gradient(parameters)
    norm = _measure([p.grad for p in found])
    for p in found:
        p.grad *= (max_norm / (p.grad.norm() + 1e-6)).clamp(max=1.0)
    return norm


@clip_gradients.mistake
def each_number_by_itself(parameters, max_norm):
    """You cut each number off at the limit. That turns the step: the large numbers lose their lead over the small ones. Scale all with one factor."""
    found = _with_gradient(parameters)
    norm = _measure([p.grad for p in found])
    for p in found:
        p.grad.clamp_(-max_norm, max_norm)
    return norm


@clip_gradients.mistake
def always_scaled(parameters, max_norm):
    """You scale even if the gradients are short enough: then small gradients grow, and every step has the same length. The factor is 1 at most."""
    found = _with_gradient(parameters)
    norm = _measure([p.grad for p in found])
    for p in found:
        p.grad *= max_norm / (norm + 1e-6)
    return norm


@clip_gradients.mistake
def length_after(parameters, max_norm):
    """You returned the length after the clipping. The one before is worth watching: it says when a run is about to explode."""
    found = _with_gradient(parameters)
    scale = (max_norm / (_measure([p.grad for p in found]) + 1e-6)).clamp(max=1.0)
    for p in found:
        p.grad *= scale
    return _measure([p.grad for p in found])


@clip_gradients.mistake
def lengths_added(parameters, max_norm):
    """You added the lengths of the gradients. The squares add up, not the lengths: 3 and 4 together have length 5."""
    found = _with_gradient(parameters)
    norm = sum(p.grad.norm() for p in found)
    for p in found:
        p.grad *= (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return norm


@clip_gradients.mistake
def forgot_the_root(parameters, max_norm):
    """You left out the root: the sum of the squares is the length times itself."""
    found = _with_gradient(parameters)
    norm = sum((p.grad**2).sum() for p in found)
    for p in found:
        p.grad *= (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return norm


@clip_gradients.mistake
def generator_used_up(parameters, max_norm):
    """Your second loop over `parameters` finds nothing: it may be a generator, which can be run over once. Keep the gradients in a list."""
    return _measure([p.grad for p in parameters if p.grad is not None])


@clip_gradients.mistake(shape=True)  # right on no case
def new_tensors(parameters, max_norm):
    """You put new tensors into .grad. Scale the old ones in place: whoever holds one of them, an optimizer for example, sees no change."""
    found = _with_gradient(parameters)
    norm = _measure([p.grad for p in found])
    for p in found:
        p.grad = p.grad * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return norm


# ---------------------------------------------------------------------------------------------------------------------
truncated_step = Exercise("gpt2.rnn.truncated_step")


@truncated_step.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, cell, batch_size, block_size, max_norm, vocab_size=5, count=4):
        sizes = {"vocab_size": vocab_size, "n_embd": 3, "n_hidden": 4}
        shape = count, batch_size, block_size + 1
        text = torch.tensor(rng.integers(vocab_size, size=shape))
        seed = int(rng.integers(1, 1000))
        return Case(label, sizes=sizes, cell=cell, text=text, max_norm=max_norm, seed=seed)

    yield case("one window alone: its loss and its step", "RNN", 2, 4, 0.1, count=1)
    yield case("an RNN, two texts, windows of three", "RNN", 2, 3, 0.1)
    yield case("an LSTM, three texts, windows of five", "LSTM", 3, 5, 0.05)
    yield case("gradients that need no clipping, windows of twelve", "RNN", 2, 12, 100.0)
    yield case("now and then too long", "RNN", 3, 4, 0.6, vocab_size=7)
    yield case("one text, windows of one", "LSTM", 1, 1, 0.2)


class _Spy(_Model):
    """Counts how often it is read, and remembers whether the state that came in had a past."""

    reads = 0

    def read(self, idx, state=None):
        self.reads += 1
        return super().read(idx, state)


def _trained(obj, sizes, cell, text, max_norm, seed):
    model = _Spy(*sizes.values(), CELLS[cell]).double()
    size = 6.0 if max_norm > 1 else 1.0  # for gradients longer than 1 that need no clipping
    model.load_state_dict({n: size * w for n, w in _weights(sizes, cell, seed).items()})
    alone = len(text) == 1
    model.train(cell == "RNN")  # either mode must stay as it is
    for parameter in model.parameters():  # of an earlier batch: to be cleared
        parameter.grad = None if alone else torch.full_like(parameter, 0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    state, seen = None, {}
    for number, window in enumerate(text, start=1):
        model.reads = 0
        result = obj(model, optimizer, window[:, :-1], window[:, 1:], state, max_norm)
        if not (isinstance(result, tuple) and len(result) == 2):
            return "truncated_step must return two things: the loss and the state. Is a return missing?"
        loss, state = result
        if isinstance(loss, torch.Tensor):
            return (
                "The loss must be a plain Python number. A tensor of the graph keeps the whole graph alive."
            )
        if problem := _problem(state, CELLS[cell].n_states, "The state"):
            return problem
        seen[f"The loss of window {number}"] = loss
        if not alone:
            seen[f"The state after window {number}"] = tuple(part.detach() for part in state)
            seen[f"The state after window {number} has a graph"] = any(p.requires_grad for p in state)
        for name, parameter in model.named_parameters():
            seen[f"After step {number}, {name}"] = parameter.detach().clone()
        seen[f"Readings of window {number}"] = model.reads
        if model.training != (cell == "RNN"):
            return "You changed the mode of the model. Leave it in train or eval, whichever it came in."
    return seen


@truncated_step.observe
def _(obj, sizes, cell, text, max_norm, seed):
    return _trained(obj, sizes, cell, text, max_norm, seed)


class _Step:
    """A right step, to be spoilt; its parts are called in this order."""

    def before(self, model, optimizer, state):
        return state

    def loss(self, logits, y):
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    def update(self, model, optimizer, loss, max_norm):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()

    def after(self, given, state):
        return tuple(part.detach() for part in state)

    def __call__(self, model, optimizer, x, y, state, max_norm):
        logits, new = model.read(x, self.before(model, optimizer, state))
        loss = self.loss(logits, y)
        self.update(model, optimizer, loss, max_norm)
        return loss.item(), self.after(model.cell.start(len(x)) if state is None else state, new)


@truncated_step.oracle
def _(sizes, cell, text, max_norm, seed):
    return _trained(_Step(), sizes, cell, text, max_norm, seed)


@truncated_step.agree
def _(got, expected):
    difference = by_name(got, expected)
    if difference and "has a graph" in difference:
        return "The state that you return has a graph. Detach it: otherwise the next window goes backward through this one."
    if difference and difference.startswith("Readings"):
        return f"Read each window once. {difference}"
    return difference


def _spoilt(name: str, sentence: str, **methods) -> None:
    step = type(name, (_Step,), methods)()

    def wrong(model, optimizer, x, y, state, max_norm):
        return step(model, optimizer, x, y, state, max_norm)

    wrong.__name__, wrong.__doc__ = name, sentence
    truncated_step.mistake(wrong)


_spoilt(
    "returned_the_state_that_came_in",
    "You return the state that came in, not the one that read returned. Each window then begins with the first state, and forgets all before its border.",
    after=lambda self, given, state: tuple(part.detach() for part in given),
)
_spoilt(
    "every_window_from_the_start",
    "You do not hand `state` to model.read, so each window begins without a memory.",
    before=lambda self, model, optimizer, state: None,
)
_spoilt(
    "zeros_carried_on",
    "You return zeros as the state. Detaching keeps the numbers, and forgets only how they came about.",
    after=lambda self, given, state: tuple(torch.zeros_like(part) for part in state),
)
_spoilt(
    "never_detached",
    "You return the state with its graph. The next window goes backward through the window before, whose graph is used up and whose weights have moved. Detach it.",
    after=lambda self, given, state: state,
)
_spoilt(
    "detached_as_it_comes_in",
    "You detach the state as it comes in, and return one with its graph. The numbers are right, but the graph of the last window stays in memory. Detach what you return.",
    before=lambda self, model, optimizer, state: state and tuple(part.detach() for part in state),
    after=lambda self, given, state: state,
)


def _unclipped(self, model, optimizer, loss, max_norm):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _uncleared(self, model, optimizer, loss, max_norm):
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()


_spoilt(
    "gradients_never_cleared",
    "You do not clear the gradients, so those of all windows so far add up. Clear them before backward.",
    update=_uncleared,
)
_spoilt(
    "not_clipped_in_time",
    "Your step is as long as if nothing had been clipped. Clip between backward and step: before backward there is no gradient yet, and after the step it is too late.",
    update=_unclipped,
)
_spoilt(
    "loss_added_up",
    "You add up the loss over all characters. It must be the mean: otherwise the gradient grows with B and T.",
    loss=lambda self, logits, y: F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum"),
)
