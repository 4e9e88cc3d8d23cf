"""Scaling laws.

Generated from chapters/02_gpt2/16_scaling.md by `make sync`: edit that file, not this one.
"""

import ctypes
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "BLOCK_IN_C",
    "STARTS",
    "ScalingLaw",
    "block_in_c",
    "compile_c",
    "compute_optimal",
    "descend",
    "fit_scaling_law",
    "matmul_weights",
    "misfit",
    "points_for_fit",
    "training_flops",
]


def matmul_weights(n_layer: int, n_embd: int, vocab_size: int) -> int:
    """How many weights of a GPT multiply: 12 C² in each layer, V C for the logits."""
    return 12 * n_layer * n_embd**2 + vocab_size * n_embd


def training_flops(n_parameters: float, n_tokens: float) -> float:
    """What a training costs, in floating-point operations, without attention's own."""
    return 6 * n_parameters * n_tokens


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann and others, 2022), in nats."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n, d):
        """The predicted loss of n weights after d tokens; numbers, arrays, tensors."""
        return self.E + self.A / n**self.alpha + self.B / d**self.beta


def misfit(theta: Tensor, n: Tensor, d: Tensor, loss: Tensor) -> Tensor:
    """The sum over runs of Huber's loss between predicted and measured ln L.

    theta: ln A, ln B, ln E, alpha, beta. Hoffmann and others (2022), equation 3.
    """
    a, b, e, alpha, beta = theta
    terms = torch.stack([a - alpha * n.log(), b - beta * d.log(), e.expand(len(n))])
    predicted = terms.logsumexp(dim=0)
    return F.huber_loss(predicted, loss.log(), delta=1e-3, reduction="sum")


# Where the search begins: ln A, ln B, ln E, alpha, beta
STARTS = [(a, b, 0.0, 0.4, 0.4) for a in (2.0, 8.0) for b in (2.0, 8.0)]


def descend(objective: Callable[[Tensor], Tensor], start: Sequence[float]) -> Tensor:
    """The place where L-BFGS ends: goes down `objective` from `start`; float64."""
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 300, "tolerance_grad": 1e-12, "tolerance_change": 1e-16}
    optimizer = torch.optim.LBFGS([theta], line_search_fn="strong_wolfe", **options)

    def closure():
        optimizer.zero_grad()
        value = 1e6 * objective(theta)  # as it is, it is so small that the search ends
        value.backward()
        return value

    optimizer.step(closure)
    end = theta.detach()
    return end if end.isfinite().all() else torch.tensor(start, dtype=torch.float64)


def fit_scaling_law(
    n: Sequence[float] | np.ndarray | Tensor,
    d: Sequence[float] | np.ndarray | Tensor,
    loss: Sequence[float] | np.ndarray | Tensor,
    starts: Sequence[Sequence[float]] = STARTS,
) -> ScalingLaw:
    """The law with the smallest misfit to runs of n weights and d tokens.

    Hoffmann and others (2022), approach 3: from every start, and the best is kept.
    """
    n, d, loss = (torch.as_tensor(x, dtype=torch.float64) for x in (n, d, loss))

    def objective(theta):
        return misfit(theta, n, d, loss)

    ends = [descend(objective, start) for start in starts]
    a, b, e, alpha, beta = min(ends, key=objective).tolist()
    return ScalingLaw(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def compute_optimal(law: ScalingLaw, flops: float) -> tuple[float, float]:
    """Weights and tokens with the smallest predicted loss at 6 N D = flops.

    Hoffmann and others (2022), equation 4.
    """
    both = law.alpha + law.beta
    g = (law.alpha * law.A / (law.beta * law.B)) ** (1 / both)
    n = g * (flops / 6) ** (law.beta / both)
    return n, flops / (6 * n)


BLOCK_IN_C = r"""
#include <math.h>
#include <stdlib.h>

/* y (T, n_out) = x (T, n_in) w^T + b; w is (n_out, n_in), as in nn.Linear */
static void linear(float *y, const float *x, const float *w, const float *b,
                   int T, int n_in, int n_out) {
    for (int t = 0; t < T; t++)
        for (int o = 0; o < n_out; o++) {
            float sum = b[o];
            for (int i = 0; i < n_in; i++) sum += w[o * n_in + i] * x[t * n_in + i];
            y[t * n_out + o] = sum;
        }
}

static void layer_norm(float *y, const float *x, const float *w, const float *b,
                       int T, int C) {
    for (int t = 0; t < T; t++, x += C, y += C) {
        float mean = 0, variance = 0;
        for (int i = 0; i < C; i++) mean += x[i] / C;
        for (int i = 0; i < C; i++) variance += (x[i] - mean) * (x[i] - mean) / C;
        float scale = 1 / sqrtf(variance + 1e-5f);
        for (int i = 0; i < C; i++) y[i] = (x[i] - mean) * scale * w[i] + b[i];
    }
}

/* qkv (T, 3C): queries, keys, values side by side; y (T, C) */
static void attention(float *y, const float *qkv, int T, int C, int n_head) {
    int d = C / n_head;
    float *p = malloc(T * sizeof(float));
    for (int h = 0; h < n_head; h++)
        for (int t = 0; t < T; t++) {
            const float *q = qkv + t * 3 * C + h * d;
            float *out = y + t * C + h * d, top = -INFINITY, total = 0;
            for (int s = 0; s <= t; s++) { /* the mask: no later key is looked at */
                const float *k = qkv + s * 3 * C + C + h * d;
                p[s] = 0;
                for (int i = 0; i < d; i++) p[s] += q[i] * k[i];
                p[s] /= sqrtf(d);
                top = fmaxf(top, p[s]);
            }
            for (int s = 0; s <= t; s++) total += p[s] = expf(p[s] - top);
            for (int i = 0; i < d; i++) out[i] = 0;
            for (int s = 0; s <= t; s++) {
                const float *v = qkv + s * 3 * C + 2 * C + h * d;
                for (int i = 0; i < d; i++) out[i] += p[s] / total * v[i];
            }
        }
    free(p);
}

static float gelu(float x) { /* sqrt(2 / pi) = 0.79788456 */
    return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

/* x (T, C) is changed in place; w: the block's tensors, as its state_dict has them */
void block(float *x, const float **w, int T, int C, int n_head) {
    float *h = malloc(T * C * sizeof(float)), *out = malloc(T * C * sizeof(float));
    float *wide = malloc(T * 4 * C * sizeof(float));
    layer_norm(h, x, w[0], w[1], T, C);
    linear(wide, h, w[2], w[3], T, C, 3 * C);
    attention(h, wide, T, C, n_head);
    linear(out, h, w[4], w[5], T, C, C);
    for (int i = 0; i < T * C; i++) x[i] += out[i];
    layer_norm(h, x, w[6], w[7], T, C);
    linear(wide, h, w[8], w[9], T, C, 4 * C);
    for (int i = 0; i < T * 4 * C; i++) wide[i] = gelu(wide[i]);
    linear(out, wide, w[10], w[11], T, 4 * C, C);
    for (int i = 0; i < T * C; i++) x[i] += out[i];
    free(h); free(out); free(wide);
}
"""


def compile_c(source: str) -> ctypes.CDLL | None:
    """The C program as a loaded library; None where there is no working compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program.c").write_text(source, encoding="ascii")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", "program.so"]
        command += ["program.c", "-lm"]
        try:
            options = {"check": True, "capture_output": True, "timeout": 60}
            subprocess.run(command, cwd=folder, **options)
            return ctypes.CDLL(str(Path(folder, "program.so")))
        except (OSError, subprocess.SubprocessError):
            return None


def block_in_c(library: ctypes.CDLL, block: torch.nn.Module, x: Tensor) -> Tensor:
    """What a GPT-2 block makes of x (B, T, C), float32, computed by BLOCK_IN_C."""
    tensors = block.state_dict().values()
    weights = [w.detach().float().cpu().contiguous() for w in tensors]
    pointers = (ctypes.c_void_p * len(weights))(*(w.data_ptr() for w in weights))
    y = x.detach().float().cpu().contiguous().clone()
    for sequence in y:  # a row of y: the C function changes it in place
        sizes = *sequence.shape, block.attn.n_head
        library.block(ctypes.c_void_p(sequence.data_ptr()), pointers, *sizes)
    return y


def points_for_fit(log: list[dict]) -> tuple[list[int], list[int], list[float]]:
    """Weights, tokens seen, and loss of the entries from which a law may be fitted.

    log: entries with weights, tokens_per_step, step (done), steps (planned), loss.
    """
    n, d, loss = [], [], []
    for row in log:
        if row["step"] == row["steps"]:
            n.append(row["weights"])
            d.append(row["step"] * row["tokens_per_step"])
            loss.append(row["loss"])
    return n, d, loss
