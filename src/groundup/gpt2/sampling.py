"""Sampling and beam search.

Generated from chapters/02_gpt2/07_sampling.md by `make sync`: edit that file, not this one.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["beam_search", "evaluating", "generate", "next_probabilities"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; every module's mode as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def next_probabilities(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None
) -> torch.Tensor:
    """The probabilities to draw the next token from; logits: (B, V), and so is the result.

    temperature 0 gives all to the largest logit. top_k keeps the k largest logits of each
    row, and any that equal the k-th.
    """
    if temperature == 0:
        temperature, top_k = 1.0, 1
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return torch.softmax(logits / temperature, dim=-1)


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
    """Continue each row of idx, (B, T), by tokens drawn from the model: (B, T + new).

    A row that drew one of stop_tokens repeats it; when all have, it ends early.
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

    idx: (1, T). Returns prompt and continuation, (1, T + new), and its log-probability.
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
