"""The lesson gpt2.scaling: its law against brute force, its C against PyTorch, and its checks under attack."""

import math
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from groundup.check import grade
from groundup.gpt2 import scaling
from groundup.gpt2.model import GPT, Block, GPTConfig
from groundup.gpt2.scaling import (
    BLOCK_IN_C,
    ScalingLaw,
    block_in_c,
    compile_c,
    compute_optimal,
    descend,
    fit_scaling_law,
    matmul_weights,
    misfit,
    training_flops,
)

LAW = ScalingLaw(E=1.2, A=5.0, B=1000.0, alpha=0.2, beta=0.5)
N, D = (x.ravel() for x in np.meshgrid(np.logspace(3, 5, 4), np.logspace(4, 6, 4)))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 0.8), st.floats(0.1, 0.8), st.floats(1, 3000), st.floats(1, 3000), st.floats(12, 24))
def test_the_best_size_beats_its_neighbours(alpha, beta, A, B, exponent):
    law = ScalingLaw(1.0, A, B, alpha, beta)
    n, d = compute_optimal(law, 10**exponent)
    assert training_flops(n, d) == pytest.approx(10**exponent, rel=1e-12)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert law.loss(n, d) < law.loss(n * factor, d / factor)


def test_a_fit_finds_a_known_law_again_in_whatever_order_the_runs_come():
    order = random.Random(0).sample(range(len(N)), len(N))
    law = fit_scaling_law(N[order].tolist(), D[order].tolist(), LAW.loss(N, D)[order].tolist())
    for name, value in LAW.__dict__.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-5), name


def test_one_bad_run_moves_a_fit_less_than_it_moves_least_squares():
    loss = LAW.loss(N, D)
    loss[5] *= 1.3
    n, d, measured = (torch.tensor(x) for x in (N, D, loss))

    def squares(theta):
        a, b, e, alpha, beta = theta
        terms = torch.stack([a - alpha * n.log(), b - beta * d.log(), e.expand(len(n))])
        return ((terms.logsumexp(0) - measured.log()) ** 2).sum()

    ends = [descend(squares, start) for start in scaling.STARTS]
    a, b, e, alpha, beta = min(ends, key=squares).tolist()
    by_squares = ScalingLaw(math.exp(e), math.exp(a), math.exp(b), alpha, beta)
    at = 1e6, 1e7
    off = abs(fit_scaling_law(N, D, loss).loss(*at) / LAW.loss(*at) - 1)
    assert off < 0.005 and off < abs(by_squares.loss(*at) / LAW.loss(*at) - 1) / 5


def test_the_search_survives_a_start_from_which_it_cannot_go():
    end = descend(lambda theta: (theta * math.nan).sum(), [1.0, 2.0, 3.0, 4.0, 5.0])
    assert end.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_weights_that_multiply_are_those_of_the_model():
    model = GPT(GPTConfig(16, 84, 3, 2, 24, bias=False))
    vectors = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    positions = model.transformer.wpe.weight.numel()
    assert matmul_weights(3, 24, 84) == model.num_parameters() - vectors - positions


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_layer_in_c_equals_pytorchs():
    library = compile_c(BLOCK_IN_C)
    for n_embd, n_head, length in ((12, 3, 7), (40, 4, 33), (8, 1, 1)):
        torch.manual_seed(n_embd)
        block = Block(GPTConfig(64, 50, 1, n_head, n_embd))
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        x = torch.randn(2, length, n_embd)
        before = x.clone()
        got = block_in_c(library, block, x)
        assert torch.equal(x, before)
        torch.testing.assert_close(got, block(x).detach(), rtol=1e-5, atol=1e-5)


def test_a_program_that_does_not_compile_gives_none():
    assert compile_c("this is not C") is None


def test_without_a_compiler_there_is_no_library(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compile_c(BLOCK_IN_C) is None


# -- answers written differently pass ----------------------------------------------------------------------------------
def misfit_in_other_words(theta, n, d, loss):
    parts = torch.log(
        torch.exp(theta[0] - theta[3] * n.log() - theta[2])
        + torch.exp(theta[1] - theta[4] * d.log() - theta[2])
        + 1
    )
    r = (parts + theta[2] - loss.log()).abs()
    return torch.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()


def misfit_run_by_run(theta, n, d, loss):
    total = 0 * theta.sum()
    for k in range(len(n)):
        terms = theta[0] - theta[3] * n[k].log(), theta[1] - theta[4] * d[k].log(), theta[2]
        predicted = torch.logsumexp(torch.stack(terms), dim=0)
        total = total + F.huber_loss(predicted, loss[k].log(), delta=1e-3)
    return total


def fit_with_a_loop(n, d, loss, starts=()):
    n, d, loss = (torch.as_tensor(x, dtype=torch.float64) for x in (n, d, loss))
    best, least = None, math.inf
    for start in starts:
        end = descend(lambda theta: misfit(theta, n, d, loss), start)
        value = misfit(end, n, d, loss).item()
        if value < least:
            best, least = end, value
    return ScalingLaw(
        E=best[2].exp().item(),
        A=best[0].exp().item(),
        B=best[1].exp().item(),
        alpha=best[3].item(),
        beta=best[4].item(),
    )


def optimum_by_logarithms(law, flops):
    top = math.log(law.alpha * law.A) - math.log(law.beta * law.B) + law.beta * math.log(flops / 6)
    n = math.exp(top / (law.alpha + law.beta))
    return [n, flops / 6 / n]


def points_in_columns(log):
    rows = [
        (r["weights"], r["steps"] * r["tokens_per_step"], r["loss"]) for r in log if r["step"] >= r["steps"]
    ]
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], []]


@pytest.mark.parametrize(
    "name, answer",
    [
        ("misfit", misfit_run_by_run),
        ("fit_scaling_law", fit_with_a_loop),
        ("compute_optimal", optimum_by_logarithms),
        ("points_for_fit", points_in_columns),
    ],
)
def test_other_right_answers_pass(name, answer):
    result = grade(f"gpt2.scaling.{name}", answer)
    assert result.status == "passed", result.message


# -- wrong answers fail --------------------------------------------------------------------------------------------------
def misfit_without_slopes(theta, n, d, loss):
    return torch.tensor(misfit(theta, n, d, loss).item(), dtype=torch.float64)


def misfit_with_two_slopes_cut(theta, n, d, loss):
    return misfit(torch.cat([theta[:3], theta[3:].detach()]), n, d, loss)


def fit_in_float32(n, d, loss, starts=()):
    n, d, loss = (torch.as_tensor(x).float().double() for x in (n, d, loss))
    return fit_scaling_law(n, d, loss.round(decimals=3), starts)


def fit_that_ignores_the_starts(n, d, loss, starts=()):
    return fit_scaling_law(n, d, loss, [(-50.0, 8.0, 0.0, 0.3, 0.3)])


def fit_from_the_start_in_the_middle(n, d, loss, starts=()):
    return fit_scaling_law(n, d, loss, [starts[len(starts) // 2]])


def fit_from_the_best_start(n, d, loss, starts=()):
    runs = [torch.as_tensor(x, dtype=torch.float64) for x in (n, d, loss)]
    lowest = min(starts, key=lambda start: misfit(torch.tensor(start, dtype=torch.float64), *runs))
    return fit_scaling_law(n, d, loss, [lowest])


def fit_from_the_pages_starts(n, d, loss, starts=()):
    return fit_scaling_law(n, d, loss, scaling.STARTS)


def whole_numbers(law, flops):
    n, d = compute_optimal(law, flops)
    return float(round(n)), float(round(d))


def optimum_of_the_printed_law(law, flops):
    return compute_optimal(ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28), flops)


def points_that_eat_the_log(log):
    points = scaling.points_for_fit(log)
    log.clear()
    return points


def lowest_loss_of_each_pair(log):
    best = {}
    for row in log:
        key = row["weights"], row["step"] * row["tokens_per_step"]
        best[key] = min(row["loss"], best.get(key, math.inf))
    return [n for n, _ in best], [d for _, d in best], list(best.values())


def unfinished_ones_of_shorter_plans_too(log):
    longest = max((row["steps"] for row in log), default=0)
    rows = [row for row in log if row["steps"] < longest or row["step"] == longest]
    return scaling.points_for_fit([row | {"steps": row["step"]} for row in rows])


def one_run_of_each_pair(log):
    done = {(row["weights"], row["steps"]): row for row in log if row["step"] == row["steps"]}
    return scaling.points_for_fit(list(done.values()))


@pytest.mark.parametrize(
    "name, answer",
    [
        ("misfit", misfit_without_slopes),
        ("misfit", misfit_with_two_slopes_cut),
        ("misfit", misfit_in_other_words),  # overflows where the exponents are large
        ("fit_scaling_law", fit_in_float32),
        ("fit_scaling_law", fit_that_ignores_the_starts),
        ("fit_scaling_law", fit_from_the_start_in_the_middle),
        ("compute_optimal", whole_numbers),
        ("compute_optimal", optimum_of_the_printed_law),
        ("points_for_fit", points_that_eat_the_log),
        ("points_for_fit", lowest_loss_of_each_pair),
        ("points_for_fit", unfinished_ones_of_shorter_plans_too),
        ("points_for_fit", one_run_of_each_pair),
    ],
)
def test_wrong_answers_fail(name, answer):
    assert grade(f"gpt2.scaling.{name}", answer).status == "failed"


@pytest.mark.parametrize(
    "name, answer, told",
    [
        ("misfit", lambda *inputs: misfit(*inputs).item(), "expected a tensor"),
        ("misfit", misfit_without_slopes, "No gradient gets"),
        ("fit_scaling_law", fit_from_the_best_start, "the_best_start"),
        ("fit_scaling_law", fit_from_the_pages_starts, "not_the_given_starts"),
    ],
)
def test_the_reply_says_what_is_wrong(name, answer, told):
    result = grade(f"gpt2.scaling.{name}", answer)
    assert result.status == "failed" and told in (result.mistake or result.message)
