"""The lesson autograd.training: its functions against torch and what must hold of every draw, and its checks."""

import inspect
import math
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.autograd import training
from groundup.autograd.losses import cross_entropy
from groundup.autograd.optimizers import SGD
from groundup.autograd.training import MLP, find_learning_rate, init_weights, minibatches, train
from groundup.check import grade

seeds = st.integers(0, 2**32 - 1)


def test_he_keeps_the_size_of_the_signal():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(400, 200))
    for n_out in (300, 100, 250, 200):
        h = np.maximum(h @ init_weights(rng, h.shape[1], n_out), 0)
        assert (h**2).mean() == pytest.approx(1, rel=0.25)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(1, 6), seeds)
def test_mlp_equals_torch(sizes, n, seed):
    rng = np.random.default_rng(seed)
    model, x = MLP(sizes, rng), rng.normal(size=(n, sizes[0]))
    parts = []
    for weights, bias in model.layers:
        linear = torch.nn.Linear(*weights.shape, dtype=torch.float64)
        linear.weight.data[...], linear.bias.data[...] = torch.tensor(weights.data.T), torch.tensor(bias.data)
        parts += [linear, torch.nn.ReLU()]
    theirs = torch.nn.Sequential(*parts[:-1])
    targets = rng.integers(sizes[-1], size=n)
    loss = cross_entropy(model(x), targets)
    loss.backward()
    wanted = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(targets))
    wanted.backward()
    assert loss.data.item() == pytest.approx(wanted.item(), rel=1e-10, abs=1e-12)
    for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
        grad = other.grad.numpy()
        np.testing.assert_allclose(ours.grad, grad.T if grad.ndim == 2 else grad, rtol=1e-9, atol=1e-12)
    assert len(model.hidden(x)) == len(sizes) - 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), seeds)
def test_an_epoch_holds_every_row_once(n, batch_size, seed):
    batches = list(minibatches(np.random.default_rng(seed), n, batch_size))
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert [len(rows) for rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.3, 1.0, 2.5, 9.0, math.inf, math.nan]), min_size=2, max_size=12),
    st.floats(1.1, 6),
)
def test_a_sweep_ends_before_the_first_bad_loss(curve, blow_up):
    left = iter(curve)
    rates, losses = find_learning_rate(lambda rate: next(left), 1e-3, 10.0, len(curve), blow_up)
    assert losses == curve[: len(losses)]
    assert all(
        math.isfinite(loss) and loss <= blow_up * min(losses[: k + 1]) for k, loss in enumerate(losses)
    )
    if len(losses) < len(curve):
        bad = curve[len(losses)]
        assert not math.isfinite(bad) or bad > blow_up * min(losses)
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(1e4) / (len(curve) - 1))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), seeds)
def test_training_follows_plain_descent(n, batch_size, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.integers(4, size=n)
    model = MLP([3, 5, 4], rng)
    start = [p.data.copy() for p in model.parameters()]
    again = np.random.default_rng(seed)
    losses = train(
        model,
        SGD(model.parameters(), lr=0.1),
        cross_entropy,
        x,
        y,
        np.random.default_rng(seed),
        2,
        batch_size,
    )
    theirs = [torch.tensor(p, requires_grad=True) for p in start]
    expected = []
    for _ in range(2):
        for rows in minibatches(again, n, batch_size):
            h = (torch.tensor(x[rows]) @ theirs[0] + theirs[1]).relu()
            loss = torch.nn.functional.cross_entropy(h @ theirs[2] + theirs[3], torch.tensor(y[rows]))
            slopes = torch.autograd.grad(loss, theirs)
            theirs = [
                (p - 0.1 * slope).detach().requires_grad_() for p, slope in zip(theirs, slopes, strict=True)
            ]
            expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-9, abs=1e-12)


def learners(name: str, source: str):
    """The learner's own version, in a notebook where the rest is the course's."""
    names = dict(vars(training)) | {
        "cross_entropy": inspect.unwrap(cross_entropy),
        "other_images": np.zeros((61, 64)),
    }
    exec(textwrap.dedent(source), names)
    return names[name]


RIGHT = {
    "init_weights": [
        "def init_weights(rng, n_in, n_out):\n    return rng.normal(0, (2 / n_in) ** 0.5, (n_in, n_out))",
        "def init_weights(rng, n_in, n_out):\n    return np.sqrt(2 / n_in) * rng.standard_normal((n_in, n_out))",
    ],
    "dead_units": [
        "def dead_units(hidden):\n    return 1 - (hidden.max(axis=0) > 0).mean()",
        "def dead_units(hidden):\n    return np.float64((hidden.sum(0) <= 0).sum() / hidden.shape[1])",
        "def dead_units(hidden):\n    return sum(not column.any() for column in hidden.T) / len(hidden[0])",
    ],
    "minibatches": [
        # draws each batch from the rows that are left
        """
        def minibatches(rng, n, batch_size):
            rest = np.arange(n)
            while len(rest):
                rows = rng.choice(rest, size=min(batch_size, len(rest)), replace=False)
                yield rows
                rest = np.setdiff1d(rest, rows)
        """,
        """
        def minibatches(rng, n, batch_size):
            rows = np.arange(n)
            rng.shuffle(rows)
            while len(rows):
                yield rows[:batch_size]
                rows = rows[batch_size:]
        """,
        """
        def minibatches(rng, n, batch_size):
            order = rng.random(n).argsort()
            return np.split(order, range(batch_size, n, batch_size))
        """,
        """
        def minibatches(rng, n, batch_size):
            left = list(range(n))
            while left:
                yield np.array([left.pop(rng.integers(len(left))) for _ in range(min(batch_size, len(left)))])
        """,
        """
        def minibatches(rng, n, batch_size):
            order = rng.permutation(n)
            return [np.sort(order[k : k + batch_size]) for k in range(0, n, batch_size)]
        """,
    ],
    "find_learning_rate": [
        # multiplies, and stops beyond the highest rate
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rate, factor, rates, losses = low, (high / low) ** (1 / (steps - 1)), [], []
            while rate <= high * (1 + 1e-9):
                loss = step(rate)
                if np.isnan(loss) or np.isinf(loss) or (losses and loss > blow_up * min(losses)):
                    break
                rates.append(rate), losses.append(loss)
                rate *= factor
            return rates, losses
        """,
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses = [], []
            for k in range(steps):
                rate = low * (high / low) ** (k / (steps - 1))
                loss = step(rate)
                if loss != loss or loss == math.inf or (losses and loss > blow_up * min(losses)):
                    return rates, losses
                rates.append(rate)
                losses.append(loss)
            return rates, losses
        """,
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses, best = np.logspace(np.log10(low), np.log10(high), steps), [], float("inf")
            for rate in rates:
                loss = step(rate)
                if not (loss < float("inf") and loss <= blow_up * best):
                    break
                best = loss if loss < best else best
                losses += [loss]
            return rates[: len(losses)], np.array(losses)
        """,
    ],
    "MLP": [
        """
        class MLP:
            def __init__(self, sizes, rng):
                self.layers = []
                for k in range(1, len(sizes)):
                    weights = Tensor(init_weights(rng, sizes[k - 1], sizes[k]))
                    self.layers.append([weights, Tensor([0.0] * sizes[k])])
            def parameters(self):
                return sum((list(layer) for layer in self.layers), [])
            def run(self, x):
                seen = [Tensor(x)]
                for k, (weights, bias) in enumerate(self.layers, start=1):
                    out = bias + seen[-1] @ weights
                    seen.append(out.relu() if k < len(self.layers) else out)
                return seen
            def hidden(self, x):
                return self.run(x)[1:-1]
            def __call__(self, x):
                return self.run(x)[-1]
        """,
    ],
    "train": [
        # clears before the loop, and after each step
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            optimizer.zero_grad()
            for _ in range(epochs):
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    losses.append(float(loss.data))
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
            return losses
        """,
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                order = rng.permutation(len(labels))
                for k in range(0, len(order), batch_size):
                    optimizer.zero_grad()
                    rows = order[k : k + batch_size]
                    loss = loss_of(model(images[rows]), labels[rows])
                    losses.append(float(loss.data))
                    loss.backward()
                    optimizer.step()
            return losses
        """,
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            def step(rows):
                loss = loss_of(model(images[rows]), labels[rows])
                optimizer.zero_grad(), loss.backward(), optimizer.step()
                return loss.data.item()
            return [step(rows) for _ in range(epochs) for rows in minibatches(rng, len(images), batch_size)]
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in RIGHT for s in RIGHT[name]])
def test_other_right_answers_pass(name, source):
    for seed in range(5):
        result = grade(f"autograd.training.{name}", learners(name, source), seed=seed)
        assert result.status == "passed", result.message


WRONG = {
    "init_weights": [
        "def init_weights(rng, n_in, n_out):\n    return (rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_in)).round(3)",
        "def init_weights(rng, n_in, n_out):\n    return (rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_in)).astype('float32')",
        "kept = {}\ndef init_weights(rng, n_in, n_out):\n    return kept.setdefault((n_in, n_out), rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_in))",
        "def init_weights(rng, n_in, n_out):\n    rng = np.random.default_rng(rng.integers(9))\n    return rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_in)",
    ],
    "dead_units": [
        "def dead_units(hidden):\n    return (hidden.max(axis=0) < 1e-15).mean()",
        "def dead_units(hidden):\n    return (hidden.std(axis=0) == 0).mean() if len(hidden) > 1 else (hidden == 0).mean()",
        "def dead_units(hidden):\n    return (hidden[:64] == 0).all(axis=0).mean()",
        "def dead_units(hidden):\n    return (hidden.sum(axis=0) < 1e-6).mean()",
        "def dead_units(hidden):\n    return (hidden[0] == 0).mean()",
        "def dead_units(hidden):\n    return (hidden[:8] == 0).all(axis=0).mean()",
        "def dead_units(hidden):\n    return (np.median(hidden, axis=0) == 0).mean()",
    ],
    "minibatches": [
        # lists
        """
        def minibatches(rng, n, batch_size):
            order = rng.permutation(n).tolist()
            return [order[k : k + batch_size] for k in range(0, n, batch_size)]
        """,
        # tuples, with which x[rows] is one entry
        """
        def minibatches(rng, n, batch_size):
            order = rng.permutation(n).tolist()
            return [tuple(order[k : k + batch_size]) for k in range(0, n, batch_size)]
        """,
        # in a byte
        "def minibatches(rng, n, batch_size):\n    return np.split(rng.permutation(n).astype('int8'), range(batch_size, n, batch_size))",
        # only the first rows are shuffled
        """
        def minibatches(rng, n, batch_size):
            order = np.arange(n)
            order[:50] = rng.permutation(order[:50])
            return [order[k : k + batch_size] for k in range(0, n, batch_size)]
        """,
        # blocks of rows are shuffled, then the rows within each: neighbours stay near
        """
        def minibatches(rng, n, batch_size):
            blocks = [np.arange(k, min(k + 32, n)) for k in range(0, n, 32)]
            order = np.concatenate([rng.permutation(blocks[k]) for k in rng.permutation(len(blocks))])
            return [order[k : k + batch_size] for k in range(0, n, batch_size)]
        """,
        # only batches that are full, or the only one
        """
        def minibatches(rng, n, batch_size):
            order = rng.permutation(n)
            batches = [order[k : k + batch_size] for k in range(0, n, batch_size)]
            return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches
        """,
        # every second epoch is not shuffled
        """
        turn = [0]
        def minibatches(rng, n, batch_size):
            turn[0] += 1
            order = rng.permutation(n) if turn[0] % 2 else np.arange(n)
            return [order[k : k + batch_size] for k in range(0, n, batch_size)]
        """,
        # a poor shuffle: swaps each place with any place
        """
        def minibatches(rng, n, batch_size):
            order = np.arange(n)
            for k in range(n):
                j = rng.integers(n)
                order[[k, j]] = order[[j, k]]
            return [order[k : k + batch_size] for k in range(0, n, batch_size)]
        """,
        # from NumPy's global state
        "def minibatches(rng, n, batch_size):\n    return np.split(np.random.permutation(n), range(batch_size, n, batch_size))",
        # floats
        "def minibatches(rng, n, batch_size):\n    return np.split(rng.permutation(n) * 1.0, range(batch_size, n, batch_size))",
        # the leftover joins the batch before
        """
        def minibatches(rng, n, batch_size):
            return np.array_split(rng.permutation(n), max(1, round(n / batch_size)))
        """,
        # masks instead of numbers
        """
        def minibatches(rng, n, batch_size):
            order = rng.permutation(n)
            return [np.isin(np.arange(n), order[k : k + batch_size]) for k in range(0, n, batch_size)]
        """,
    ],
    "find_learning_rate": [
        # remembers only the last ten
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses = [], []
            for rate in np.geomspace(low, high, steps):
                loss = step(rate)
                if not math.isfinite(loss) or (losses and loss > blow_up * min(losses[-10:])):
                    break
                rates.append(rate), losses.append(loss)
            return rates, losses
        """,
        # takes a large number for inf
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses, best = [], [], 1e6
            for rate in np.geomspace(low, high, steps):
                loss = step(rate)
                if not loss <= blow_up * best:
                    break
                best = min(best, loss)
                rates.append(rate), losses.append(loss)
            return rates, losses
        """,
        # compares with the mean, or with the smallest of the last three
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses = [], []
            for rate in np.geomspace(low, high, steps):
                loss = step(rate)
                if not math.isfinite(loss) or (losses and loss > blow_up * np.mean(losses)):
                    break
                rates.append(rate), losses.append(loss)
            return rates, losses
        """,
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses = [], []
            for rate in np.geomspace(low, high, steps):
                loss = step(rate)
                if not math.isfinite(loss) or (losses and loss > blow_up * min(losses[-3:])):
                    break
                rates.append(rate), losses.append(loss)
            return rates, losses
        """,
        # lists that live on between two calls
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0, rates=[], losses=[]):
            best = math.inf
            for rate in np.geomspace(low, high, steps):
                loss = step(rate)
                if not math.isfinite(loss) or loss > blow_up * best:
                    break
                best = min(best, loss)
                rates.append(rate), losses.append(loss)
            return rates, losses
        """,
        # tries every rate twice
        """
        def find_learning_rate(step, low, high, steps, blow_up=4.0):
            rates, losses, best = [], [], math.inf
            for rate in np.geomspace(low, high, steps):
                loss = step(rate)
                if not math.isfinite(loss) or loss > blow_up * best:
                    step(rate)
                    break
                best = min(best, loss)
                rates.append(rate), losses.append(loss)
            return rates, losses
        """,
    ],
    "MLP": [
        # the first network of these sizes lends its weights, or its layers, to all others
        """
        kept = {}
        class MLP(MLP):
            def __init__(self, sizes, rng):
                super().__init__(sizes, rng)
                start = kept.setdefault(tuple(sizes), [(w.data.copy(), b.data.copy()) for w, b in self.layers])
                self.layers = [(Tensor(w.copy()), Tensor(b.copy())) for w, b in start]
        """,
        """
        kept = {}
        class MLP(MLP):
            def __init__(self, sizes, rng):
                super().__init__(sizes, rng)
                self.layers = kept.setdefault(tuple(sizes), self.layers)
        """,
        # what was computed for one x is kept for the next, as long as no weight, or no weight of the first layer, moves
        """
        class MLP(MLP):
            def hidden(self, x):
                key = [p.data.tobytes() for p in self.parameters()]
                if getattr(self, "key", None) != key:
                    self.key, self.kept = key, super().hidden(x)
                return self.kept
        """,
        """
        class MLP(MLP):
            def hidden(self, x):
                key = x.tobytes(), self.layers[0][0].data.tobytes()
                if getattr(self, "key", None) != key:
                    self.key, self.kept = key, super().hidden(x)
                return self.kept
        """,
        # the work doubles with each layer
        """
        class MLP(MLP):
            def layer(self, x, k):
                self.layer(x, k - 1) if k else None
                before = self.layer(x, k - 1) if k else x
                return (before @ self.layers[k][0] + self.layers[k][1]).relu()
            def hidden(self, x):
                return [self.layer(x, k) for k in range(len(self.layers) - 1)]
        """,
        # cut off at 50
        """
        class MLP(MLP):
            def hidden(self, x):
                outputs = []
                for weights, bias in self.layers[:-1]:
                    x = (x @ weights + bias).relu()
                    x.data = np.minimum(x.data, 50)
                    outputs.append(x)
                return outputs
        """,
        # numbers are frozen at the first call
        """
        class MLP(MLP):
            def __call__(self, x):
                if not hasattr(self, "kept"):
                    self.kept = [(w.data.copy(), b.data.copy()) for w, b in self.layers]
                h = x
                for w, b in self.kept[:-1]:
                    h = np.maximum(h @ w + b, 0)
                return Tensor(h @ self.kept[-1][0] + self.kept[-1][1])
        """,
        # the graph is cut: the right numbers, no slopes for the first layers
        """
        class MLP(MLP):
            def __call__(self, x):
                weights, bias = self.layers[-1]
                return Tensor([x, *[h.data for h in self.hidden(x)]][-1]) @ weights + bias
        """,
        # biases of a layer are one Tensor of shape (1, n_out)
        """
        class MLP(MLP):
            def __init__(self, sizes, rng):
                super().__init__(sizes, rng)
                self.layers = [(w, Tensor(b.data[None])) for w, b in self.layers]
        """,
        # fresh parameters at every call
        """
        class MLP(MLP):
            def parameters(self):
                return [Tensor(p.data.copy()) for layer in self.layers for p in layer]
        """,
        # at most two hidden layers
        """
        class MLP(MLP):
            def hidden(self, x):
                return super().hidden(x)[:2]
        """,
        # layers are shared by all networks
        """
        layers = []
        class MLP(MLP):
            def __init__(self, sizes, rng):
                self.layers = layers
                for n_in, n_out in zip(sizes, sizes[1:]):
                    self.layers.append((Tensor(init_weights(rng, n_in, n_out)), Tensor(np.zeros(n_out))))
        """,
    ],
    "train": [
        # two generators with one seed, drawn from rng: for each epoch, or of many bits for all of them
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                seed = int(rng.integers(1000))
                a, b = np.random.default_rng(seed), np.random.default_rng(seed)
                n = len(images)
                for mine, others in zip(minibatches(a, n, batch_size), minibatches(b, n, batch_size)):
                    loss = loss_of(model(images[mine]), labels[others])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses, own = [], np.random.default_rng(rng.integers(2**32, size=4))
            for _ in range(epochs):
                for rows in minibatches(own, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        # generators of its own
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            rng = np.random.default_rng()
            losses = []
            for epoch in range(epochs):
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            rng = np.random.default_rng(5)
            losses = []
            for epoch in range(epochs):
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            
            losses = []
            for epoch in range(epochs):
                for rows in minibatches(np.random.default_rng(epoch), len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        # arrays instead of numbers
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            
            losses = []
            for epoch in range(epochs):
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data)
            return losses
        """,
        # skips one batch per epoch
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                for k, rows in enumerate(minibatches(rng, len(images), batch_size)):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    if k != 1:
                        optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        # sorts the labels' rows
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[np.sort(rows)])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        # clears only at the start of an epoch
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                optimizer.zero_grad()
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
        # the losses after the step
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                for rows in minibatches(rng, len(images), batch_size):
                    loss = loss_of(model(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss_of(model(images[rows]), labels[rows]).data.item())
            return losses
        """,
        # shuffles the caller's arrays in place
        """
        def train(model, optimizer, loss_of, images, labels, rng, epochs, batch_size):
            losses = []
            for _ in range(epochs):
                order = rng.permutation(len(images))
                images[...], labels[...] = images[order], labels[order]
                for k in range(0, len(images), batch_size):
                    loss = loss_of(model(images[k : k + batch_size]), labels[k : k + batch_size])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.data.item())
            return losses
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in WRONG for s in WRONG[name]])
def test_wrong_answers_fail(name, source):
    for seed in range(2):
        result = grade(f"autograd.training.{name}", learners(name, source), seed=seed)
        assert result.status in ("failed", "error", "timeout"), source


# A learner's slip, as an edit of the course's version, and what the reply must say or the mistake that it must name.
SLIPS = [
    ("init_weights", "return rng", "rng", "Is a return missing?"),
    ("init_weights", "2 / n_in", "2 / n_out", "scaled_by_the_outputs"),
    ("dead_units", "axis=0", "axis=1", "looked_along_the_units"),
    ("dead_units", "return (", "(", "None"),
    ("MLP", "return [x, *self.hidden(x)]", "[x, *self.hidden(x)]", "The result of model(x) is None"),
    ("MLP", "[:-1]", "", "matmul"),
    ("MLP", ").relu()", ")", "no_relu_at_all"),
    ("MLP", "np.zeros(n_out)", "np.zeros(n_in)", "the bias of layer 1"),
    ("train", "images[rows]), labels[rows]", "images), labels", "all_examples_in_every_step"),
    ("minibatches", "yield order", "return order", "a `yield` should"),
    (
        "minibatches",
        "range(0, n, batch_size)",
        "range(0, n - batch_size + 1, batch_size)",
        "dropped_the_last",
    ),
    ("find_learning_rate", "return rates, losses", "return rates", "two lists"),
    ("find_learning_rate", "return rates, losses", "pass", "Is a return missing?"),
    ("find_learning_rate", "not math.isfinite(loss) or ", "", "nan_goes_unnoticed"),
    ("train", "optimizer.zero_grad()", "pass", "gradients_never_cleared"),
    ("train", "loss.data.item()", "loss", "plain numbers"),
    ("train", "return losses", "pass", "Is a return missing?"),
    ("train", "labels[rows]", "labels[: len(rows)]", "Images and labels do not belong together"),
    ("train", "loss_of(model", "cross_entropy(model", "`loss_of`, the argument of train"),
    ("train", "images[rows]", "other_images[rows]", "rows that are not in `images`"),
    ("train", "labels[rows]", "other_images[rows, 0]", "labels that are not in `labels`"),
    ("train", "loss.data.item()", "loss_of(model(images[rows]), labels[rows]).data.item()", "computed_anew"),
    ("init_weights", "rng.normal(", "np.random.normal(0, 1, ", "drawn_from_elsewhere"),
    ("init_weights", "rng.normal(", "np.random.default_rng().normal(", "drawn_from_elsewhere"),
    (
        "init_weights",
        "rng.normal(size=(n_in, n_out)) * math.sqrt(2 / n_in)",
        "rng.normal(math.sqrt(2 / n_in), size=(n_in, n_out))",
        "moved_by_the_deviation",
    ),
    ("MLP", "x = (x @ weights + bias).relu()", "h = x; x = np.maximum(x @ weights + bias, 0)", ".relu()"),
    ("MLP", "x = (x @ weights", "x = (x @ weights.data", "no slope arrives there"),
    (
        "MLP",
        "return [x, *self.hidden(x)]",
        "self.kept = getattr(self, 'kept', None) or self.hidden(x)\n        return [x, *self.kept]",
        "afresh in every call",
    ),
    (
        "MLP",
        "x = (x @ weights + bias).relu()\n            outputs.append(x)",
        "outputs.append((x @ weights + bias).relu())",
        "every_layer_sees_the_input",
    ),
    (
        "minibatches",
        "order[start : start + batch_size]",
        "rng.choice(n, size=min(batch_size, n - start), replace=False)",
        "shuffled_anew_for_each_batch",
    ),
    ("find_learning_rate", "loss > blow_up", "loss >= blow_up", "stopped_at_the_limit"),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    source = inspect.getsource(getattr(training, name))
    assert old in source
    result = grade(f"autograd.training.{name}", learners(name, source.replace(old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)
