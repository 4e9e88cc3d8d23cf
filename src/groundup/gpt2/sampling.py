"""Sampling and beam search.

Generated from chapters/02_gpt2/07_sampling.md by `make sync`: edit that file, not this one.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = [
    "beam_search",
    "continuation_log_prob",
    "evaluating",
    "generate",
    "next_probabilities",
    "np_gelu",
    "np_gpt",
    "np_layer_norm",
    "np_softmax",
]


def next_probabilities(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None
) -> torch.Tensor:
    """The probabilities to draw the next token from: (B, V), like logits.

    temperature 0 gives 1 to the largest logit. top_k keeps the k largest of each row and
    those equal to the k-th; None or more than V keeps all.
    """
    if temperature == 0:
        temperature, top_k = 1.0, 1
    if top_k is not None:
        largest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values
        logits = logits.masked_fill(logits < largest[:, -1:], -torch.inf)
    return torch.softmax(logits / temperature, dim=-1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, evaluation mode and no gradients; then every module's mode as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def generate(
    model: nn.Module,
    idx: torch.Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop_tokens: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Continue each row of idx, (B, T), by drawn tokens: (B, T + new).

    A row that has drawn one of stop_tokens repeats it; when all have, the loop ends.
    """
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=idx.device)
    stopped = torch.zeros(len(idx), dtype=torch.bool, device=idx.device)
    with evaluating(model):
        for _ in range(max_new_tokens):
            logits = model(idx[:, -model.config.block_size :])[:, -1]
            probabilities = next_probabilities(logits, temperature, top_k)
            token = torch.multinomial(probabilities, 1, generator=generator)
            token = torch.where(stopped[:, None], idx[:, -1:], token)
            idx = torch.cat([idx, token], dim=1)
            stopped = stopped | torch.isin(token[:, 0], stops)
            if stopped.all():
                break
    return idx


def beam_search(
    model: nn.Module,
    idx: torch.Tensor,
    max_new_tokens: int,
    num_beams: int,
    stop_tokens: Collection[int] = (),
) -> tuple[torch.Tensor, float]:
    """The most probable continuation that a beam of this width finds.

    idx: (1, T). Returns prompt and continuation, (1, T + new), padded by its stop token,
    and the logarithm of the continuation's probability.
    """
    stops = torch.tensor(list(stop_tokens), dtype=torch.long, device=idx.device)
    stopped = torch.zeros(1, dtype=torch.bool, device=idx.device)
    scores = torch.zeros(1, device=idx.device)
    with evaluating(model):
        for _ in range(max_new_tokens):
            logits = model(idx[:, -model.config.block_size :])[:, -1]
            log_probs = torch.log_softmax(logits, dim=-1)
            log_probs[stopped] = -torch.inf
            log_probs[stopped, idx[stopped, -1]] = 0.0
            totals = (scores[:, None] + log_probs).flatten()
            scores, best = totals.topk(min(num_beams, len(totals)))
            parent, token = best // logits.shape[-1], best % logits.shape[-1]
            idx = torch.cat([idx[parent], token[:, None]], dim=1)
            stopped = stopped[parent] | torch.isin(token, stops)
            if stopped[0]:
                break
    return idx[:1], scores[0].item()


def np_softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def np_gelu(x: np.ndarray) -> np.ndarray:
    """GPT-2's bend, the tanh form."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def np_layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """LayerNorm over the last axis; eps is 1e-5."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * weight + bias


def np_gpt(tokens: np.ndarray, weights: dict[str, np.ndarray], config) -> np.ndarray:
    """The logits of one text, (T, V), by NumPy alone; tokens: (T,).

    weights: the arrays of a GPT by the names of its state_dict; config: a GPTConfig.
    """

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return np_layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    T, H = len(tokens), config.n_head
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:T]
    for n in range(config.n_layer):
        block = f"transformer.h.{n}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        parts = (np.split(part, H, axis=-1) for part in np.split(qkv, 3, axis=-1))
        heads = []
        for q, k, v in zip(*parts, strict=True):
            scores = q @ k.T / math.sqrt(q.shape[-1])
            scores[future] = -np.inf
            heads.append(np_softmax(scores) @ v)
        x = x + linear(np.concatenate(heads, axis=-1), f"{block}.attn.c_proj")
        hidden = np_gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + linear(hidden, f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T


def continuation_log_prob(model: nn.Module, idx: torch.Tensor, prompt_length: int) -> torch.Tensor:
    """The log-probability of each row's tokens after the prompt; idx (B, T) → (B,)."""
    with evaluating(model):
        log_probs = torch.log_softmax(model(idx[:, :-1]), dim=-1)
    picked = log_probs.gather(-1, idx[:, 1:, None])[:, :, 0]
    return picked[:, prompt_length - 1 :].sum(dim=1)
