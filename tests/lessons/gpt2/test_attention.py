"""The lesson gpt2.attention: its functions against torch's own on random shapes, and its checks."""

import inspect
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from groundup.check import grade
from groundup.gpt2 import attention
from groundup.gpt2.attention import (
    CausalSelfAttention,
    CrossAttention,
    attend,
    causal_mask,
    mask_for_newest,
    merge_heads,
    split_heads,
)

small = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.lists(small, max_size=2), small, small, small, small, seeds)
def test_attend_equals_torch(lead, t, s, d, e, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(*lead, *shape, dtype=torch.float64) for shape in ((t, d), (s, d), (s, e)))
    mask = torch.rand(*lead, t, s) < 0.6
    mask[..., -1] = True
    close(attend(q, k, v)[0], F.scaled_dot_product_attention(q, k, v))
    out, weights = attend(q, k, v, mask)
    close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert not weights[~mask].any()


@settings(max_examples=40, deadline=None)
@given(small, small, small, small, seeds)
def test_layers_equal_torch(B, T, n_head, d, seed):
    torch.manual_seed(seed)
    C = n_head * d
    x, memory = torch.randn(B, T, C).double(), torch.randn(B, T + 2, C).double()

    def torchs(weight, bias, proj):
        module = nn.MultiheadAttention(C, n_head, batch_first=True).double()
        module.in_proj_weight.data, module.in_proj_bias.data = weight.data, bias.data
        module.out_proj.load_state_dict(proj.state_dict())
        return module

    for fused in (True, False):
        layer = CausalSelfAttention(C, n_head, fused=fused).double()
        module = torchs(layer.c_attn.weight, layer.c_attn.bias, layer.c_proj)
        close(layer(x), module(x, x, x, attn_mask=~causal_mask(T))[0])
    cross = CrossAttention(C, n_head).double()
    weight, bias = (torch.cat([getattr(cross.c_q, n), getattr(cross.c_kv, n)]) for n in ("weight", "bias"))
    mask = torch.rand(T, T + 2) < 0.6
    mask[:, 0] = True
    module = torchs(weight, bias, cross.c_proj)
    close(cross(x, memory, mask), module(x, memory, memory, attn_mask=~mask)[0])


@settings(max_examples=30, deadline=None)
@given(small, small, small, st.booleans(), seeds)
def test_the_future_changes_nothing(T, n_head, d, fused, seed):
    torch.manual_seed(seed)
    layer, x = CausalSelfAttention(n_head * d, n_head, fused=fused), torch.randn(2, T, n_head * d)
    x.requires_grad_()
    for t in range(T):
        grad = torch.autograd.grad(layer(x)[:, t].sum(), x)[0]
        assert not grad[:, t + 1 :].any()


@settings(max_examples=30, deadline=None)
@given(small, small, small, small)
def test_heads_are_runs_of_channels(B, T, n_head, d):
    x = torch.arange(1.0 * B * T * n_head * d).reshape(B, T, -1)
    split = split_heads(x, n_head)
    assert torch.equal(merge_heads(split), x)
    for h in range(n_head):
        assert torch.equal(split[:, h], x[..., h * d : (h + 1) * d])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_newest_rows_are_the_last_of_the_causal_mask(n_new, more):
    mask = mask_for_newest(n_new, n_new + more)
    assert torch.equal(mask, causal_mask(n_new + more)[more:])


def learners(name: str, source: str):
    """The learner's own version, in a notebook where the rest is the course's."""
    names = dict(vars(attention))
    exec(textwrap.dedent(source), names)
    return names[name]


RIGHT = {
    "attend": [
        """
        def attend(q, k, v, mask=None):
            scores = torch.einsum("...td,...sd->...ts", q / q.size(-1) ** 0.5, k)
            if mask is not None:
                scores = torch.where(mask, scores, float("-inf"))
            weights = F.softmax(scores, -1)
            return torch.einsum("...ts,...se->...te", weights, v), weights
        """,
        """
        def attend(q, k, v, mask=None):
            scores = (q @ k.mT) * q.shape[-1] ** -0.5
            if mask is not None:
                hide = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(mask.logical_not(), -math.inf)
                scores = scores + hide
            weights = torch.exp(scores - scores.amax(-1, keepdim=True))
            weights = weights / weights.sum(-1, keepdim=True)
            return [weights @ v, weights]
        """,
    ],
    "split_heads": [
        "def split_heads(x, n_head):\n    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)",
        "def split_heads(x, n_head):\n    return torch.stack(x.chunk(n_head, dim=-1), dim=1)",
        """
        def split_heads(x, n_head):
            B, T, C = x.shape
            return x.view(B, T, n_head, C // n_head).permute(0, 2, 1, 3).contiguous()
        """,
    ],
    "CausalSelfAttention": [
        # modules for dropout, a mask handed to the fused call
        """
        class CausalSelfAttention(nn.Module):
            def __init__(self, n_embd, n_head, *, dropout=0.0, bias=True, fused=True):
                super().__init__()
                if n_embd % n_head != 0:
                    raise ValueError("no")
                self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd, bias), nn.Linear(n_embd, n_embd, bias)
                self.drop_weights, self.drop = nn.Dropout(dropout), nn.Dropout(dropout)
                self.n_head, self.fused, self.n_embd = n_head, fused, n_embd
            def forward(self, x):
                B, T, C = x.size()
                q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
                q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
                if self.fused:
                    p = self.drop_weights.p if self.training else 0
                    y = F.scaled_dot_product_attention(q, k, v, torch.ones(T, T, device=x.device).tril().bool(), p)
                else:
                    w = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
                    past = torch.tril(torch.ones(T, T)).to(x.device)
                    w = self.drop_weights(F.softmax(w.masked_fill(past == 0, -math.inf), dim=-1))
                    y = w @ v
                return self.drop(self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C)))
        """,
    ],
    "CrossAttention": [
        """
        class CrossAttention(nn.Module):
            def __init__(self, n_embd, n_head):
                super().__init__()
                if n_embd % n_head:
                    raise ValueError
                self.n_head, self.n_embd = n_head, n_embd
                self.c_q, self.c_proj = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, n_embd)
                self.c_kv = nn.Linear(n_embd, 2 * n_embd)
            def forward(self, x, memory, mask=None):
                q = split_heads(self.c_q(x), self.n_head)
                k, v = split_heads(self.c_kv(memory), 2 * self.n_head).split(self.n_head, dim=1)
                return self.c_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
        """,
    ],
    "mask_for_newest": [
        """
        def mask_for_newest(n_new, n_total, device=None):
            return causal_mask(n_total, device)[n_total - n_new :]
        """,
        """
        def mask_for_newest(n_new, n_total, device=None):
            places = torch.arange(n_total, device=device)
            return places <= places[n_total - n_new :, None]
        """,
        """
        def mask_for_newest(n_new, n_total, device=None):
            return ~torch.ones(n_new, n_total, device=device).triu(n_total - n_new + 1).bool()
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, s) for name in RIGHT for s in RIGHT[name]])
def test_other_right_answers_pass(name, source):
    for seed in range(4):
        result = grade(f"gpt2.attention.{name}", learners(name, source), seed=seed)
        assert result.status == "passed", result.message


# Wrong answers, as edits of the course's version.
WRONG = [
    ("attend", "-math.inf", "-1e4"),  # not hidden, if all scores are far below
    ("attend", "-math.inf", "0.0"),
    ("attend", "~mask, -math.inf)", "~mask.any(dim=0), -math.inf)"),  # one row for all
    ("attend", "scores.softmax(dim=-1)", "scores.exp() / scores.exp().sum(-1, keepdim=True)"),  # overflows
    ("attend", "scores.softmax(dim=-1)", "scores.float().softmax(dim=-1).to(q.dtype)"),
    ("attend", "weights @ v, weights", "weights @ v, weights.detach()"),
    ("attend", "weights @ v, weights", "weights @ v, scores"),
    ("attend", "math.sqrt(q.shape[-1])", "math.sqrt(v.shape[-1])"),
    ("attend", "math.sqrt(q.shape[-1])", "2"),
    ("attend", "k.transpose(-2, -1)", "k.transpose(1, 2)"),
    ("attend", "scores.masked_fill(~mask", "scores.masked_fill(mask.logical_not_()"),  # changes the mask
    ("split_heads", "x.reshape", "x.detach().reshape"),
    ("split_heads", "x.reshape(B, T, n_head, C // n_head).transpose(1, 2)", "x.reshape(B, n_head, T, -1)"),
    ("CausalSelfAttention", "is_causal=True", "is_causal=x.shape[1] < 9"),
    ("CausalSelfAttention", "is_causal=True", "is_causal=x.shape[0] > 1"),
    ("CausalSelfAttention", "if self.fused", "if False"),
    ("CausalSelfAttention", "if self.fused", "if True"),
    ("CausalSelfAttention", "if self.training else 0.0", ""),
    ("CausalSelfAttention", "self.dropout if self.training else 0.0", "0.1 if self.training else 0.0"),
    ("CausalSelfAttention", "F.dropout(weights, p) @ v", "weights @ F.dropout(v, p)"),
    ("CausalSelfAttention", "F.dropout(weights, p) @ v", "F.dropout(weights @ v, p)"),
    ("CausalSelfAttention", "F.dropout(weights, p) @ v", "(weights * (torch.rand_like(weights) >= p)) @ v"),
    ("CausalSelfAttention", "self.c_proj(merge_heads(heads)), p)", "self.c_proj(merge_heads(heads)), 0.1)"),
    ("CausalSelfAttention", "self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)", "self.c_proj = nn.Linear(n_embd, n_embd)"),
    ("CausalSelfAttention", "x.shape[1], x.device", "x.shape[1]"),
    # the mask of the first call is kept
    (
        "CausalSelfAttention",
        "attend(q, k, v, causal_mask(x.shape[1], x.device))",
        "attend(q, k, v, vars(self).setdefault('kept', causal_mask(x.shape[1], x.device)))",
    ),
    ("CausalSelfAttention", "self.n_head) for part", "min(self.n_head, 2)) for part"),
    ("CausalSelfAttention", "raise ValueError(", "print("),
    ("CausalSelfAttention", "chunk(3, dim=-1)", "unflatten(-1, (-1, 3)).unbind(-1)"),
    ("CrossAttention", "attend(q, k, v, mask)", "attend(q, k, v, mask if mask is None else mask[..., :1, :])"),
    ("CrossAttention", "attend(q, k, v, mask)", "attend(q, k, v)"),
    ("CrossAttention", "self.c_kv(memory)", "self.c_kv(memory.detach())"),
    ("CrossAttention", "(q, k, v, mask)", "(q, v, k, mask)"),
    ("mask_for_newest", "diagonal=n_total - n_new", "diagonal=2"),
    ("mask_for_newest", "device=device", "device='cpu'"),
    ("mask_for_newest", "dtype=torch.bool", "dtype=torch.uint8"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), WRONG)
def test_wrong_answers_fail(name, old, new):
    source = inspect.getsource(inspect.unwrap(getattr(attention, name)))
    assert old in source
    for seed in range(2):
        result = grade(f"gpt2.attention.{name}", learners(name, source.replace(old, new)), seed=seed)
        assert result.status in ("failed", "error", "timeout"), (new, seed)
