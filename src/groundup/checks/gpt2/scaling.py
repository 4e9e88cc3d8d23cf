"""Checks for the lesson gpt2.scaling.

The misfit is judged against NumPy, its slopes against formulas of our own. Fits are made to losses of known laws, from
starts of which some lead into a dead end; the oracle is the law itself. The best size is found by bisection.
"""

import copy
import functools
import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from groundup.check import Case, Exercise, compare

# The first optimizer imports for seconds: let it, before the clock of a check starts.
torch.optim.LBFGS([torch.zeros(1)])

NAMES = "E", "A", "B", "alpha", "beta"


class Law:
    """A law with the attributes that the page's ScalingLaw has."""

    def __init__(self, E, A, B, alpha, beta):
        self.E, self.A, self.B, self.alpha, self.beta = E, A, B, alpha, beta

    def loss(self, n, d):
        return self.E + self.A / n**self.alpha + self.B / d**self.beta


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
misfit = Exercise("gpt2.scaling.misfit")


@misfit.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, runs, spread, law):
        n, d = 10 ** rng.uniform(3, 9, runs), 10 ** rng.uniform(4, 11, runs)
        loss = Law(*law).loss(n, d) * np.exp(spread * rng.normal(size=runs))
        theta = [math.log(law[1]), math.log(law[2]), math.log(law[0]), *law[3:]]
        return Case(label, theta=tensor(theta), n=tensor(n), d=tensor(d), loss=tensor(loss))

    zeros, one = np.zeros(5), [1000.0]
    yield Case("the first worked run", theta=tensor(zeros), n=tensor(one), d=tensor(one), loss=tensor([3.0]))
    loss = tensor([3 * math.e])
    yield Case("the second worked run", theta=tensor(zeros), n=tensor(one), d=tensor(one), loss=loss)
    yield case("three runs, all near the law", 3, 3e-4, (1.7, 400.0, 2000.0, 0.35, 0.37))
    yield case("seven runs, all far from the law", 7, 0.3, (0.8, 30.0, 150.0, 0.2, 0.4))
    yield case("twelve runs, near and far", 12, 1e-3, (1.2, 5.0, 900.0, 0.25, 0.5))
    theta = tensor([800.0, 790.0, 1.0, 0.3, 0.2])
    n, d = tensor([1e5, 1e6]), tensor([1e7, 3e8])
    yield Case("logarithms of the terms above 700", theta=theta, n=n, d=d, loss=tensor([2.5, 2.25]))


@misfit.observe
def _(obj, theta, n, d, loss):
    theta = theta.clone().requires_grad_(True)
    value = obj(theta, n, d, loss)
    if not isinstance(value, torch.Tensor):
        return f"You returned a {type(value).__name__}, expected a tensor, through which theta gets its gradient."
    if value.shape != ():
        return {"the misfit": value.detach()}
    if not value.requires_grad:
        return "No gradient gets from your result to theta: use torch's functions on theta itself, without detach or item."
    (slopes,) = torch.autograd.grad(value, theta, allow_unused=True)
    return {"the misfit": value.detach(), "the slopes": slopes}


@misfit.oracle
def _(theta, n, d, loss):
    a, b, e, alpha, beta = theta.numpy()
    n, d, loss = n.numpy(), d.numpy(), loss.numpy()
    terms = np.array([a - alpha * np.log(n), b - beta * np.log(d), np.full(len(n), e)])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    residual = top + np.log(parts.sum(axis=0)) - np.log(loss)
    inside = np.abs(residual) <= 1e-3
    value = np.where(inside, residual**2 / 2, 1e-3 * (np.abs(residual) - 5e-4)).sum()
    pull = np.clip(residual, -1e-3, 1e-3) * parts / parts.sum(axis=0)
    slopes = [*pull.sum(axis=1), -(pull[0] * np.log(n)).sum(), -(pull[1] * np.log(d)).sum()]
    return {"the misfit": torch.tensor(value, dtype=torch.float64), "the slopes": tensor(slopes)}


@misfit.agree
def _(got, expected):
    if isinstance(got, str):
        return None if got == expected else got
    if not (isinstance(got, dict) and isinstance(expected, dict)):
        return compare(got, expected)
    for name in expected:
        if difference := compare(got.get(name), expected[name]):
            return f"{name[0].upper()}{name[1:]}: {difference}"
    return None


def _terms(theta, n, d):
    a, b, e, alpha, beta = theta
    return torch.stack([a - alpha * n.log(), b - beta * d.log(), e.expand(len(n))])


def _huber(predicted, measured, delta=1e-3, reduction="sum"):
    return F.huber_loss(predicted, measured, delta=delta, reduction=reduction)


@misfit.mistake
def mean_over_runs(theta, n, d, loss):
    """You took the mean over the runs. The page asks for the sum: a mean makes a small number smaller still, and an optimizer then stops too early."""
    return _huber(_terms(theta, n, d).logsumexp(0), loss.log(), reduction="mean")


@misfit.mistake
def squared_residuals(theta, n, d, loss):
    """Your residuals are squared all the way: half of the square, whatever its size. One failed run then bends the whole law. Beyond δ Huber's loss is a straight line."""
    return ((_terms(theta, n, d).logsumexp(0) - loss.log()) ** 2 / 2).sum()


@misfit.mistake
def delta_left_at_one(theta, n, d, loss):
    """Your δ is 1, which F.huber_loss takes if nothing is said, and hence nearly all residuals are squared. Say delta=1e-3."""
    return _huber(_terms(theta, n, d).logsumexp(0), loss.log(), delta=1.0)


@misfit.mistake
def losses_not_their_logarithms(theta, n, d, loss):
    """You compare losses, not their logarithms. Then the runs with large losses, which are the small models, weigh most."""
    return _huber(_terms(theta, n, d).logsumexp(0).exp(), loss)


@misfit.mistake(shape=True)  # right on no case
def one_logarithm_forgotten(theta, n, d, loss):
    """You compare the predicted logarithm with the measured loss itself. Both sides must be logarithms."""
    return _huber(_terms(theta, n, d).logsumexp(0), loss)


@misfit.mistake(shape=True)  # right on no case
def terms_added_as_logarithms(theta, n, d, loss):
    """You add up the three exponents. A sum of logarithms is the logarithm of a product, but the law is a sum: exp each, add, then take the logarithm; that is logsumexp."""
    return _huber(_terms(theta, n, d).sum(0), loss.log())


@misfit.mistake
def powers_that_grow(theta, n, d, loss):
    """Your terms grow with N and D. A / N^α has the logarithm a − α ln N, with a minus."""
    a, b, e, alpha, beta = theta
    return _huber(_terms(torch.stack([a, b, e, -alpha, -beta]), n, d).logsumexp(0), loss.log())


@misfit.mistake(shape=True)  # right on no case
def sizes_without_logarithm(theta, n, d, loss):
    """You multiply α by N itself. The exponent of A / N^α is a − α ln N: take n.log() and d.log()."""
    return _huber(_terms(theta, n.exp(), d.exp()).logsumexp(0), loss.log())


@misfit.mistake
def nothing_irreducible(theta, n, d, loss):
    """Your sum has two terms: e is missing. Without E the law says that a large enough model predicts every letter."""
    return _huber(_terms(theta, n, d)[:2].logsumexp(0), loss.log())


# ---------------------------------------------------------------------------------------------------------------------
fit_scaling_law = Exercise("gpt2.scaling.fit_scaling_law", tolerance=1e-4, seconds=40)

# From NO_A and NO_B a term is never found again. NO_A lies nearer to the runs than GOOD, until one goes down.
GOOD = (2.0, 8.5, 0.0, 0.3, 0.4)
NO_A, NO_B = (-60.0, 7.0, 0.5, 0.3, 0.47), (2.0, -60.0, -2.0, 0.3, 0.3)
PAGES_STARTS = tuple((a, b, 0.0, 0.4, 0.4) for a in (2.0, 8.0) for b in (2.0, 8.0))


@fit_scaling_law.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, starts, law=None, kind=list):
        known = law or (
            rng.uniform(0.8, 1.6),
            rng.uniform(4, 8),
            rng.uniform(300, 1500),
            rng.uniform(0.18, 0.25),
            rng.uniform(0.42, 0.52),
        )
        n, d = (grid.ravel() for grid in np.meshgrid(np.logspace(3, 5, 4), np.logspace(4, 6.2, 5)))
        order = rng.permutation(len(n))
        n, d = n[order], d[order]
        loss = Law(*known).loss(n, d)
        told = {"n": kind(n), "d": kind(d), "loss": kind(loss)}
        return Case(label, **told, starts=starts, known=tuple(map(float, known)))

    yield case("a single start", [GOOD], (1.2, 5.0, 1000.0, 0.2, 0.5))
    yield case("the best start is the last, arrays", [NO_A, NO_B, GOOD], kind=np.array)
    yield case("the best start is in the middle, tensors", [NO_B, GOOD, NO_A], kind=tensor)
    yield case("a single start, from which A and alpha cannot be found", [NO_A])


@fit_scaling_law.observe
def _(obj, n, d, loss, starts, known):
    law = obj(n, d, loss, starts)
    if any(not hasattr(law, name) for name in NAMES):
        return f"a {type(law).__name__}, which has not E, A, B, alpha and beta: return a ScalingLaw"
    return {name: getattr(law, name) for name in NAMES}


@fit_scaling_law.oracle
def _(n, d, loss, starts, known):
    if starts == [NO_A]:  # without a slope these two stay as they were
        return {"A": math.exp(NO_A[0]), "alpha": NO_A[3]}
    return dict(zip(NAMES, known, strict=True))


@fit_scaling_law.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str):
        return None if got == expected else f"You returned {got}."
    for name in expected:
        if type(got.get(name)) is not type(expected.get(name)):
            return f"{name}: it is a {type(got.get(name)).__name__}, expected a plain float."
        if difference := compare(got.get(name), expected.get(name), tolerance=1e-4):
            return f"{name}: {difference.replace('you returned', 'yours is')}"
    return None


@functools.lru_cache(maxsize=64)  # a mistake meets the same runs again and again
def _end(runs, start):
    """The misfit and the place where L-BFGS ends, for runs of (n, d, loss)."""
    n, d, loss = tensor(runs).T
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 300, "tolerance_grad": 1e-12, "tolerance_change": 1e-16}
    optimizer = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe", **options)

    def objective():
        return _huber(_terms(theta, n, d).logsumexp(0), loss.log())

    def closure():
        optimizer.zero_grad()
        value = 1e6 * objective()
        value.backward()
        return value

    optimizer.step(closure)
    return objective().item(), theta.tolist()


def _ends(n, d, loss, starts):
    """The end of each start with its misfit."""
    runs = tuple(zip(*(map(float, column) for column in (n, d, loss)), strict=True))
    return [_end(runs, tuple(start)) for start in starts]


def _law(end):
    a, b, e, alpha, beta = end
    return Law(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


@fit_scaling_law.mistake
def only_the_first_start(n, d, loss, starts):
    """You use the first start only. If one of the terms starts far below the others, it has no slope there, and the search ends without it. Go down from every start, and keep the best end."""
    return _law(_ends(n, d, loss, starts[:1])[0][1])


@fit_scaling_law.mistake
def the_last_end(n, d, loss, starts):
    """You return the end of the last start. Which start is the best cannot be known before: compare the misfits of all ends, and keep the smallest."""
    return _law(_ends(n, d, loss, starts[-1:])[0][1])


@fit_scaling_law.mistake
def the_worst_end(n, d, loss, starts):
    """You keep the end with the largest misfit. The best law is the one with the smallest."""
    return _law(max(_ends(n, d, loss, starts))[1])


@fit_scaling_law.mistake
def the_best_start(n, d, loss, starts):
    """You compare the starts, and go down from the best one only. A start that lies low may lead into a dead end: go down from every start, then compare the ends."""
    runs = tensor(n), tensor(d)
    low = [_huber(_terms(tensor(start), *runs).logsumexp(0), tensor(loss).log()).item() for start in starts]
    return _law(_ends(n, d, loss, [starts[low.index(min(low))]])[0][1])


@fit_scaling_law.mistake
def not_the_given_starts(n, d, loss, starts):
    """You go down from STARTS, whatever starts your function was given. STARTS is only the default: use the argument `starts`."""
    return _law(min(_ends(n, d, loss, PAGES_STARTS))[1])


@fit_scaling_law.mistake
def mean_of_the_ends(n, d, loss, starts):
    """You take the mean of all ends. An end in a dead end is worth nothing, and the middle between two valleys is a hill: keep the one end with the smallest misfit."""
    ends = [end for _, end in _ends(n, d, loss, starts)]
    return _law([sum(parts) / len(parts) for parts in zip(*ends, strict=True)])


@fit_scaling_law.mistake(shape=True)
def logarithms_returned(n, d, loss, starts):
    """Your E, A and B are still their logarithms. theta holds ln A, ln B and ln E: take exp of these three, but not of the exponents."""
    a, b, e, alpha, beta = min(_ends(n, d, loss, starts))[1]
    return Law(e, a, b, alpha, beta)


@fit_scaling_law.mistake(shape=True)
def letters_mixed_up(n, d, loss, starts):
    """You gave E, A and B in the order of theta. theta is ln A, ln B, ln E; the law's fields are E, A, B: name them when you make the ScalingLaw."""
    a, b, e, alpha, beta = min(_ends(n, d, loss, starts))[1]
    return Law(math.exp(a), math.exp(b), math.exp(e), alpha, beta)


@fit_scaling_law.mistake(shape=True)
def sizes_and_tokens_swapped(n, d, loss, starts):
    """You gave the weights where the tokens belong. misfit takes theta, n, d, loss, in this order."""
    a, b, e, alpha, beta = min(_ends(n, d, loss, starts))[1]
    return Law(math.exp(e), math.exp(b), math.exp(a), beta, alpha)


# ---------------------------------------------------------------------------------------------------------------------
compute_optimal = Exercise("gpt2.scaling.compute_optimal")


@compute_optimal.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("the worked example", law=(1.0, 4.0, 1.0, 0.5, 0.5), flops=600.0)
    yield Case("no leading factor", law=(0.5, 3.0, 3.0, 0.25, 0.25), flops=6e10)
    yield Case("the law fitted again", law=(1.8172, 482.01, 2085.43, 0.3478, 0.3658), flops=3.14e23)
    for number in range(3):
        exponents = rng.uniform(0.15, 0.3), rng.uniform(0.35, 0.6)
        alpha, beta = exponents if number < 2 else exponents[::-1]
        law = rng.uniform(0.5, 2), rng.uniform(2, 500), rng.uniform(100, 3000), alpha, beta
        yield Case(
            f"a random law ({number + 1})", law=tuple(map(float, law)), flops=float(10 ** rng.uniform(12, 24))
        )


@compute_optimal.observe
def _(obj, law, flops):
    """Called with the page's own kind of law, where the learner's function knows it."""
    known = getattr(inspect.unwrap(obj), "__globals__", {})
    return obj(known.get("ScalingLaw", Law)(*law), flops)


@compute_optimal.oracle
def _(law, flops):
    """Bisects in ln N for the place where both terms change alike."""
    law = Law(*law)

    def slope(x):
        n = math.exp(x)
        return law.beta * law.B / (flops / (6 * n)) ** law.beta - law.alpha * law.A / n**law.alpha

    low, high = -60.0, 120.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    n = math.exp(low)
    return n, flops / (6 * n)


@compute_optimal.agree
def _(got, expected):
    if not (isinstance(got, tuple | list) and isinstance(expected, tuple | list)) or len(got) != len(
        expected
    ):
        return compare(got, expected)
    for name, mine, theirs in zip(
        ("N", "D"), got, expected, strict=True
    ):  # D must not hide behind a larger N
        if difference := compare(mine, theirs):
            return f"{name}: {difference}"
    return None


def _optimum(law, budget, *, swapped=False, g_power=1, root=True):
    both = law.alpha + law.beta
    g = (law.alpha * law.A / (law.beta * law.B)) ** (g_power / both if root else g_power)
    n = g * budget ** ((law.alpha if swapped else law.beta) / both)
    return n, budget / n


@compute_optimal.mistake
def exponents_swapped(law, flops):
    """Your N grows with the power α / (α + β). It is β / (α + β): where a term falls fast, little is needed of what makes it fall, so a large α means a small model."""
    return _optimum(law, flops / 6, swapped=True)


@compute_optimal.mistake(shape=True)
def six_forgotten(law, flops):
    """You spend F as if a weight and a token cost one operation: your N times D is F. They cost 6: N D = F / 6."""
    return _optimum(law, flops)


@compute_optimal.mistake
def leading_factor_forgotten(law, flops):
    """Your N has no G in front. It says how the two prices, αA and βB, compare; without it the budget is shared as if they were equal."""
    return _optimum(law, flops / 6, g_power=0)


@compute_optimal.mistake
def leading_factor_upside_down(law, flops):
    """Your G is upside down. If the price of a small model, αA, is high, the model has to be large: αA stands above."""
    return _optimum(law, flops / 6, g_power=-1)


@compute_optimal.mistake
def root_forgotten(law, flops):
    """Your G is αA / βB itself. N^(α + β) is what the formula gives first, so G has the power 1 / (α + β)."""
    return _optimum(law, flops / 6, root=False)


@compute_optimal.mistake
def prices_without_exponents(law, flops):
    """Your G is made of A and B alone. The slope of A / N^α brings an α down in front, and that of B / D^β a β: G holds αA / βB."""
    both = law.alpha + law.beta
    n = (law.A / law.B) ** (1 / both) * (flops / 6) ** (law.beta / both)
    return n, flops / (6 * n)


@compute_optimal.mistake(shape=True)
def tokens_first(law, flops):
    """You returned tokens and weights. The page asks for the weights first, then the tokens."""
    return _optimum(law, flops / 6)[::-1]


# ---------------------------------------------------------------------------------------------------------------------
points_for_fit = Exercise("gpt2.scaling.points_for_fit")


@points_for_fit.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def row(weights, tokens_per_step, step, steps):
        loss = float(np.round(2 + rng.random(), 4))
        told = {"weights": weights, "tokens_per_step": tokens_per_step, "step": step}
        return told | {"steps": steps, "loss": loss}

    values = (10, 8, 80, 200), (10, 8, 100, 100), (20, 4, 100, 100)
    yield Case("the example", log=[row(*each) for each in values])
    yield Case("an empty log", log=[])
    yield Case("all are finished", log=[row(50, 16, 30, 30), row(70, 32, 45, 45)])
    yield Case("none is finished", log=[row(50, 16, 29, 30), row(50, 16, 10, 30)])
    seeds = [row(50, 16, 30, 30), row(50, 16, 24, 30), row(50, 16, 30, 30)]
    yield Case("the same plan with two seeds", log=seeds)
    whole = []
    for weights in (2208, 4464, 11280):
        for steps in (120, 240, 480):
            per_step = int(rng.choice([256, 512]))
            whole += [row(weights, per_step, done, 480) for done in (steps * 4 // 5, steps - 1)]
            whole.append(row(weights, per_step, steps * 2 // 5, steps))
            whole.append(row(weights, per_step, steps, steps))
    yield Case("branches of three sizes", log=whole)
    yield Case("in another order", log=[whole[k] for k in rng.permutation(len(whole))])


@points_for_fit.observe
def _(obj, log):
    told = copy.deepcopy(log)
    lists = obj(told)
    if not isinstance(lists, tuple | list) or len(lists) != 3:
        return lists
    return {"N": lists[0], "D": lists[1], "the loss": lists[2], "the log is as it was": told == log}


@points_for_fit.oracle
def _(log):
    rows = [SimpleNamespace(**row) for row in log]
    done = [row for row in rows if not row.steps - row.step]
    return {
        "N": [row.weights for row in done],
        "D": [row.tokens_per_step * row.steps for row in done],
        "the loss": [row.loss for row in done],
        "the log is as it was": True,
    }


@points_for_fit.agree
def _(got, expected):
    if not (isinstance(got, dict) and isinstance(expected, dict)):
        return compare(got, expected)
    for name in expected:
        if difference := compare(got.get(name), expected[name]):
            return f"{name}: {difference}"
    return None


def _points(rows):
    return (
        [row["weights"] for row in rows],
        [row["step"] * row["tokens_per_step"] for row in rows],
        [row["loss"] for row in rows],
    )


@points_for_fit.mistake
def every_entry(log):
    """You take every entry, as the draft does. Those from the middle of a run were measured while the rate was still high: their loss is above what a run planned for as many tokens reaches."""
    return _points(log)


@points_for_fit.mistake
def unfinished_entries(log):
    """You take the entries of unfinished runs and leave out the finished ones. It is the finished runs that the law is about."""
    return _points([row for row in log if row["step"] != row["steps"]])


@points_for_fit.mistake
def tokens_that_were_planned(log):
    """You take every entry with the tokens that its run was planned for. A run in its middle has not seen them, and has not come down: its entry has no place in the law at all."""
    n, _, loss = _points(log)
    return n, [row["steps"] * row["tokens_per_step"] for row in log], loss


@points_for_fit.mistake
def steps_instead_of_tokens(log):
    """Your D counts steps. The law is about tokens: step × tokens_per_step, or runs with batches of different sizes cannot be compared."""
    done = [row for row in log if row["step"] == row["steps"]]
    n, _, loss = _points(done)
    return n, [row["step"] for row in done], loss


@points_for_fit.mistake
def only_the_longest_runs(log):
    """You take a run of each size, the longest one. The shorter finished runs belong to the law too: without several D for each N nothing tells B and β."""
    longest = {}
    for row in log:
        longest[row["weights"]] = max(row["steps"], longest.get(row["weights"], 0))
    return _points([row for row in log if row["step"] == row["steps"] == longest[row["weights"]]])


@points_for_fit.mistake
def nearly_finished_ones_too(log):
    """You take runs that lack their last step as well. Compare step and steps exactly: only when both are equal has the schedule come to its end."""
    return _points([row for row in log if row["step"] >= row["steps"] - 1])
