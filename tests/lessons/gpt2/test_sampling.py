"""The lesson gpt2.sampling: its functions against enumeration and transformers, and its checks."""

import itertools
import math
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from groundup.check import grade
from groundup.checks.gpt2.sampling import Standin
from groundup.gpt2 import sampling
from groundup.gpt2.model import GPT, GPTConfig
from groundup.gpt2.sampling import (
    beam_search,
    continuation_log_prob,
    evaluating,
    generate,
    next_probabilities,
    np_gpt,
)
from tests.lessons.edits import edited

seeds = st.integers(0, 2**32 - 1)


def small_gpt(seed=0, **sizes):
    torch.manual_seed(seed)
    model = GPT(
        GPTConfig(**({"block_size": 12, "vocab_size": 7, "n_layer": 2, "n_head": 2, "n_embd": 8} | sizes))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model.double()


def same_in_transformers(model):
    """transformers' GPT-2 with the weights of `model`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = model.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.block_size, n_embd=config.n_embd, n_layer=config.n_layer,
            n_head=config.n_head, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )
    ).double()  # fmt: skip
    weights = model.state_dict()
    for name, tensor in theirs.state_dict().items():
        transposed = tensor.ndim == 2 and ".h." in name and name.endswith("weight")
        tensor.copy_(weights[name].T if transposed else weights[name])
    return theirs.eval()


@settings(max_examples=60, deadline=None)
@given(
    seeds, st.integers(1, 4), st.integers(1, 9), st.floats(0.05, 5), st.one_of(st.none(), st.integers(1, 12))
)
def test_probabilities_keep_the_right_tokens(seed, B, V, temperature, top_k):
    logits = torch.tensor(np.random.default_rng(seed).normal(size=(B, V)))
    p = next_probabilities(logits, temperature, top_k)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(B, dtype=torch.float64))
    assert (p > 0).sum() <= B * min(top_k or V, V)
    for row, z in zip(p, logits, strict=True):
        kept = row > 0
        assert not kept.any() or z[kept].min() >= z[~kept].max() if (~kept).any() else True
        torch.testing.assert_close(row[kept], torch.softmax(z[kept] / temperature, dim=0))
    cold = next_probabilities(logits, 0, top_k)
    assert torch.equal(cold, F.one_hot(logits.argmax(dim=1), V).double())


def test_greedy_and_beams_equal_transformers():
    model = small_gpt(3, block_size=16)
    theirs = same_in_transformers(model)
    idx = torch.tensor([[2, 5, 1]])
    options = {"max_new_tokens": 9, "do_sample": False, "attention_mask": torch.ones_like(idx)}
    assert torch.equal(generate(model, idx, 9, temperature=0), theirs.generate(idx, **options))
    for num_beams in (2, 4):
        wanted = theirs.generate(
            idx, **options, num_beams=num_beams, length_penalty=0.0, return_dict_in_generate=True, output_scores=True
        )  # fmt: skip
        found, log_prob = beam_search(model, idx, 9, num_beams)
        assert torch.equal(found, wanted.sequences)
        assert log_prob == pytest.approx(wanted.sequences_scores.item(), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.sampled_from([(), (1,), (0, 2)]))
def test_a_wide_beam_is_exhaustive(seed, stops):
    model = small_gpt(seed, vocab_size=3, n_layer=1, block_size=4)
    idx, new = torch.tensor([[1, 2]]), 4
    texts = {}
    for written in itertools.product(range(3), repeat=new):
        end = next((k + 1 for k, token in enumerate(written) if token in stops), new)
        texts[written[:end]] = 0.0
    for written in texts:
        row = torch.tensor([[1, 2, *written]])
        with evaluating(model):
            for t in range(2, row.shape[1]):
                logits = model(row[:, max(0, t - 4) : t])[0, -1]
                texts[written] += torch.log_softmax(logits, dim=0)[row[0, t]].item()
    _, log_prob = beam_search(model, idx, new, 3**new, stops)
    assert log_prob == pytest.approx(max(texts.values()), abs=1e-9)
    narrow, lower = beam_search(model, idx, new, 1, stops)
    assert lower <= log_prob + 1e-9
    assert torch.equal(narrow, generate(model, idx, new, temperature=0, stop_tokens=stops))


def test_numpy_equals_the_model():
    model = small_gpt(4, n_head=4, n_embd=16)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for T in (1, 5, 12):
        tokens = torch.randint(7, (T,))
        with torch.no_grad():
            wanted = model(tokens[None])[0].numpy()
        np.testing.assert_allclose(
            np_gpt(tokens.numpy(), weights, model.config), wanted, rtol=1e-9, atol=1e-9
        )


def test_the_log_probability_of_what_a_beam_found():
    model = small_gpt(5)
    idx = torch.tensor([[0, 3]])
    found, log_prob = beam_search(model, idx, 8, 3)
    assert continuation_log_prob(model, found, 2).item() == pytest.approx(log_prob, abs=1e-9)


def test_modes_come_back_after_an_error():
    class Failing(nn.Module):
        config = GPTConfig(block_size=4)

        def forward(self, idx):
            raise KeyboardInterrupt

    model = Failing().train()
    for call in (lambda i: generate(model, i, 3), lambda i: beam_search(model, i, 3, 2)):
        with pytest.raises(KeyboardInterrupt):
            call(torch.tensor([[1]]))
        assert model.training and torch.is_grad_enabled()


def test_a_beam_goes_past_impossible_tokens():
    weights = torch.full((4, 3, 3), -torch.inf)
    weights[0, :, 1] = 0.0  # token 1 follows everything, nothing else can
    weights[1:] = 0.0
    found, log_prob = beam_search(Standin(weights), torch.tensor([[0]]), 5, 4)
    assert found.tolist() == [[0, 1, 1, 1, 1, 1]] and math.isclose(log_prob, 0, abs_tol=1e-6)


# Answers that an attack on the checks found, or that read well: all must fail.
WRONG = {
    "next_probabilities": [
        # a temperature of 0 as a small one: inf where logits are large, a tie where they are close
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            return torch.softmax(logits / max(temperature, 1e-2), dim=-1)
        """,
        # in place
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            if temperature == 0:
                temperature, top_k = 1.0, 1
            if top_k is not None:
                bar = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                logits[logits < bar] = -torch.inf
            return torch.softmax(logits / temperature, dim=-1)
        """,
        # softmax without the maximum taken off
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            if temperature == 0:
                temperature, top_k = 1.0, 1
            e = torch.exp(logits / temperature)
            if top_k is not None:
                bar = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                e = torch.where(logits < bar, 0.0, e)
            return e / e.sum(dim=-1, keepdim=True)
        """,
        # top_k falls away at temperature 1, or below it
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            if temperature == 0:
                temperature, top_k = 1.0, 1
            if top_k is not None and temperature >= 1:
                bar = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                logits = logits.masked_fill(logits < bar, -torch.inf)
            return torch.softmax(logits / temperature, dim=-1)
        """,
        # a small temperature as 0; a small k only
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            return kept(logits, 0 if temperature < 0.3 else temperature, top_k)
        """,
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            return kept(logits, temperature, top_k and min(top_k, 4))
        """,
        # two logits that are close share the probability at temperature 0
        """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            return kept(logits, max(temperature, 1e-6), top_k)
        """,
    ],
    "generate": [
        # without a generator: the same text every time, unrepeatable ones, or seeds set anew
        """
        def generate(model, idx, new, *, generator=None, **options):
            return kept(model, idx, new, generator=generator or torch.Generator(idx.device), **options)
        """,
        """
        def generate(model, idx, new, *, generator=None, **options):
            if generator is None:
                generator = torch.Generator()
                generator.seed()
            return kept(model, idx, new, generator=generator, **options)
        """,
        """
        def generate(model, idx, new, *, generator=None, **options):
            if generator is None:
                torch.manual_seed(0)
            return kept(model, idx, new, generator=generator, **options)
        """,
        # draws and top_k in large batches only
        """
        def generate(model, idx, new, *, temperature=1.0, **options):
            return kept(model, idx, new, temperature=temperature if len(idx) > 9 else 0, **options)
        """,
        """
        def generate(model, idx, new, *, top_k=None, **options):
            return kept(model, idx, new, top_k=top_k if len(idx) > 9 else None, **options)
        """,
        # an error leaves the model in evaluation mode
        """
        def generate(model, idx, new, **options):
            modes = [(module, module.training) for module in model.modules()]
            model.eval()
            result = kept(model, idx, new, **options)
            for module, training in modes:
                module.training = training
            return result
        """,
        # one generator of its own, seeded from the given one: the given one never goes on
        """
        def generate(model, idx, new, *, generator=None, **options):
            own = torch.Generator().manual_seed(generator.initial_seed()) if generator else None
            return kept(model, idx, new, generator=own, **options)
        """,
        # the same draws at every step
        """
        def generate(model, idx, new, *, generator=None, **options):
            state = generator.get_state() if generator else None
            for _ in range(new):
                if generator:
                    generator.set_state(state)
                idx = kept(model, idx, 1, generator=generator, **options)
            return idx
        """,
        # only the number of the first stop token
        """
        def generate(model, idx, new, *, stop_tokens=(), **options):
            return kept(model, idx, new, stop_tokens=list(stop_tokens)[:1], **options)
        """,
        # only the top-level module's mode
        """
        def generate(model, idx, new, **options):
            training = model.training
            model.eval()
            result = kept(model, idx, new, **options)
            model.train(training)
            return result
        """,
        # gradients on
        """
        def generate(model, idx, new, **options):
            with torch.enable_grad():
                model(idx[:, -model.config.block_size:])
            return kept(model, idx, new, **options)
        """,
    ],
    "beam_search": [
        # beams are scored one by one: as many questions as there are beams
        """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            for _ in range(num_beams - 1):
                kept(model, idx, new, num_beams, stop_tokens)
            return kept(model, idx, new, num_beams, stop_tokens)
        """,
        # a wider beam than asked for
        """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            return kept(model, idx, new, num_beams + 1, stop_tokens)
        """,
        # a tensor instead of a float
        """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            text, score = kept(model, idx, new, num_beams, stop_tokens)
            return text, torch.tensor(score)
        """,
        # stopped texts leave the beam and are forgotten
        """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            text, score = kept(model, idx, new, num_beams)
            return text, score
        """,
        # no more beams than tokens
        """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            return kept(model, idx, new, min(num_beams, model.config.vocab_size), stop_tokens)
        """,
        # padded with the first, the largest or the smallest stop token
        *[
            f"""
            def beam_search(model, idx, new, num_beams, stop_tokens=()):
                text, score = kept(model, idx, new, num_beams, stop_tokens)
                for t in range(idx.shape[1] + 1, text.shape[1]):
                    if text[0, t - 1] in stop_tokens:
                        text[0, t] = {pad}
                return text, score
            """
            for pad in ("list(stop_tokens)[0]", "max(stop_tokens)", "min(stop_tokens)")
        ],
        # finished texts are kept apart, where they cannot fall out of the beam
        """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            beams, done = [(0.0, idx[0].tolist())], []
            for _ in range(new):
                rows = torch.tensor([text for _, text in beams], device=idx.device)
                with evaluating(model):
                    steps = model(rows[:, -model.config.block_size:])[:, -1].log_softmax(dim=-1).tolist()
                found = [(s + p, [*text, k]) for (s, text), row in zip(beams, steps) for k, p in enumerate(row)]
                done += [beam for beam in found if beam[1][-1] in stop_tokens]
                beams = sorted(beam for beam in found if beam[1][-1] not in stop_tokens)[: -num_beams - 1 : -1]
                if done and (not beams or max(done) > beams[0]):
                    break
            score, text = max(beams + done)
            return torch.tensor([text], device=idx.device), score
        """,
    ],
    "np_gpt": [
        # the mask only where there is one head; a cut that fits square shapes only
        """
        def np_gpt(tokens, weights, config):
            return kept(tokens, {k: v.astype(np.float32) for k, v in weights.items()}, config)
        """,
        """
        def np_gpt(tokens, weights, config):
            weights["transformer.wte.weight"] *= 1.0
            return kept(tokens[:4], weights, config)
        """,
        # torch's own model
        """
        def np_gpt(tokens, weights, config):
            from groundup.gpt2.model import GPT, GPTConfig
            model = GPT(GPTConfig(**vars(config))).to(torch.tensor(weights["lm_head.weight"]).dtype)
            model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
            with torch.no_grad():
                return model(torch.tensor(tokens)[None])[0].numpy()
        """,
    ],
    "continuation_log_prob": [
        """
        def continuation_log_prob(model, idx, prompt_length):
            return kept(model, idx, prompt_length).sum().repeat(len(idx))
        """,
        """
        def continuation_log_prob(model, idx, prompt_length):
            return kept(model, idx, max(prompt_length, 2))
        """,
        # minus infinity for a very small probability; nan beside a token that cannot come
        """
        def continuation_log_prob(model, idx, prompt_length):
            with evaluating(model):
                p = torch.softmax(model(idx[:, :-1]), dim=-1)
            picked = p.gather(-1, idx[:, 1:, None])[:, :, 0]
            return picked[:, prompt_length - 1 :].prod(dim=1).log()
        """,
        """
        def continuation_log_prob(model, idx, prompt_length):
            with evaluating(model):
                log_probs = torch.log_softmax(model(idx[:, :-1]), dim=-1)
            one_hot = torch.nn.functional.one_hot(idx[:, 1:], log_probs.shape[-1])
            return (log_probs * one_hot).sum(dim=-1)[:, prompt_length - 1 :].sum(dim=1)
        """,
    ],
}


@pytest.mark.parametrize(("name", "source"), [(name, source) for name in WRONG for source in WRONG[name]])
def test_wrong_answers_fail(name, source):
    learners = {"np": np, **vars(sampling), "kept": getattr(sampling, name)}
    exec(textwrap.dedent(source), learners)
    for seed in range(2):
        result = grade(f"gpt2.sampling.{name}", learners[name], seed=seed)
        assert result.status in ("failed", "error", "timeout")


# Right answers that are written differently: all must pass.
RIGHT = {
    "next_probabilities": """
        def next_probabilities(logits, temperature=1.0, top_k=None):
            V = logits.shape[-1]
            if temperature == 0:
                return torch.nn.functional.one_hot(logits.argmax(dim=-1), V).to(logits.dtype)
            e = torch.exp((logits - logits.max(dim=-1, keepdim=True).values) / temperature)
            if top_k is not None and top_k < V:
                bar = logits.sort(dim=-1, descending=True).values[..., top_k - 1, None]
                e = e * (logits >= bar)
            return e / e.sum(dim=-1, keepdim=True)
        """,
    "generate": """
        def generate(model, idx, new, *, temperature=1.0, top_k=None, stop_tokens=(), generator=None):
            rows, ended = [list(row) for row in idx.tolist()], [None] * len(idx)
            with evaluating(model):
                for _ in range(new):
                    window = torch.tensor(rows, device=idx.device)[:, -model.config.block_size:]
                    p = next_probabilities(model(window)[:, -1], temperature, top_k)
                    u = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64, device=idx.device)
                    drawn = (p.double().cumsum(dim=1) <= u * p.double().sum(dim=1, keepdim=True)).sum(dim=1)
                    for k, token in enumerate(drawn.tolist()):
                        if ended[k] is None and token in stop_tokens:
                            ended[k] = token
                        rows[k].append(token if ended[k] is None else ended[k])
                    if None not in ended:
                        break
            return torch.tensor(rows, device=idx.device)
        """,
    "beam_search": """
        def beam_search(model, idx, new, num_beams, stop_tokens=()):
            beams = [(0.0, idx[0].tolist(), False)]
            for _ in range(new):
                live = [beam for beam in beams if not beam[2]]
                rows = torch.tensor([text for _, text, _ in live], device=idx.device)
                with evaluating(model):
                    logits = model(rows[:, -model.config.block_size:])[:, -1]
                found = [beam for beam in beams if beam[2]]
                for (score, text, _), row in zip(live, logits.double().log_softmax(dim=-1).tolist()):
                    found += [(score + p, [*text, k], k in stop_tokens) for k, p in enumerate(row)]
                beams = sorted(found, key=lambda beam: -beam[0])[:num_beams]
                if beams[0][2]:
                    break
            return torch.tensor([beams[0][1]], device=idx.device), beams[0][0]
        """,
    "np_gpt": """
        def np_gpt(tokens, weights, config):
            w = lambda name: weights["transformer." + name]
            T, H = len(tokens), config.n_head
            x = w("wte.weight")[tokens] + w("wpe.weight")[np.arange(T)]
            norm = lambda x, at: np_layer_norm(x, w(at + ".weight"), w(at + ".bias"))
            linear = lambda x, at: np.einsum("ti,oi->to", x, w(at + ".weight")) + w(at + ".bias")
            for n in range(config.n_layer):
                a = linear(norm(x, f"h.{n}.ln_1"), f"h.{n}.attn.c_attn")
                q, k, v = a.reshape(T, 3, H, -1).transpose(1, 2, 0, 3)
                scores = np.einsum("hqd,hkd->hqk", q, k) * x.dtype.type(q.shape[-1] ** -0.5)
                scores = np.where(np.tri(T, dtype=bool), scores, x.dtype.type(-np.inf))
                y = (np_softmax(scores) @ v).transpose(1, 0, 2).reshape(T, -1)
                x = x + linear(y, f"h.{n}.attn.c_proj")
                x = x + linear(np_gelu(linear(norm(x, f"h.{n}.ln_2"), f"h.{n}.mlp.c_fc")), f"h.{n}.mlp.c_proj")
            return norm(x, "ln_f") @ w("wte.weight").T
        """,
    "continuation_log_prob": """
        def continuation_log_prob(model, idx, prompt_length):
            with evaluating(model):
                logits = model(idx[:, :-1])[:, prompt_length - 1 :]
            targets = idx[:, prompt_length:]
            nats = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
            return -nats.sum(dim=1)
        """,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name):
    learners = {"np": np, **vars(sampling)}
    exec(textwrap.dedent(RIGHT[name]), learners)
    for seed in range(3):
        result = grade(f"gpt2.sampling.{name}", learners[name], seed=seed)
        assert result.passed, result.message


# A learner's slip, as an edit of the course's version, and what the reply must say or the mistake that it must name.
SLIPS = [
    ("next_probabilities", "return torch", "torch", "Is a return missing?"),
    ("next_probabilities", "min(top_k, logits.shape[-1])", "top_k", "refused_a_large_k"),
    ("next_probabilities", "logits / temperature", "logits * temperature", "multiplied_by_the_temperature"),
    ("generate", "generator=generator", "generator=None", "drew_with_global_numbers"),
    ("generate", "-model.config.block_size :", ": model.config.block_size", "cropped_from_the_wrong_end"),
    ("generate", "list(stop_tokens)", "[]", "ignored_stop_tokens"),
    ("generate", "stopped.all()", "stopped.any()", "first_stop_ends_all"),
    ("generate", "with evaluating(model)", "with torch.no_grad()", "stayed_in_training_mode"),
    ("generate", "return idx", "pass", "None"),
    (
        "generate",
        "generator=generator",
        "generator=generator or torch.Generator()",
        "None means torch's own random numbers",
    ),
    ("beam_search", "scores[:, None] + log_probs", "log_probs", "forgot_what_came_before"),
    ("beam_search", "-model.config.block_size :", ": model.config.block_size", "first_block_of_tokens"),
    ("beam_search", "len(totals)", "V", "no_more_beams_than_tokens"),
    ("beam_search", "if stopped[0]:", "if stopped.all():", "waited_for_all_beams"),
    ("np_gpt", "scores[future] = -np.inf", "pass", "saw_the_future"),
    ("np_gpt", " / math.sqrt(d)", "", "forgot_the_root_of_d"),
    (
        "continuation_log_prob",
        "torch.log_softmax(model(idx[:, :-1]), dim=-1)",
        "torch.softmax(model(idx[:, :-1]), dim=-1).log()",
        "logarithm_after_softmax",
    ),
    ("continuation_log_prob", "prompt_length - 1 :", "prompt_length :", "first_token_missing"),
    ("continuation_log_prob", "with evaluating(model)", "with torch.no_grad()", "scored_in_training_mode"),
]


@pytest.mark.parametrize("slip", SLIPS)
def test_reply_can_be_read(slip):
    name, old, new, said = slip
    result = grade(f"gpt2.sampling.{name}", edited(sampling, name, (old, new)), seed=0)
    assert result.status in ("failed", "error")
    assert said in result.message or said in (result.mistake or ""), (result.mistake, result.message)
