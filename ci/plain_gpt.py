"""A small GPT of PyTorch's own layers and a plain training loop: what `make bench` compares the recipe with.

The setting is nanoGPT's published one for a CPU (its README: 4 layers, 4 heads, 128 wide, context 64, batch 12, 2,000
iterations, dropout 0, learning rate 1e-3 down to 1e-4, 100 steps of warm-up, β₂ = 0.99). Nothing of the lessons trains
here; their loss on the validation text is the ruler for both.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from groundup.data import shakespeare
from groundup.gpt2.training import estimate_loss

LAYERS, HEADS, WIDE, CONTEXT, BATCH, ITERATIONS = 4, 4, 128, 64, 12, 2000
HIGHEST, LOWEST, WARMUP = 1e-3, 1e-4, 100


class PlainGPT(nn.Module):
    """Token ids (B, T) → logits (B, T, V)."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, WIDE), nn.Embedding(CONTEXT, WIDE)
        block = nn.TransformerEncoderLayer(
            WIDE, HEADS, 4 * WIDE, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, LAYERS, nn.LayerNorm(WIDE), enable_nested_tensor=False)
        self.head = nn.Linear(WIDE, vocab_size, bias=False)
        for weight in (self.tokens.weight, self.places.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)
        self.head.weight = self.tokens.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        T = idx.shape[1]
        x = self.tokens(idx) + self.places.weight[:T]
        return self.head(self.blocks(x, mask=self.mask[:T, :T], is_causal=True))


def learning_rate(step: int) -> float:
    if step < WARMUP:
        return HIGHEST * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (ITERATIONS - WARMUP)
    return LOWEST + (HIGHEST - LOWEST) * (1 + math.cos(math.pi * done)) / 2


def main() -> None:
    torch.manual_seed(1337)
    text = shakespeare()
    number = {character: i for i, character in enumerate(sorted(set(text.train + text.validation)))}
    train, validation = (torch.tensor([number[c] for c in part]) for part in (text.train, text.validation))
    model = PlainGPT(len(number))
    optimizer = torch.optim.AdamW(model.parameters(), lr=HIGHEST, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(ITERATIONS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        starts = torch.randint(len(train) - CONTEXT, (BATCH,)).tolist()
        x = torch.stack([train[s : s + CONTEXT] for s in starts])
        y = torch.stack([train[s + 1 : s + CONTEXT + 1] for s in starts])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            held_out = estimate_loss(model, validation, CONTEXT, batch_size=BATCH, n_batches=100)
            print(f"step {step + 1}: validation {held_out:.4f}", flush=True)


if __name__ == "__main__":
    main()
