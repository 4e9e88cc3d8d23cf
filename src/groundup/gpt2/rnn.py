"""RNN and LSTM.

Generated from chapters/02_gpt2/02_rnn.md by `make sync`: edit that file, not this one.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "Cell",
    "LSTMCell",
    "RNNCell",
    "RecurrentModel",
    "State",
    "clip_gradients",
    "truncated_step",
    "windows",
]

State = tuple[torch.Tensor, ...]  # what a cell hands on from step to step


class Cell(nn.Module):
    """The parameters of a recurrent cell, named and drawn as in torch.nn.

    A child's forward(x, state) returns the next state: a tuple of `n_states` tensors of
    shape (B, n_hidden), whose first is what the rest of a model sees.
    """

    blocks, n_states = 1, 1

    def __init__(self, n_in: int, n_hidden: int):
        super().__init__()
        self.n_hidden, rows = n_hidden, self.blocks * n_hidden
        self.weight_ih = nn.Parameter(torch.empty(rows, n_in))
        self.weight_hh = nn.Parameter(torch.empty(rows, n_hidden))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        bound = 1 / math.sqrt(n_hidden)
        for parameter in self.parameters():  # each number evenly between the bounds
            nn.init.uniform_(parameter, -bound, bound)

    def start(self, batch_size: int) -> State:
        """The state before anything was read: zeros."""
        shape = batch_size, self.n_hidden
        return tuple(self.weight_hh.new_zeros(shape) for _ in range(self.n_states))


class RNNCell(Cell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), the RNN of Elman (1990)."""

    def forward(self, x: torch.Tensor, state: State) -> State:
        """x (B, n_in), state (h,) with h (B, n_hidden): the next state, (h',)."""
        (h,) = state
        moved = F.linear(h, self.weight_hh, self.bias_hh)  # h @ weight.T + bias
        return (torch.tanh(F.linear(x, self.weight_ih, self.bias_ih) + moved),)


class RecurrentModel(nn.Module):
    """Embedding, a recurrent cell run over time, and a head: idx (B, T) → logits.

    cell: a class such as RNNCell, made with (n_embd, n_hidden).
    """

    def __init__(self, vocab_size: int, n_embd: int, n_hidden: int, cell: type[Cell]):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.cell = cell(n_embd, n_hidden)
        self.head = nn.Linear(n_hidden, vocab_size)

    def read(self, idx: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """idx (B, T): logits (B, T, vocab_size), and the state after the last token.

        state: where to begin, as an earlier call returned it; None is the start.
        """
        if state is None:
            state = self.cell.start(len(idx))
        outputs = []
        for x in self.embedding(idx).unbind(1):  # one (B, n_embd) for each position
            state = self.cell(x, state)
            outputs.append(state[0])
        return self.head(torch.stack(outputs, dim=1)), state

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """idx (B, T), read from the start: logits (B, T, vocab_size)."""
        return self.read(idx)[0]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scales all gradients in place, so that together they are at most max_norm long.

    Returns their length before. Pascanu, Mikolov and Bengio (2013), section 3.2.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale)
    return norm


class LSTMCell(Cell):
    """Long short-term memory; the blocks of the parameters are i, f, g, o.

    Hochreiter and Schmidhuber (1997), with the forget gate of Gers and others (2000).
    """

    blocks, n_states = 4, 2

    def forward(self, x: torch.Tensor, state: State) -> State:
        """x (B, n_in), state (h, c), both (B, n_hidden): the next (h, c)."""
        h, c = state
        moved = F.linear(h, self.weight_hh, self.bias_hh)
        z = F.linear(x, self.weight_ih, self.bias_ih) + moved
        i, f, g, o = z.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


def windows(
    ids: torch.Tensor, batch_size: int, block_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets (batch_size, block_size); each row goes on in the next window.

    ids: a text, (N,). What is left at the end of the rows, and of the text, is skipped.
    """
    length = len(ids) // batch_size
    rows = ids[: batch_size * length].view(batch_size, length)
    for start in range(0, length - block_size, block_size):
        end = start + block_size
        yield rows[:, start:end], rows[:, start + 1 : end + 1]


def truncated_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    state: State | None,
    max_norm: float,
) -> tuple[float, State]:
    """One step of truncated backpropagation through time, on one window.

    x, y: inputs and targets (B, T); state: of the window before, or None.
    Returns the loss before the step, and the state after the window, detached.
    """
    logits, state = model.read(x, state)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    clip_gradients(model.parameters(), max_norm)
    optimizer.step()
    return loss.item(), tuple(part.detach() for part in state)
