"""The lesson autograd.modules: its modules and loader against torch's on trees that hypothesis makes up, and attacks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from groundup.autograd import modules
from groundup.autograd.modules import (
    BatchNorm1d,
    DataLoader,
    Dataset,
    Dropout,
    Linear,
    Module,
    ReLU,
    Sequential,
    load_state,
)
from groundup.check import grade
from tests.lessons.edits import edited

# A tree is a list of steps, each (what, where, name): done twice, on our Module and on torch's.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["parameter", "buffer", "child", "share", "share a parameter", "none", "mode"]),
        st.integers(0, 9),
        st.sampled_from("abcd"),
    ),
    max_size=25,
)


def grow(base, steps):
    class Node(base):
        def forward(self, x):
            return x

    nodes, parameters = [Node()], []
    for number, (what, where, name) in enumerate(steps):
        node = nodes[where % len(nodes)]
        free = not hasattr(node, name)
        if what == "parameter" and (getattr(node, name, None) is None or name in node._parameters):
            parameters.append(Parameter(torch.arange(number % 3 + 1.0)))
            setattr(node, name, parameters[-1])
        elif what == "buffer" and free:
            node.register_buffer(name, torch.arange(number % 3 + 1))
        elif what == "child" and free:
            setattr(node, name, Node())
            nodes.append(getattr(node, name))
        elif what == "share" and free and node is not nodes[-1] and not nodes[-1]._modules:
            setattr(node, name, nodes[-1])  # a leaf of the tree: no circles
        elif what == "share a parameter" and free and parameters:
            setattr(node, name, parameters[where % len(parameters)])
        elif what == "none" and name in node._parameters:
            setattr(node, name, None)
        elif what == "mode":
            node.train(number % 2 == 0)
    return nodes


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_trees_are_those_of_torch(steps):
    ours, theirs = grow(Module, steps), grow(torch.nn.Module, steps)
    for one, other in zip(ours, theirs, strict=True):
        assert one.training == other.training
        state, expected = one.state_dict(), other.state_dict()
        assert sorted(state) == sorted(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        named = dict(one.named_parameters())
        assert sorted(map(str, named.values())) == sorted(map(str, dict(other.named_parameters()).values()))
        assert len({id(p) for p in named.values()}) == len(named)
    if not any(what == "none" for what, _, _ in steps):  # torch keeps the place of a None
        assert list(ours[0].state_dict()) == list(theirs[0].state_dict())
        names = [[name for name, _ in nodes[0].named_parameters()] for nodes in (ours, theirs)]
        assert names[0] == names[1]


@settings(max_examples=60, deadline=None)
@given(STEPS, STEPS)
def test_loading_is_refused_exactly_when_torch_refuses(steps, others):
    model, reference = grow(Module, steps)[0], grow(torch.nn.Module, steps)[0]
    state = {key: tensor + 1 for key, tensor in grow(Module, others)[0].state_dict().items()}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    try:
        reference.load_state_dict(state)
    except RuntimeError:
        with pytest.raises(ValueError):
            model.load_state_dict(state)
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    else:
        load_state(model, state)
        for key, tensor in reference.state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor)


def test_layers_agree_with_torch_and_load_into_it():
    ours = Sequential(Linear(3, 5), BatchNorm1d(5), ReLU(), Dropout(0.0), Linear(5, 2, bias=False)).train()
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.0), nn.Linear(5, 2, bias=False)
    )
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        x = torch.randn(6, 3)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    theirs.load_state_dict(ours.state_dict())


def test_linear_starts_like_torch():
    weight = Linear(16, 4000).weight
    assert abs(weight).max().item() <= 0.25
    assert weight.std().item() == pytest.approx(0.25 / math.sqrt(3), rel=0.02)
    assert Linear(2, 3, bias=False).bias is None


def test_an_optimizer_trains_what_the_module_noticed():
    model = Sequential(Linear(2, 8), ReLU(), Sequential(Linear(8, 1)))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(torch.ones(4, 2)) - 3).pow(2).mean().backward()
    optimizer.step()
    assert all(
        not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True) if p.grad.any()
    )
    assert model.to("cpu") is model


def test_what_is_refused():
    class NoInit(Module):
        def __init__(self):
            self.w = Parameter(torch.ones(1))

    with pytest.raises(AttributeError, match="super"):
        NoInit()
    with pytest.raises(AttributeError, match="nothing"):
        _ = Module().nothing
    with pytest.raises(TypeError, match="weight"):
        Linear(2, 2).weight = torch.ones(2, 2)
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError):
            Dropout(p)
    with pytest.raises(ValueError):
        DataLoader([], 0)
    with pytest.raises(ValueError):
        Dataset(torch.ones(2), torch.ones(3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(1, 12), st.booleans(), st.booleans())
def test_every_item_once(n, batch_size, shuffle, drop_last):
    loader = DataLoader(Dataset(torch.arange(n)), batch_size, shuffle, drop_last)
    reference = torch.utils.data.DataLoader(range(n), batch_size, drop_last=drop_last)
    for _ in range(2):
        sizes = [len(x) for (x,) in loader]
        assert sizes == [len(x) for x in reference]
        assert len(loader) == len(sizes)
        items = [int(i) for (x,) in loader for i in x]
        assert len(set(items)) == len(items) == (n - n % batch_size if drop_last else n)


# A wrong or an unusual answer, as an edit of the course's version: what the reply says, the mistake, or "passed".
EDITS = [
    ("Module", "home[name] = value", "home[name] = vars(self)[name] = value", "kept_as_an_attribute_too"),
    ("Module", "if id(parameter) not in seen:", "if parameter not in seen:", ""),
    ("Module", 'f"{prefix}{name}."', 'f"{name}."', "walk_forgets_the_path"),
    ("Module", "found += child.walk", "found = child.walk", ""),
    ("Module", "        return found\n\n    def named", "\n    def named", "None"),
    ("Module", "for hook in list(self._hooks.values())", "for hook in self._hooks.values()", "RuntimeError"),
    ("Module", "output = changed", "return changed", "stops_at_the_first_answer"),
    ("Module", "hook(self, inputs, output)", "hook(self, *inputs, output)", ""),
    ("Module", "module.training = mode", "self.training = mode", "train_reaches_only_itself"),
    ("Module", 'walk(self, prefix="")', 'walk(self, prefix="", seen=[])', "passed"),
    ("Module", "elif isinstance(value, Module):", "elif hasattr(value, '_modules'):", "passed"),
    (
        "Module",
        "if isinstance(value, Parameter):",
        "if isinstance(value, Parameter) or value is None and name in self._parameters:",
        "none_stays_a_parameter",
    ),
    (  # a plain value leaves the child where it was
        "Module",
        "            if other is not home:",
        "            if other is not home and (home is not vars(self) or other is not self._modules):",
        "only_parameters_and_children_take_a_place",
    ),
    (  # a walk that is remembered
        "Module",
        "        found = [(prefix, self)]\n",
        "        if prefix in vars(self).setdefault('walks', {}):\n            return vars(self)['walks'][prefix]\n"
        "        found = vars(self)['walks'][prefix] = [(prefix, self)]\n",
        "a walk again",
    ),
    (
        "Module",
        "hook(self, inputs, output)",
        "(self.forward(*inputs), hook(self, inputs, output))[1]",
        "forward_runs_again_for_the_hooks",
    ),
    ("Module", "list(self._hooks.values())", "list(self._hooks.values())[:3]", "five hooks"),
    ("Module", "list(self._hooks.values())", "tuple(self._hooks.values())", "passed"),
    ("Module", "= mode", "= mode or not (module is self or module._parameters)", "without parameters"),
    ("Module", "id(parameter)", "(parameter.data_ptr(), parameter.shape)", "share their memory"),
    (
        "Module",
        "if id(parameter) not in seen:",
        "if not any(parameter is other for _, other in found):",
        "passed",
    ),
    ("load_state", "own[k].shape != state[k].shape", "len(own[k]) != len(state[k])", ""),
    ("load_state", "tensor.copy_(state[key])", "tensor[...] = state[key]", "passed"),
    ("load_state", "tensor.copy_(state[key])", "own[key] = state[key]", "changes_only_the_dictionary"),
    ("load_state", "raise ValueError(", "raise KeyError(", "KeyError"),
    ("load_state", "    with torch.no_grad():\n", "    if True:\n", "passed"),
    ("Dropout", "torch.rand_like(x) >=", "torch.randn_like(x) >=", "normal_random_numbers"),
    ("Dropout", "return x * keep / (1 - self.p)", "return torch.where(keep, x / (1 - self.p), 0)", "passed"),
    ("Dropout", "return x * keep / (1 - self.p)", "return (x * keep).detach() / (1 - self.p)", "gradient"),
    ("Dropout", "/ (1 - self.p)", "/ self.p", "divided_by_p"),
    ("Dropout", "return x * keep / (1 - self.p)", "return x.mul_(keep) / (1 - self.p)", ""),
    ("Dropout", "torch.rand_like(x)", "torch.rand(x.shape[-1:])", "one_draw_for_each_column"),
    (
        "Dropout",
        "keep = torch.rand_like(x) >= self.p",
        "keep = (torch.randperm(x.numel()) >= round(self.p * x.numel())).reshape(x.shape)",
        "dropped together",
    ),
    ("Dropout", "keep = torch", "torch.manual_seed(0)\n        keep = torch", "the_same_mask_in_every_call"),
    (
        "Dropout",
        "keep = torch",
        "self.calls = vars(self).get('calls', 0) + 1\n        torch.manual_seed(self.calls)\n        keep = torch",
        "every_layer_drops_the_same",
    ),
    ("Dropout", "x * keep / (1 - self.p)", "x * (keep.float() / (1 - self.p))", "the_mask_changes_the_dtype"),
    ("Dropout", "x * keep / (1 - self.p)", "x.detach().mul_(keep) + x * 0", "changes x itself"),
    ("Dropout", "if not self.training:", "if not self.training or x.ndim > 3:", "four axes"),
    (
        "Dropout",
        "return x * keep / (1 - self.p)",
        "return (x / (1 - self.p)).masked_fill(~keep, 0)",
        "passed",
    ),
    (
        "Dropout",
        "torch.rand_like(x) >= self.p",
        "torch.bernoulli(torch.full_like(x, 1 - self.p))",
        "passed",
    ),
    (
        "BatchNorm1d",
        'self.register_buffer("running_mean", torch.zeros(n))',
        'self.running_mean = torch.zeros(n)\n        self.register_buffer("running_mean", self.running_mean)',
        "passed",
    ),
    ("BatchNorm1d", 'self.register_buffer("running_mean", ', "self.running_mean = (", ""),
    ("DataLoader", ".tolist()", "", "plain whole number"),
    ("DataLoader", "generator=self.generator", "generator=torch.Generator()", "the order of the first"),
    (  # only two entries
        "DataLoader",
        "collate([self.dataset[i] for i in chosen])",
        "(lambda items: tuple(torch.stack([item[k] for item in items]) for k in (0, -1)))"
        "([self.dataset[i] for i in chosen])",
        "three entries",
    ),
    (  # a rotation is not a random order
        "DataLoader",
        ".tolist()",
        ".tolist()\n            order = list(range(order[0], n)) + list(range(order[0])) if n else []",
        "orders of the first two epochs",
    ),
    (  # everything is read with the second batch
        "DataLoader",
        "for i in chosen])",
        "for i in chosen]); k == 0 and [self.dataset[i] for i in order]",
        "were read in all when each batch came",
    ),
    (  # the same memory for each batch
        "DataLoader",
        "yield collate([self.dataset[i] for i in chosen])",
        "batch = collate([self.dataset[i] for i in chosen])\n"
        "            room = batch if k == 0 else tuple(a[: len(b)].copy_(b) for a, b in zip(room, batch))\n"
        "            yield room",
        "The first epoch",
    ),
    (
        "DataLoader",
        "            chosen = order[k * self.batch_size : (k + 1) * self.batch_size]\n",
        "            chosen = [order[j] for j in range(k * self.batch_size, min(n, (k + 1) * self.batch_size))]\n",
        "passed",
    ),
    ("DataLoader", "yield collate", "return collate", ""),
    ("DataLoader", "math.ceil(batches)", "-(-n // self.batch_size)", "passed"),
    ("DataLoader", "math.ceil(batches)", "n // self.batch_size + 1", ""),
]


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_reply(number):
    name, old, new, said = EDITS[number]
    result = grade(f"autograd.modules.{name}", edited(modules, name, (old, new)), seed=0)
    if said == "passed":
        assert result.status == "passed", result.message
    else:
        assert result.status in ("failed", "error"), result.message
        assert said in result.message or said == result.mistake, (result.mistake, result.message)
