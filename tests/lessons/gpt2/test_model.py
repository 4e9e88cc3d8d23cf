"""The lesson gpt2.model: GPT against transformers on configurations that hypothesis makes up, and attacks on the grader."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from groundup.check import grade
from groundup.gpt2 import model as lesson
from groundup.gpt2.model import GPT, FeedForward, GPTConfig, LayerNorm, gelu
from tests.lessons.edits import edited

TURNED = ("c_attn.weight", "c_fc.weight", "c_proj.weight")


@settings(max_examples=15, deadline=None)
@given(
    n_layer=st.integers(1, 3),
    n_head=st.integers(1, 3),
    head_dim=st.integers(1, 5),
    V=st.integers(2, 30),
    B=st.integers(1, 3),
    T=st.integers(1, 12),
    fused=st.booleans(),
)
def test_logits_and_gradients_are_those_of_transformers(n_layer, n_head, head_dim, V, B, T, fused):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(n_layer * 100 + V)
    C = n_head * head_dim
    sizes = {"n_positions": 12, "n_embd": C, "n_layer": n_layer, "n_head": n_head, "vocab_size": V}
    theirs = GPT2LMHeadModel(
        GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, attn_implementation="eager")
    )
    theirs = theirs.double().eval()
    ours = GPT(GPTConfig(12, V, n_layer, n_head, C, fused=fused)).double().eval()
    with torch.no_grad():
        numbers = theirs.state_dict()
        for tensor in numbers.values():
            tensor.normal_(std=0.5)
        for name, tensor in ours.state_dict().items():
            tensor.copy_(numbers[name].T if name.endswith(TURNED) else numbers[name])
    idx, targets = torch.randint(V, (2, B, T))
    expected, got = theirs(idx).logits, ours(idx)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for logits in (expected, got):
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        other = gradients[name].T if name.endswith(TURNED) else gradients[name]
        torch.testing.assert_close(parameter.grad, other, rtol=1e-6, atol=1e-9)


def test_sizes_are_the_published_ones():
    for sizes, count in (
        ((12, 12, 768), 124_439_808),
        ((24, 16, 1024), 354_823_168),
        ((36, 20, 1280), 774_030_080),
        ((48, 25, 1600), 1_557_611_200),
    ):
        with torch.device("meta"):
            model = GPT(GPTConfig(1024, 50257, *sizes))
        assert model.num_parameters() == count


def test_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="n_head=4"):
        GPTConfig(n_embd=6, n_head=4)
    model = GPT(GPTConfig(4, 5, 1, 1, 4))
    assert model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 5)
    with pytest.raises(ValueError, match="at most 4"):
        model(torch.zeros(1, 5, dtype=torch.int64))


def test_the_past_does_not_see_the_future():
    torch.manual_seed(0)
    model = GPT(GPTConfig(8, 20, 3, 2, 8)).double()
    a, b = torch.randint(20, (2, 4, 8))
    b[:, :5] = a[:, :5]
    torch.testing.assert_close(model(a)[:, :5], model(b)[:, :5])
    assert not torch.allclose(model(a)[:, 5:], model(b)[:, 5:])


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=0, max_size=3), n=st.integers(2, 9))
def test_layer_norm_is_torchs(shape, n):
    x = torch.randn(*shape, n, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(LayerNorm(n)(x), F.layer_norm(x, (n,)), check_dtype=False)


# name → edits of the course's version that a learner might hand in, and that must fail.
WRONG = {
    "gelu": [
        [("x**3", "x.clamp(-2, 2)**3")],  # right for small numbers
        [("x + 0.044715", "x.detach() + 0.044715")],  # right numbers, wrong slopes
        [("inner = math", "x += 1; x = x - 1; inner = math")],  # moves x
        [("return 0.5", "return x.float().double() * 0 + 0.5")],  # float64 always
        [("0.044715", "0.0447")],
    ],
    "FeedForward": [
        [("4 * C", "4 * 6")],
        [("bias=config.bias", "bias=True")],
        [("nn.Dropout(config.dropout)", "nn.Dropout(0.1)")],
        [("nn.Dropout(config.dropout)", "nn.Identity()")],
        [("(self.c_fc(x))", "(self.c_fc(x.detach()))")],
        [("(self.c_fc(x))", "(self.c_fc(x[:1].expand_as(x)))")],  # right for one text
    ],
    "Block": [
        [("x = x + self.attn", "x += self.attn")],  # moves the caller's tensor
        [('"dropout": config.dropout', '"dropout": 0.1')],
        [('"fused": config.fused', '"fused": True')],
        [("self.ln_1(x)", "self.ln_1(x.detach())")],
        [("self.attn(self.ln_1(x))", "self.attn(self.ln_1(x)) + 0 * self.attn(x)")],  # runs twice
        [("nn.LayerNorm(C, bias=bias)", "nn.LayerNorm(C, eps=1e-6, bias=bias)")],
        [("nn.LayerNorm(C, bias=bias)", "nn.LayerNorm(C)")],
    ],
    "init_gpt2": [
        [("2 * n_layer", "24")],  # right for twelve layers
        [("parameter.zero_()", "pass")],
        [("parameter.fill_(1)", "pass")],
        [('"c_proj.weight"', '"attn.c_proj.weight"')],
        [("normal_(std=0.02)", "uniform_(-0.034641, 0.034641)")],
        [("parameter.normal_(std=0.02)", "parameter.normal_(std=0.02).clamp_(-0.02, 0.02)")],
        [("for name", "torch.manual_seed(3)\n    for name")],
        [("normal_(std=0.02)", "normal_(std=0.02, generator=torch.Generator())")],
    ],
    "GPT": [
        [("self.transformer.wte.weight\n", "nn.Parameter(self.transformer.wte.weight.detach().clone())\n")],
        [("torch.arange(T, device=idx.device)", "torch.arange(8)[:T].clamp(max=4)")],
        [("torch.arange(T, device=idx.device)", "torch.arange(T)")],
        [("parts.wpe(positions)", "parts.wpe(positions).detach()")],
        [("range(config.n_layer)", "range(2)")],
        [("nn.Dropout(config.dropout)", "nn.Dropout(0.0)")],
        [("for block in parts.h:", "for block in [*parts.h, *parts.h[:0]][:2]:")],  # two blocks at most
        [("nn.Embedding(config.block_size, C)", "nn.Embedding(8, C)")],
        [("self.lm_head(parts.ln_f(x))", "self.lm_head(parts.ln_f(x)).float()")],
    ],
    "LayerNorm": [
        [("dim=-1", "dim=x.dim() - 2 if x.dim() == 3 else -1")],
        [("self.eps)", "1e-5)")],
        [("* self.weight", "* self.weight.detach()")],
        [("mean = x.mean", "x -= 0.0 * x + 1; mean = x.mean")],
    ],
}


@pytest.mark.parametrize(("name", "edits"), [(name, edits) for name in WRONG for edits in WRONG[name]])
def test_wrong_answers_fail(name, edits):
    result = grade(f"gpt2.model.{name}", edited(lesson, name, *edits), seed=0)
    assert result.status in ("failed", "error"), edits


# Right answers, written differently.
RIGHT = {
    "gelu": [[("return 0.5 * x * (1 + torch.tanh(inner))", 'return F.gelu(x, approximate="tanh")')]],
    "FeedForward": [
        [("nn.Dropout(config.dropout)", "config.dropout"), ("self.dropout(", "self.drop("),
         ("    def forward", "    def drop(self, x):\n        return F.dropout(x, self.dropout, self.training)\n\n    def forward")],
        [("gelu(self.c_fc(x))", 'F.gelu(self.c_fc(x), approximate="tanh")')],
    ],
    "Block": [
        [("return x + self.mlp(self.ln_2(x))", "y = self.ln_2(x)\n        x = self.mlp(y) + x\n        return x")],
    ],
    "init_gpt2": [
        [("parameter.zero_()", "nn.init.zeros_(parameter)"), ("parameter.fill_(1)", "nn.init.ones_(parameter)"),
         ("parameter.normal_(std=0.02)", "nn.init.trunc_normal_(parameter, std=0.02)")],
        [("parameter.normal_(std=0.02)", "parameter.copy_(0.02 * torch.randn_like(parameter))")],
    ],
    "GPT": [
        [("parts.wpe(positions)", "parts.wpe.weight[:T]")],
        [("parts.wte(idx)", "parts.wte.weight[idx]")],
        [("self.lm_head(parts.ln_f(x))", "parts.ln_f(x) @ parts.wte.weight.T")],
        [("self.lm_head.weight = self.transformer.wte.weight", "self.transformer.wte.weight = self.lm_head.weight")],
    ],
    "LayerNorm": [
        [("((x - mean) ** 2).mean(dim=-1, keepdim=True)", "x.var(-1, correction=0, keepdim=True)")],
        [("(x - mean) / torch.sqrt(variance + self.eps)", "(x - mean) * (variance + self.eps) ** -0.5")],
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "edits"), [(name, edits) for name in RIGHT for edits in RIGHT[name]])
def test_right_answers_pass(name, edits, monkeypatch):
    monkeypatch.setattr(lesson, "F", F, raising=False)
    for seed in range(2):
        result = grade(f"gpt2.model.{name}", edited(lesson, name, *edits), seed=seed)
        assert result.status == "passed", (edits, result.message)


def test_gelu_has_no_dead_side():
    x = torch.linspace(-3, 0, 50, requires_grad=True)
    assert (torch.autograd.grad(gelu(x).sum(), x)[0] != 0).all()
    assert FeedForward(GPTConfig(n_embd=4, n_head=1, bias=False)).c_fc.bias is None
    assert isinstance(FeedForward(GPTConfig(n_embd=4, n_head=1)), nn.Module)
