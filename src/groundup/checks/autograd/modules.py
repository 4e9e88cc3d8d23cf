"""Checks for the lesson autograd.modules.

The oracles are torch.nn's own modules and loader. Trees of modules are built by a *program*, lines of Python over the
class ``Box``, which inherits from the learner's Module or from torch's, so that a failing case can be read; then
expressions are compared. An observation that is a text is a sentence for the learner: there was nothing to compare.
"""

import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import Parameter

from groundup.check import Case, Exercise, compare
from groundup.check.distribution import agree_in_distribution, histogram


def by_name(got, expected, said: str = "{name}: {difference}") -> str | None:
    """Compares two observations, dicts or sentences, in the order of the expected one."""
    if isinstance(got, str) or isinstance(expected, str) or got is None or expected is None:
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if name.startswith("draws: "):
            if difference := agree_in_distribution(got[name], expected[name]):
                return f"{name[7:]}: {difference}"
        elif difference := compare(got[name], expected[name]):
            return said.format(name=name, difference=difference.replace("you returned", "yours is"))
    return None


# ---------------------------------------------------------------------------------------------------------------------
Module = Exercise("autograd.modules.Module", kind="class")


class Reference(torch.nn.Module):
    """PyTorch's own module, with the lesson's `walk`, and the lesson's word on what takes whose place.

    PyTorch keeps a None among the parameters or the children, and lets no plain value take a child's place.
    """

    def __setattr__(self, name, value):
        if not isinstance(value, Parameter | torch.nn.Module):
            vars(self).get("_modules", {}).pop(name, None)
        if value is None:
            vars(self).get("_parameters", {}).pop(name, None)
        super().__setattr__(name, value)

    def walk(self, prefix=""):
        waiting, found = [(prefix, self)], []
        while waiting:
            prefix, module = waiting.pop()
            found.append((prefix, module))
            waiting += [(f"{prefix}{k}.", child) for k, child in reversed(module._modules.items())]
        return found

    def eval(self):
        return self.train(False)


def build(base: type, program: list[str]) -> dict:
    """Runs the program with `Box`, a module that doubles, and returns its variables."""

    class Box(base):
        def forward(self, *inputs):
            return 2 * sum(inputs)

    made = 0

    def param(*shape):
        nonlocal made
        made += 1
        numbers = made + torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape) / 8
        return Parameter(numbers)

    def refuses(line):
        try:
            exec(line, variables)
        except TypeError:
            return True
        return False

    variables = {"Box": Box, "param": param, "torch": torch, "log": [], "refuses": refuses}
    variables |= {
        "names": lambda module: [name for name, _ in module.named_parameters()],
        "prefixes": lambda module: [prefix for prefix, _ in module.walk()],
        "modes": lambda module: [below.training for _, below in module.walk()],
        "state": lambda module: list(module.state_dict()),
    }
    for line in program:
        exec(line, variables)
    return variables


ROOT = ["root = Box()"]
PAIR = [*ROOT, "root.scale = param(2)", "root.head = Box()", "root.head.weight = param(2, 3)"]
DEEP = [*ROOT, "root.a = Box()", "root.a.inner = Box()", "root.a.inner.w = param(3)"]
DEEP += ["root.b = Box()", "root.b.w = param(2)", "root.a.w = param(1)", "root.bias = param(2)"]
TREES = {  # label → program, what is asked
    "one parameter": (
        [*ROOT, "root.w = param(2)"],
        ["root.w", "'w' in vars(root)", "list(root._parameters)"],
    ),
    "an ordinary attribute": ([*ROOT, "root.size = 7"], ["root.size", "vars(root)['size']", "state(root)"]),
    "one child": ([*ROOT, "root.head = Box()"], ["list(root._modules)", "'head' in vars(root)"]),
    "a plain tensor is no parameter": ([*ROOT, "root.t = torch.ones(2)"], ["vars(root)['t']", "state(root)"]),
    "a buffer": (
        [*ROOT, "root.register_buffer('mean', torch.zeros(2))"],
        ["root.mean", "list(root._buffers)", "list(root._parameters)"],
    ),
    "a buffer gets a new value": (
        [*ROOT, "root.register_buffer('mean', torch.zeros(2))", "root.mean = torch.ones(2)"],
        ["root.mean", "root._buffers['mean']", "'mean' in vars(root)"],
    ),
    "a buffer is counted up": (
        [*ROOT, "root.register_buffer('seen', torch.tensor(0))", "root.seen += 3", "root.t = root.seen"],
        ["root.seen", "root._buffers['seen']", "'seen' in vars(root)", "list(root._buffers)"],
    ),
    "a parameter is replaced": (
        [*ROOT, "root.w = param(2)", "root.b = param(1)", "root.w = param(3)"],
        ["root.w", "list(root._parameters)"],
    ),
    "a child is replaced": (
        [*ROOT, "root.a = Box()", "root.b = Box()", "root.a = Box()", "root.a.name = 'new'"],
        ["root.a.name", "list(root._modules)"],
    ),
    "None instead of a parameter": (
        [*ROOT, "root.w = param(2)", "root.v = param(2)", "root.w = None", "root.bias = None"],
        ["root.w", "root.bias", "list(root._parameters)", "'w' in vars(root)", "'bias' in vars(root)"],
    ),
    "a parameter where an attribute was": (
        [*ROOT, "root.w = 3", "root.w = param(2)"],
        ["root.w", "'w' in vars(root)", "list(root._parameters)"],
    ),
    "a child where an attribute was": (
        [*ROOT, "root.head = None", "root.head = Box()"],
        ["list(root._modules)", "'head' in vars(root)"],
    ),
    "an attribute where a child was": (
        [*ROOT, "root.head = Box()", "root.tail = Box()", "root.head = 7"],
        ["list(root._modules)", "root.head", "'head' in vars(root)"],
    ),
    "None where a child was": (
        [*ROOT, "root.head = Box()", "root.tail = Box()", "root.head = None"],
        ["root.head", "list(root._modules)", "'head' in vars(root)"],
    ),
    "a parameter where a child was": (
        [*ROOT, "root.head = Box()", "root.head = param(2)"],
        ["list(root._modules)", "list(root._parameters)", "root.head"],
    ),
    "a parameter where a buffer was": (
        [*ROOT, "root.register_buffer('t', torch.zeros(2))", "root.t = param(2)"],
        ["list(root._buffers)", "list(root._parameters)", "root.t"],
    ),
    "a child where a buffer was": (
        [*ROOT, "root.register_buffer('t', torch.zeros(2))", "root.t = Box()"],
        ["list(root._buffers)", "list(root._modules)"],
    ),
    "a plain tensor in place of a parameter": (
        [*ROOT, "root.w = param(2)"],
        ["refuses('root.w = torch.ones(2)')", "refuses('root.w = Box()')", "root.w"],
    ),
    "a walk alone": (ROOT, ["prefixes(root)"]),
    "a walk with a child": (PAIR, ["prefixes(root)"]),
    "a walk from a prefix": (PAIR, ["[p for p, _ in root.walk('x.y.')]"]),
    "a walk three deep": (DEEP, ["prefixes(root)", "[m is root.a.inner for _, m in root.walk()]"]),
    "a walk, one module in two places": (
        [*PAIR, "root.tail = Box()", "root.tail.head = root.head"],
        ["prefixes(root)", "state(root)"],
    ),
    "a walk, a child, and a walk again": (
        [*PAIR, "first = prefixes(root)", "root.head.late = Box()"],
        ["first", "prefixes(root)", "prefixes(root)"],
    ),
    "named_parameters alone": ([*ROOT, "root.w = param(2)"], ["root.named_parameters()", "names(root)"]),
    "named_parameters with a child": (PAIR, ["names(root)", "root.parameters()"]),
    "named_parameters three deep": (
        DEEP,
        ["names(root)", "[p is root.a.inner.w for p in root.parameters()]", "state(root)"],
    ),
    "named_parameters of a child only": (DEEP, ["names(root.a)"]),
    "a parameter in two places": ([*PAIR, "root.head.scale = root.scale"], ["names(root)", "state(root)"]),
    "a parameter with two names": ([*ROOT, "root.w = param(2)", "root.v = root.w"], ["names(root)"]),
    "a module in two places": ([*PAIR, "root.tail = root.head"], ["names(root)", "state(root)"]),
    "equal numbers, two parameters": (
        [*PAIR, "root.head.copy = torch.nn.Parameter(root.scale.detach().clone())"],
        ["names(root)"],
    ),
    "two parameters that share their memory": (
        [*PAIR, "root.head.copy = torch.nn.Parameter(root.scale.detach())"],
        ["names(root)"],
    ),
    "the tensors of the state": (
        [*PAIR, "root.head.register_buffer('mean', torch.ones(2))"],
        ["list(root.state_dict().values())"],
    ),
    "buffers are no parameters": (
        [*PAIR, "root.head.register_buffer('mean', torch.zeros(2))"],
        ["names(root)", "state(root)"],
    ),
    "two models beside each other": (
        ["other = Box()", "other.v = param(3)", "other.c = Box()", *PAIR],
        ["names(root)", "names(other)", "prefixes(root)"],
    ),
    "asked twice": ([*PAIR, "first = names(root)", "root.late = param(1)"], ["first", "names(root)"]),
    "a fresh module trains": (PAIR, ["modes(root)"]),
    "train(False) of one module": ([*ROOT, "root.train(False)"], ["root.training"]),
    "train() of one module": ([*ROOT, "root.training = False", "root.train()"], ["root.training"]),
    "eval() with a child": ([*PAIR, "root.eval()"], ["modes(root)"]),
    "eval() three deep": ([*DEEP, "root.eval()"], ["modes(root)"]),
    "eval() of modules without parameters": (
        [*ROOT, "root.a = Box()", "root.a.b = Box()", "root.eval()"],
        ["modes(root)"],
    ),
    "eval() and train() again": ([*DEEP, "root.eval()", "root.train()"], ["modes(root)"]),
    "eval() of a child only": ([*DEEP, "root.a.eval()"], ["modes(root)"]),
    "train() returns the module": (PAIR, ["root.train() is root", "root.eval() is root"]),
    "a call without hooks": (ROOT, ["root(3.0)", "root(3.0, 4.0)"]),
    "a hook that looks": (
        [*ROOT, "root.register_forward_hook(lambda module, inputs, output: log.append((inputs, output)))"],
        ["root(3.0, 4.0)", "log"],
    ),
    "a hook is given the module": (
        [*PAIR, "h = root.head.register_forward_hook(lambda m, x, y: log.append(m is root.head))"],
        ["root.head(3.0)", "root(3.0)", "log"],
    ),
    "a hook that replaces": (
        [*ROOT, "root.register_forward_hook(lambda module, inputs, output: output + 1)"],
        ["root(3.0)"],
    ),
    "a hook that replaces by 0": (
        [*ROOT, "root.register_forward_hook(lambda module, inputs, output: 0.0)"],
        ["root(3.0)"],
    ),
    "a hook that looks, after one that replaces": (
        [
            *ROOT,
            "root.register_forward_hook(lambda m, x, y: y + 1)",
            "root.register_forward_hook(lambda m, x, y: log.append(y))",
            "root.register_forward_hook(lambda m, x, y: y * 10)",
        ],
        ["root(3.0)", "log"],
    ),
    "five hooks": (
        [*ROOT, "for k in range(5): root.register_forward_hook(lambda m, x, y, k=k: y * 10 + k)"],
        ["root(3.0)"],
    ),
    "forward runs once, whatever the hooks": (
        [
            *ROOT,
            "root.forward = lambda x: (log.append(x), 2 * x)[1]",
            "root.register_forward_hook(lambda m, x, y: y + 1)",
            "root.register_forward_hook(lambda m, x, y: None)",
        ],
        ["root(3.0)", "log"],
    ),
    "a hook that was removed": (
        [
            *ROOT,
            "one = root.register_forward_hook(lambda m, x, y: y + 1)",
            "two = root.register_forward_hook(lambda m, x, y: y * 10)",
            "one.remove()",
        ],
        ["root(3.0)", "two.remove()", "root(3.0)"],
    ),
    "a hook that takes itself down": (
        [
            *ROOT,
            "one = root.register_forward_hook(lambda m, x, y: (log.append(y), one.remove())[1])",
            "two = root.register_forward_hook(lambda m, x, y: y + 1)",
        ],
        ["root(3.0)", "root(4.0)", "log"],
    ),
}


@Module.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    for label, (program, ask) in TREES.items():
        yield Case(label, program=list(program), ask=list(ask))


@Module.observe
def _(obj, program, ask):
    variables = build(obj, program)
    seen = {}
    for number, expression in enumerate(ask):
        value = eval(expression, variables)
        if expression.endswith((".named_parameters()", ".parameters()")) and value is not None:
            value = list(value)
        seen[f"{expression}{'' if expression not in ask[:number] else ' (again)'}"] = value
    return seen


@Module.oracle
def _(program, ask):
    variables = build(Reference, program)
    seen = {}
    for number, expression in enumerate(ask):
        value = eval(expression, variables)
        listed = expression.endswith(("named_parameters()", ".parameters()"))
        again = " (again)" if expression in ask[:number] else ""
        seen[expression + again] = list(value) if listed else value
    return seen


@Module.agree
def _(got, expected):
    return by_name(got, expected, "after the program, for `{name}`, {difference}")


class Edited(Reference):
    """A module whose `named_parameters` and `train` go by `walk`, so that mistakes can change one of them."""

    def named_parameters(self):
        found = {}
        for prefix, module in self.walk():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    found.setdefault(self.key(parameter), (prefix + name, parameter))
        return list(found.values())

    def key(self, parameter):
        return id(parameter)

    def parameters(self):
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self):
        state = {}
        for prefix, module in self.walk():
            for name, tensor in (module._parameters | module._buffers).items():
                if tensor is not None:
                    state[prefix + name] = tensor.detach()
        return state

    def train(self, mode=True):
        for _, module in self.walk():
            vars(module)["training"] = mode
        return self


@Module.mistake
class old_home_is_kept(Edited):
    """When a name changes its kind, your `__setattr__` leaves the old entry where it was. The name then stands in two dictionaries, and the model saves or trains something that nobody uses any more."""

    def __setattr__(self, name, value):
        kinds = [d for d in (self._parameters, self._buffers, self._modules) if name in d]
        kept = [(d, d[name]) for d in kinds]
        attribute = vars(self).get(name, self)
        super().__setattr__(name, value)
        for home, old in kept:
            home.setdefault(name, old)
        if attribute is not self and name not in ("training",):
            vars(self).setdefault(name, attribute)


@Module.mistake
class kept_as_an_attribute_too(Edited):
    """Your `__setattr__` puts parameters and modules into their dictionaries, and into `vars(self)` as well. A name belongs into one place only: otherwise one of the two goes out of date, for example after `to`."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        vars(self)[name] = value


@Module.mistake
class none_stays_a_parameter(Edited):
    """Your `__setattr__` puts None into `_parameters` when it takes a parameter's place. None is no `Parameter`: it belongs into `vars(self)`, or the loops over the parameters stumble over it."""

    def __setattr__(self, name, value):
        if value is None and name in vars(self).get("_parameters", {}):
            self._parameters[name] = None
        else:
            super().__setattr__(name, value)


@Module.mistake
class only_parameters_and_children_take_a_place(Edited):
    """When a child's name gets an ordinary value, your `__setattr__` leaves the child in `_modules`. It would still be trained and saved: whatever the new value is, the name must not stay in any other dictionary."""

    def __setattr__(self, name, value):
        child = vars(self).get("_modules", {}).get(name)
        super().__setattr__(name, value)
        if child is not None and not isinstance(value, Parameter | torch.nn.Module):
            self._modules[name] = child
            self._modules |= {key: self._modules.pop(key) for key in list(self._modules) if key != name}


@Module.mistake
class forward_runs_again_for_the_hooks(Edited):
    """Your call runs `forward` once more for each hook. Keep the output in a variable: it costs time, and with dropout inside the hooks would see other numbers than the caller."""

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            self.forward(*inputs)
            changed = hook(self, inputs, output)
            output = output if changed is None else changed
        return output


@Module.mistake
class buffers_lose_their_updates(Edited):
    """Assigning to a buffer makes an ordinary attribute of it in your class. The new value is then not saved. If the name is a buffer's, write to `self._buffers`."""

    def __setattr__(self, name, value):
        if name in vars(self).get("_buffers", {}) and not isinstance(value, Parameter | torch.nn.Module):
            vars(self)[name] = value
            del self._buffers[name]
        else:
            super().__setattr__(name, value)


@Module.mistake
class every_tensor_a_buffer(Edited):
    """Your `__setattr__` makes a buffer of every plain tensor. Only names that were registered as buffers are buffers; any other tensor is an ordinary attribute."""

    def __setattr__(self, name, value):
        if isinstance(value, torch.Tensor) and not isinstance(value, Parameter):
            self._buffers[name] = value
        else:
            super().__setattr__(name, value)


@Module.mistake
class replaced_moves_to_the_end(Edited):
    """A name that only gets a new value of the same kind moves to the end of its dictionary in your class, because you take it out first. It must keep its place: the order of the addresses is the order of the optimizer's memory."""

    def __setattr__(self, name, value):
        if isinstance(value, Parameter):
            self._parameters.pop(name, None)
        elif isinstance(value, torch.nn.Module) and name in self._modules:
            del self._modules[name]
        super().__setattr__(name, value)


@Module.mistake
class walk_visits_only_children(Edited):
    """Your walk stops at the children: their children are missing. Let each child walk, too."""

    def walk(self, prefix=""):
        return [(prefix, self), *((f"{prefix}{name}.", child) for name, child in self._modules.items())]


@Module.mistake
class walk_forgets_the_path(Edited):
    """In your walk a prefix holds only the module's own name. It must start with the prefix of the parent; otherwise two deep modules with one name get the same address."""

    def walk(self, prefix=""):
        found = [(prefix, self)]
        for name, child in self._modules.items():
            found += walk_forgets_the_path.walk(child, f"{name}.")
        return found


@Module.mistake
class walk_without_dots(Edited):
    """Your prefixes lack the dot at the end: `head` and `weight` then make the address `headweight`."""

    def walk(self, prefix=""):
        found = [(prefix, self)]
        for name, child in self._modules.items():
            found += walk_without_dots.walk(child, f"{prefix}{name}")
        return found


@Module.mistake
class walk_dots_before(Edited):
    """Your prefixes have the dot before the name and not after it. The root's address then begins with nothing, but a child's with a dot."""

    def walk(self, prefix=""):
        found = [(prefix, self)]
        for name, child in self._modules.items():
            found += walk_dots_before.walk(child, f"{prefix}.{name}")
        return found


@Module.mistake
class walk_leaves_itself_out(Edited):
    """Your walk lists what is below the module, but not the module itself. It comes first, with the prefix that was given."""

    def walk(self, prefix=""):
        return super().walk(prefix)[1:]


@Module.mistake
class walk_children_first(Edited):
    """Your walk lists the children before their parent. The page asks for the parent first."""

    def walk(self, prefix=""):
        found = []
        for name, child in self._modules.items():
            found += walk_children_first.walk(child, f"{prefix}{name}.")
        return [*found, (prefix, self)]


@Module.mistake
class walk_level_by_level(Edited):
    """Your walk goes level by level: all children, then all grandchildren. The page asks for everything below the first child before the second."""

    def walk(self, prefix=""):
        found = [(prefix, self)]
        for prefix, module in found:  # grows while we walk
            found += [(f"{prefix}{name}.", child) for name, child in module._modules.items()]
        return found


@Module.mistake
class walk_lists_modules_once(Edited):
    """Your walk lists a module that hangs in two places only once. It has two addresses, and a file holds both, so the walk needs both. Only `named_parameters` lists things once."""

    def walk(self, prefix=""):
        seen = {}
        for at, module in super().walk(prefix):
            seen.setdefault(id(module), (at, module))
        return list(seen.values())


@Module.mistake
class only_its_own_parameters(Edited):
    """Your `named_parameters` lists only the module's own parameters. An optimizer would train none of the layers below: go through the whole walk."""

    def named_parameters(self):
        return [(name, p) for name, p in self._parameters.items() if p is not None]


@Module.mistake
class shared_parameters_twice(Edited):
    """A parameter that is used in two places stands twice in your list. An optimizer would move it twice in each step."""

    def named_parameters(self):
        return [
            (prefix + name, p)
            for prefix, module in self.walk()
            for name, p in module._parameters.items()
            if p is not None
        ]


@Module.mistake
class once_in_each_module(Edited):
    """You recognise a parameter again only within one module: what you have seen is forgotten when the walk goes on. Make the set of seen ones once, before the loop."""

    def named_parameters(self):
        found = []
        for prefix, module in self.walk():
            own = {id(p): (prefix + n, p) for n, p in reversed(module._parameters.items()) if p is not None}
            found += reversed(own.values())
        return found


@Module.mistake
class equal_numbers_count_as_shared(Edited):
    """You compared the numbers of parameters. Two different parameters may hold equal numbers, at the start they often do; only the same *object* is shared."""

    def key(self, parameter):
        return str(parameter.tolist())


@Module.mistake
class addresses_without_a_path(Edited):
    """Your parameters have only their own names. Put the prefix from the walk before them, or two layers' weights cannot be told apart."""

    def named_parameters(self):
        return [(name.split(".")[-1], p) for name, p in super().named_parameters()]


@Module.mistake
class train_reaches_only_itself(Edited):
    """`train` sets the mode of the module itself, and of nothing below. The layers inside, dropout for one, would go on in their old mode."""

    def train(self, mode=True):
        vars(self)["training"] = mode
        return self


@Module.mistake
class train_reaches_only_children(Edited):
    """`train` reaches the children, but not what is below them. In a model with blocks, the blocks' own layers keep their old mode: walk through the whole tree."""

    def train(self, mode=True):
        for module in (self, *self._modules.values()):
            vars(module)["training"] = mode
        return self


@Module.mistake
class train_always_trains(Edited):
    """Your `train` always sets True. It must set what it is given: `eval()` is `train(False)`."""

    def train(self, mode=True):
        return super().train()


@Module.mistake
class train_returns_nothing(Edited):
    """Your `train` sets the modes, but returns nothing. It must return the module itself, so that one can write `model.eval()(x)`."""

    def train(self, mode=True):
        super().train(mode)


@Module.mistake
class hooks_never_run(Edited):
    """Your call returns what `forward` computes and runs no hook."""

    def __call__(self, *inputs):
        return self.forward(*inputs)


@Module.mistake
class hooks_cannot_replace(Edited):
    """Your call runs the hooks but drops what they return. What a hook returns, unless it is None, is the new output."""

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            hook(self, inputs, output)
        return output


@Module.mistake
class none_replaces_too(Edited):
    """A hook that only looks returns None, and in your call this None becomes the output. Keep the output then."""

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            output = hook(self, inputs, output)
        return output


@Module.mistake
class zero_counts_as_nothing(Edited):
    """Your call asks whether what the hook returned counts as true. 0 does not, and for a tensor with several numbers Python refuses to say. Ask whether it `is not None`."""

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            output = hook(self, inputs, output) or output
        return output


@Module.mistake
class hooks_see_the_first_output(Edited):
    """Each of your hooks is given what `forward` computed. After a hook that replaces the output, the next one must be given the replacement."""

    def __call__(self, *inputs):
        first = output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, inputs, first)
            output = output if changed is None else changed
        return output


@Module.mistake
class hooks_get_one_input(Edited):
    """Your hooks are given the first input instead of the tuple of all inputs."""

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, inputs[0], output)
            output = output if changed is None else changed
        return output


@Module.mistake
class stops_at_the_first_answer(Edited):
    """Your call returns as soon as one hook has replaced the output. All hooks must run."""

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, inputs, output)
            if changed is not None:
                return changed
        return output


# ---------------------------------------------------------------------------------------------------------------------
load_state = Exercise("autograd.modules.load_state", may_change=("state",))  # `observe` changes it

KINDS = ("missing", "unexpected", "misshapen")


class Loaded(Reference):
    """The module that is loaded into; it has no loader of its own."""

    def load_state_dict(self, state):
        raise TypeError("load_state_dict is about to call load_state: copy the tensors yourself")


MODEL = [*PAIR, "root.head.bias = param(2)", "root.head.register_buffer('seen', torch.tensor([4, 5]))"]
SHAPES = {"scale": (2,), "head.weight": (2, 3), "head.bias": (2,), "head.seen": (2,)}


@load_state.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def numbers(*shape, dtype=torch.float64):
        if not dtype.is_floating_point:
            return torch.tensor(rng.integers(20, 90, shape), dtype=dtype)
        return torch.tensor(rng.uniform(20, 30, shape), dtype=dtype)

    def state(**changed):
        made = {}
        for key, shape in SHAPES.items():
            made[key] = numbers(*shape, dtype=torch.int64 if key == "head.seen" else torch.float64)
        for key, value in changed.items():
            key = key.replace("head_", "head.")
            made.pop(key, None)
            if value is not None:
                made[key] = numbers(*value)
        return made

    one = [*ROOT, "root.w = param(2)"]
    yield Case("one parameter", program=one, state={"w": numbers(2)})
    yield Case("one of the wrong shape", program=one, state={"w": numbers(3)})
    yield Case("a missing one", program=one, state={})
    yield Case("one too many", program=one, state={"w": numbers(2), "v": numbers(2)})
    yield Case("everything fits", program=MODEL, state=state())
    yield Case("in another order", program=MODEL, state=dict(reversed(state().items())))
    yield Case("a missing buffer", program=MODEL, state=state(head_seen=None))
    yield Case(
        "a missing parameter and a new one", program=MODEL, state=state(head_bias=None, head_basis=(2,))
    )
    yield Case("one that would broadcast", program=MODEL, state=state(head_weight=(3,)))
    yield Case("a row in place of a matrix", program=MODEL, state=state(head_weight=(1, 3)))
    yield Case("one number in place of two", program=MODEL, state=state(scale=()))
    yield Case("an axis too many", program=MODEL, state=state(scale=(1, 2)))
    yield Case("as many numbers in another shape", program=MODEL, state=state(head_weight=(3, 2)))
    all_kinds = state(scale=None, head_weight=(2, 2), head_bias=None, tail=(2,), head_w=(1,), head_seen=())
    yield Case("all kinds of faults", program=MODEL, state=all_kinds)
    yield Case("two missing", program=MODEL, state=state(scale=None, head_bias=None))
    yield Case("two misshapen", program=MODEL, state=state(scale=(3,), head_bias=(1,)))
    yield Case("two too many", program=MODEL, state=state(tail=(2,), zoom=(1,)))
    single = {key: value.to(torch.float32) for key, value in state().items()}
    yield Case("other dtypes", program=MODEL, state=single)
    wanting = {key: v.clone().requires_grad_(v.is_floating_point()) for key, v in state().items()}
    yield Case("tensors that want gradients", program=MODEL, state=wanting)
    shared = {"scale": numbers(2), "head.weight": numbers(2, 3), "tail.weight": None}
    shared["tail.weight"] = shared["head.weight"].clone()
    yield Case("a module in two places", program=[*PAIR, "root.tail = root.head"], state=shared)
    yield Case(
        "an empty tensor", program=[*ROOT, "root.w = param(0, 2)"], state={"w": torch.zeros(0, 3).double()}
    )


def _faults(message: str, keys: set[str]) -> list[str]:
    """Every `kind: address` of the message; a kind may be followed by several addresses."""
    kind, found = None, set()
    for word in re.findall(r"[\w.]+", message):
        word = word.rstrip(".")
        if word in KINDS:
            kind = word
        elif word in keys:
            found.add(f"{kind}: {word}")
    return sorted(found)


@load_state.observe
def _(obj, program, state):
    root = build(Loaded, program)["root"]
    before, given = dict(root.named_parameters()), {key: tensor.clone() for key, tensor in state.items()}
    said = result = None
    try:
        result = obj(root, state)
    except ValueError as error:
        said = _faults(str(error), {*root.state_dict(), *state})
    seen = {
        "The faults named in the ValueError (None: no ValueError)": said,
        "What is returned": result,
        "The state, which must stay as it was": all(
            list(state) == list(given) and torch.equal(state[k], given[k]) for k in given
        ),
    }
    for tensor in state.values():
        tensor.detach().add_(1)  # must not reach the model
    after = dict(root.named_parameters())
    seen["The parameters are the same objects as before"] = [after[key] is before[key] for key in before]
    seen["The parameters are leaves that want gradients"] = all(
        p.is_leaf and p.requires_grad for p in after.values()
    )
    return seen | {f"In the model, {key}": tensor.detach() for key, tensor in root.state_dict().items()}


@load_state.oracle
def _(program, state):
    root = build(Reference, program)["root"]
    own = root.state_dict()
    shapes = [{key: tensor.shape for key, tensor in some.items()} for some in (own, state)]
    faults = [f"missing: {k}" for k in shapes[0].keys() - shapes[1].keys()]
    faults += [f"unexpected: {k}" for k in shapes[1].keys() - shapes[0].keys()]
    faults += [f"misshapen: {k}" for k in own if k in state and shapes[0][k] != shapes[1][k]]
    if not faults:
        root.load_state_dict(state, strict=True)
    seen = {
        "The faults named in the ValueError (None: no ValueError)": sorted(faults) or None,
        "What is returned": None,
        "The state, which must stay as it was": True,
        "The parameters are the same objects as before": [True] * len(dict(root.named_parameters())),
        "The parameters are leaves that want gradients": True,
    }
    return seen | {f"In the model, {key}": tensor.detach() for key, tensor in root.state_dict().items()}


load_state.agree(by_name)


def _refuse(own, state, kinds=KINDS, misshapen=lambda a, b: a.shape != b.shape, first_only=False):
    faults = [f"missing: {k}" for k in own if "missing" in kinds and k not in state]
    faults += [f"unexpected: {k}" for k in state if "unexpected" in kinds and k not in own]
    faults += [f"misshapen: {k}" for k in own if k in state and misshapen(own[k], state[k])]
    if faults:
        raise ValueError(faults[0] if first_only else ", ".join(faults))


def _loads(module, state, **options):
    own = module.state_dict()
    _refuse(own, state, **options)
    with torch.no_grad():
        for key in own.keys() & state.keys():
            own[key].copy_(state[key])


@load_state.mistake
def shapes_not_compared(module, state):
    """You compare the addresses, but not the shapes. `copy_` broadcasts, so that a row fills a whole matrix without a word."""
    _loads(module, state, misshapen=lambda a, b: False)


@load_state.mistake
def counts_the_numbers(module, state):
    """You compare how many numbers there are. A (2, 3) and a (3, 2) hold as many, in different places: compare the shapes."""
    own = module.state_dict()
    _refuse(own, state, misshapen=lambda a, b: a.numel() != b.numel())
    with torch.no_grad():
        for key in own:
            own[key].copy_(state[key].reshape(own[key].shape))


@load_state.mistake
def missing_ones_are_forgiven(module, state):
    """You do not complain about an address that `state` lacks. That tensor keeps its random start, and nobody knows."""
    _loads(module, state, kinds=("unexpected",))


@load_state.mistake
def unexpected_ones_are_forgiven(module, state):
    """You do not complain about an address in `state` that the model does not have. It is often a sign that the file belongs to another model."""
    _loads(module, state, kinds=("missing",))


@load_state.mistake
def only_the_first_fault(module, state):
    """You stop at the first fault. The message must list every one, so that nobody has to try again and again."""
    _loads(module, state, first_only=True)


@load_state.mistake
def copies_before_it_has_looked(module, state):
    """You copy what fits and complain afterwards. A refused model is then half changed: look for all faults before you copy anything."""
    own = module.state_dict()
    with torch.no_grad():
        for key in own.keys() & state.keys():
            if own[key].shape == state[key].shape:
                own[key].copy_(state[key])
    _loads(module, state)


@load_state.mistake
def missing_and_unexpected_exchanged(module, state):
    """You call missing what is unexpected, and unexpected what is missing. Missing is what the model has and `state` lacks."""
    try:
        _loads(module, state)
    except ValueError as error:
        exchanged = {"missing": "unexpected", "unexpected": "missing"}
        text = re.sub("missing|unexpected", lambda found: exchanged[found.group()], str(error))
        raise ValueError(text) from None


@load_state.mistake
def takes_the_tensors_themselves(module, state):
    """You put the tensors of `state` into the model (with `.data =`) instead of copying their numbers. Whoever changes `state` later changes the model, and the dtype is no longer the model's."""
    _loads(module, state)
    for prefix, below in module.walk():
        for name, parameter in below._parameters.items():
            parameter.data = state[prefix + name].detach()


@load_state.mistake
def new_parameters(module, state):
    """You replace the parameters by new ones. An optimizer holds on to the old objects and would train those, which the model no longer uses: copy the numbers into the tensors that are there."""
    _loads(module, state)
    for prefix, below in module.walk():
        for name, parameter in list(below._parameters.items()):
            below._parameters[name] = Parameter(state[prefix + name].detach().to(parameter.dtype).clone())


@load_state.mistake
def changes_only_the_dictionary(module, state):
    """You check everything, and then change the dictionary that `state_dict()` made. The model's own tensors stay as they were: copy the numbers into them with `copy_`."""
    own = module.state_dict()
    _refuse(own, state)
    own.update(state)


# ---------------------------------------------------------------------------------------------------------------------
Dropout = Exercise("autograd.modules.Dropout", kind="class", seconds=10.0)


@Dropout.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, p, *shape, dtype=torch.float64):
        numbers = rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)
        return Case(label, p=p, x=torch.tensor(numbers, dtype=dtype))

    yield case("half of two numbers", 0.5, 2)
    yield case("nothing is dropped", 0.0, 3)
    yield case("rarely, a matrix", 0.2, 2, 2)
    yield case("mostly, a matrix", 0.8, 2, 2)
    yield case("one single number", 0.3, dtype=torch.float32)
    yield case("float32, four axes", 0.25, 2, 1, 1, 2, dtype=torch.float32)
    yield case("half of a matrix", 0.5, 2, 2)


CALLS, MANY = 800, 100_000


def dropped(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (y == 0) & (x != 0)


@Dropout.observe
def _(obj, p, x):
    """What it says in evaluation; values, gradients and counts of what is dropped in training."""
    layer = obj(p)
    seen = {}
    original = x.clone()
    for mode in (True, False):
        layer.train(mode)
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        if y is None:
            return "In training and in evaluation you must return a tensor; you returned None. Is a return missing?"
        if not isinstance(y, torch.Tensor):
            return f"You must return a tensor, not a {type(y).__name__}."
        if y.shape != x.shape or y.dtype != x.dtype:
            return f"The result has shape {tuple(y.shape)} and dtype {y.dtype}, but x has {tuple(x.shape)} and {x.dtype}."
        if not mode:
            seen["In evaluation, the result"] = y.detach()
        if not y.requires_grad:
            return "The result of a tensor that wants a gradient does not want one: no gradient flows through your layer."
        slopes = torch.autograd.grad(y.sum(), leaf)[0]
        if mode:
            out = dropped(leaf.detach(), y.detach())
            seen["In training, slopes of what was dropped"] = slopes[out].abs().sum().item()
    big, said = torch.linspace(1, 2, MANY, dtype=x.dtype), []
    finished = layer.eval()(big).detach()
    if dropped(big, finished).any():
        said.append("In evaluation, numbers are dropped.")
    elif not torch.equal(finished, big):
        said.append("In evaluation, the result is not x.")
    layer.train()
    leaf = big.clone().requires_grad_()
    y = layer(leaf)
    if not torch.equal(leaf, big):
        return "Your layer changes x itself: somebody else may still need it."
    slopes = torch.autograd.grad(y.sum(), leaf)[0]
    out = dropped(big, y.detach())
    if p > 0 and (out.all() or not out.any()):
        said.append("In training, 100,000 numbers are all kept or all dropped.")
    if said:
        return " ".join(said)
    with torch.no_grad():
        if out.any() and not out.all() and torch.equal(out, dropped(big, layer(big))):
            return "Two calls in training dropped the same of 100,000 numbers."
        new = [dropped(big, obj(p).train()(big)) for _ in range(2)]
    if p > 0 and torch.equal(*new):
        return "Two new layers dropped the same of 100,000 numbers."
    half = layer(x.to(torch.float16))
    seen["In training, the dtype of the result for a float16 x"] = str(half.dtype)
    ratio = (y.detach() / big)[~out]
    seen["In training, what is kept is multiplied by"] = [ratio.min().item(), ratio.max().item()]
    kept = slopes[~out]
    seen["In training, the slope of what is kept"] = [kept.min().item(), kept.max().item()]
    seen["In training, the slope of what is dropped"] = slopes[out].abs().sum().item()
    count = int(out.sum())
    seen["draws: of 100,000 numbers, [kept, dropped]"] = np.array([MANY - count, count])
    bits, previous, pairs = [], None, np.zeros(4, dtype=int)
    weights = 2 ** torch.arange(x.numel())
    with torch.no_grad():
        for _ in range(CALLS):
            mask = dropped(x, layer(x)).flatten()
            bits.append(int((mask * weights).sum()))
            if previous is not None:
                pairs[2 * int(previous[0]) + int(mask[0])] += 1
                previous = None
            else:
                previous = mask
    seen["draws: which numbers of x are dropped together (one outcome for each mask)"] = histogram(
        np.array(bits), 2 ** x.numel()
    )
    seen[
        "draws: the first number in two calls [kept twice, dropped second, dropped first, dropped twice]"
    ] = pairs
    layer.eval()
    seen["In evaluation after training, the result"] = layer(x).detach()
    seen["x, which must stay as it was"] = torch.equal(x, original)
    return seen


@Dropout.oracle
def _(p, x):
    """Closed forms: every mask's probability."""
    scale = 1 / (1 - p)
    masks = [[k >> j & 1 for j in range(x.numel())] for k in range(2 ** x.numel())]
    return {
        "In evaluation, the result": x,
        "In training, slopes of what was dropped": 0.0,
        "In training, the dtype of the result for a float16 x": "torch.float16",
        "In training, what is kept is multiplied by": [scale, scale],
        "In training, the slope of what is kept": [scale, scale],
        "In training, the slope of what is dropped": 0.0,
        "draws: of 100,000 numbers, [kept, dropped]": np.array([1 - p, p]),
        "draws: which numbers of x are dropped together (one outcome for each mask)": np.array(
            [math.prod(p if bit else 1 - p for bit in mask) for mask in masks]
        ),
        "draws: the first number in two calls [kept twice, dropped second, dropped first, dropped twice]": np.array(
            [(1 - p) ** 2, p * (1 - p), p * (1 - p), p * p]
        ),
        "In evaluation after training, the result": x,
        "x, which must stay as it was": True,
    }


@Dropout.agree
def _(got, expected):
    if isinstance(got, str) or isinstance(expected, str) or got is None or expected is None:
        return None if type(got) is type(expected) and got == expected else str(got)
    for name in expected:
        if name.startswith("draws: "):
            difference = agree_in_distribution(got[name], expected[name])
        else:
            difference = compare(got[name], expected[name], tolerance=1e-5)
        if difference:
            return f"{name.removeprefix('draws: ')}: {difference.replace('you returned', 'yours is')}"
    return None


class _Dropout(torch.nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def mask(self, x):
        return (torch.rand(x.shape) >= self.p).to(x.dtype)

    def forward(self, x):
        return x * self.mask(x) / (1 - self.p) if self.training else x


@Dropout.mistake
class not_scaled(_Dropout):
    """You drop numbers but do not divide what is left by 1 - p. On average the next layer then receives less in training than in evaluation."""

    def forward(self, x):
        return x * self.mask(x) if self.training else x


@Dropout.mistake
class scaled_in_evaluation_instead(_Dropout):
    """You multiply by 1 - p in evaluation and do not scale in training. That is the older form: here evaluation must return x itself, and training divides by 1 - p."""

    def forward(self, x):
        return x * self.mask(x) if self.training else x * (1 - self.p)


@Dropout.mistake
class divided_by_p(_Dropout):
    """You divide by p. What is *kept*, a share 1 - p, must make up for the rest: divide by 1 - p."""

    def forward(self, x):
        return x * self.mask(x) / self.p if self.training else x


@Dropout.mistake
class multiplied_by_the_share(_Dropout):
    """You multiply what is kept by 1 - p. That makes it smaller still: divide by it."""

    def forward(self, x):
        return x * self.mask(x) * (1 - self.p) if self.training else x


@Dropout.mistake
class keeps_with_probability_p(_Dropout):
    """You keep a number with probability p. p is the probability that it is *dropped*; at one half nobody sees the difference."""

    def forward(self, x):
        return x * (torch.rand(x.shape) < self.p) / (1 - self.p) if self.training else x


@Dropout.mistake
class drops_in_evaluation_too(_Dropout):
    """You drop in evaluation, too, so that a finished model answers at random. Ask `self.training`."""

    def forward(self, x):
        return x * self.mask(x) / (1 - self.p)


@Dropout.mistake
class modes_exchanged(_Dropout):
    """You drop in evaluation and do nothing in training. It is the other way round."""

    def forward(self, x):
        return x if self.training else x * self.mask(x) / (1 - self.p)


@Dropout.mistake
class one_draw_for_all(_Dropout):
    """You draw one single random number, and drop everything or nothing. Each number of x needs its own."""

    def forward(self, x):
        return x * (torch.rand(()) >= self.p) / (1 - self.p) if self.training else x


@Dropout.mistake
class one_draw_for_each_column(_Dropout):
    """You draw one random number for each place of the last axis, and use it in every row. Each number of x needs its own."""

    def forward(self, x):
        keep = torch.rand(x.shape[-1:]) >= self.p
        return x * keep / (1 - self.p) if self.training else x


@Dropout.mistake
class the_same_mask_in_every_call(_Dropout):
    """You drop the same numbers in every call, because you set the seed in `forward` or keep the first mask. Each call needs fresh random numbers."""

    def forward(self, x):
        return x * self.mask(x) / (1 - self.p) if self.training else x

    def mask(self, x):
        return (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) >= self.p).to(x.dtype)


@Dropout.mistake(shape=True)
class the_mask_changes_the_dtype(_Dropout):
    """Your mask has a dtype of its own, float32, and float16 numbers that are multiplied by it become float32, too. Leave the mask True and False, or give it the dtype of x."""

    def mask(self, x):
        return super().mask(x).float()


@Dropout.mistake
class every_layer_drops_the_same(_Dropout):
    """Each of your layers starts its random numbers from the same seed, so two layers of one network drop the same places, and every run of a program, too. Draw without setting a seed: that is the caller's business."""

    def mask(self, x):
        if "own" not in vars(self):
            self.own = torch.Generator().manual_seed(0)
        return (torch.rand(x.shape, generator=self.own) >= self.p).to(x.dtype)


@Dropout.mistake(shape=True)
class normal_random_numbers(_Dropout):
    """Your random numbers follow the normal distribution (`randn`), not evenly spread between 0 and 1 (`rand`). Then p is not the probability of being below p."""

    def mask(self, x):
        return (torch.randn(x.shape) >= self.p).to(x.dtype)


# ---------------------------------------------------------------------------------------------------------------------
BatchNorm1d = Exercise("autograd.modules.BatchNorm1d", kind="class")


@BatchNorm1d.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def batch(rows, n, shift=3.0):
        return torch.tensor(rng.normal(size=(rows, n)) * rng.uniform(0.5, 2, n) + shift, dtype=torch.float32)

    yield Case("fresh, in evaluation", n=2, batches=[], x=batch(1, 2))
    yield Case("after one batch", n=2, batches=[batch(4, 2)], x=batch(1, 2))
    yield Case("after five batches", n=3, batches=[batch(5, 3, k) for k in range(5)], x=batch(4, 3))
    yield Case("one column", n=1, batches=[batch(3, 1), batch(6, 1)], x=batch(2, 1))


@BatchNorm1d.observe
def _(obj, n, batches, x):
    trained, restarted = obj(n), obj(n)
    seen = {
        "Before training, running_mean": trained.running_mean.detach().clone(),
        "Before training, running_var": trained.running_var.detach().clone(),
        "The addresses of the parameters": [name for name, _ in trained.named_parameters()],
        "Do the running averages want gradients?": trained.running_mean.requires_grad
        or trained.running_var.requires_grad,
    }
    outputs = [trained(batch).detach() for batch in batches]
    seen["In training, the results"] = outputs
    trained.eval(), restarted.eval()
    seen["After training, running_mean"] = trained.running_mean.detach().clone()
    seen["After training, running_var"] = trained.running_var.detach().clone()
    seen["In evaluation, the result"] = trained(x).detach()
    state = trained.state_dict()
    seen["The addresses in state_dict()"] = sorted(key for key in state if key != "num_batches_tracked")
    restarted.load_state_dict({key: value.clone() for key, value in state.items()})
    seen["Saved and loaded into a new layer, the result"] = restarted(x).detach()
    untouched = obj(n).eval()
    seen["The result of another, fresh layer"] = untouched(x).detach()
    return seen


@BatchNorm1d.oracle
def _(n, batches, x):
    trained, fresh = torch.nn.BatchNorm1d(n), torch.nn.BatchNorm1d(n).eval()
    seen = {
        "Before training, running_mean": torch.zeros(n),
        "Before training, running_var": torch.ones(n),
        "The addresses of the parameters": ["weight", "bias"],
        "Do the running averages want gradients?": False,
        "In training, the results": [trained(batch).detach() for batch in batches],
    }
    answer = trained.eval()(x).detach()
    return seen | {
        "After training, running_mean": trained.running_mean,
        "After training, running_var": trained.running_var,
        "In evaluation, the result": answer,
        "The addresses in state_dict()": ["bias", "running_mean", "running_var", "weight"],
        "Saved and loaded into a new layer, the result": answer,
        "The result of another, fresh layer": fresh(x).detach(),
    }


BatchNorm1d.agree(by_name)


class _Norm(torch.nn.Module):
    """As on the page; mistakes change `hold`."""

    def __init__(self, n, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = Parameter(torch.ones(n)), Parameter(torch.zeros(n))
        self.hold("running_mean", torch.zeros(n))
        self.hold("running_var", torch.ones(n))

    def hold(self, name, tensor):
        self.register_buffer(name, tensor)

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean(0), x.var(0, correction=0)
            with torch.no_grad():
                self.running_mean += self.momentum * (mean - self.running_mean)
                self.running_var += self.momentum * (x.var(0) - self.running_var)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


@BatchNorm1d.mistake(shape=True)
class running_averages_are_not_saved(_Norm):
    """Your running averages are ordinary attributes, so they are not in the file. The restarted layer begins with 0 and 1 again, and the strict loader cannot miss what it does not know of."""

    def hold(self, name, tensor):
        setattr(self, name, tensor)


@BatchNorm1d.mistake(shape=True)
class only_the_mean_is_saved(_Norm):
    """The running mean is saved, the running variance is not. Both belong to the state."""

    def hold(self, name, tensor):
        setattr(self, name, tensor) if name == "running_var" else self.register_buffer(name, tensor)


@BatchNorm1d.mistake(shape=True)
class running_averages_are_trained(_Norm):
    """Your running averages are parameters. They are saved, but an optimizer would train them, too; they should only follow the batches."""

    def hold(self, name, tensor):
        setattr(self, name, Parameter(tensor))


@BatchNorm1d.mistake(shape=True)
class untrained_parameters(_Norm):
    """Your running averages are parameters with `requires_grad=False`. They are saved, but `parameters()` still hands them to the optimizer, and everybody takes them for something that is trained: what is not trained is a buffer."""

    def hold(self, name, tensor):
        setattr(self, name, Parameter(tensor, requires_grad=False))


@BatchNorm1d.mistake(shape=True)
class variance_starts_at_zero(_Norm):
    """Your running variance starts at 0. A fresh layer would then divide by almost nothing: it starts at 1."""

    def hold(self, name, tensor):
        self.register_buffer(name, torch.zeros_like(tensor))


@BatchNorm1d.mistake(shape=True)
class mean_starts_at_one(_Norm):
    """Your running mean starts at 1. It starts at 0, and the running variance at 1."""

    def hold(self, name, tensor):
        self.register_buffer(name, torch.ones_like(tensor))


# ---------------------------------------------------------------------------------------------------------------------
DataLoader = Exercise("autograd.modules.DataLoader", kind="class")


class Items:
    """A data set that remembers what was read, and insists on plain numbers."""

    def __init__(self, n: int, entries: int = 2):
        self.n, self.entries, self.read = n, entries, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if type(i) is not int:
            raise TypeError(f"dataset[i] needs a plain whole number, not a {type(i).__name__}")
        if not 0 <= i < self.n:
            raise IndexError(f"there is no item {i}")
        self.read.append(i)
        between = [torch.tensor(-i)] * (self.entries - 2)
        return torch.tensor([i, i + 0.5]), *between, torch.tensor(10 * i)


@DataLoader.cases
def _(rng: np.random.Generator) -> Iterator[Case]:
    def case(label, n, batch_size, **options):
        return Case(label, n=n, batch_size=batch_size, **options)

    yield case("batches that fit", 6, 3)
    yield case("a smaller last batch", 7, 3)
    yield case("the smaller one left out", 7, 3, drop_last=True)
    yield case("drop_last where all fit", 6, 3, drop_last=True)
    yield case("single items", 3, 1)
    yield case("all in one batch", 4, 4)
    yield case("a batch larger than the data", 3, 5)
    yield case("a batch larger than the data, left out", 3, 5, drop_last=True)
    yield case("no data", 0, 3)
    yield case("items with three entries", 5, 2, entries=3)
    yield case("one left over", 9, 4)
    yield case("shuffled, batches that fit", 8, 4, shuffle=True)
    yield case("shuffled, a smaller last batch", 11, 4, shuffle=True)
    yield case("shuffled, the smaller one left out", 11, 4, shuffle=True, drop_last=True)
    yield case("shuffled, no data", 0, 4, shuffle=True)
    yield case("shuffled, all in one batch", 20, 20, shuffle=True)
    yield case("shuffled, single items", 20, 1, shuffle=True, seed=5)
    yield case("shuffled, another seed", 13, 4, shuffle=True, seed=int(rng.integers(1000)))


def _epoch(loader) -> list:
    return [list(batch) for batch in loader]


def _order(epoch) -> list[int]:
    return [int(number) for batch in epoch for number in batch[-1] // 10]


@DataLoader.observe
def _(obj, n, batch_size, shuffle=False, drop_last=False, seed=0, entries=2):
    options = {"shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    data = Items(n, entries)
    loader = obj(data, batch_size, **options)
    if loader.__iter__() is None:
        return "`__iter__` returned None: it must `yield` the batches."
    loader = obj(data, batch_size, **options)
    seen = {"The number of batches, len(loader)": len(loader)}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data.read.clear()
    counts = []
    for batch in loader:
        if not isinstance(batch, tuple | list):
            return f"A batch must be what `collate` makes, a tuple of tensors; yours is a {type(batch).__name__}."
        counts.append(len(data.read))
    seen["How many items were read in all when each batch came"] = counts
    loader = obj(data, batch_size, **options)
    data.read.clear()
    one = _epoch(loader)
    read = sorted(data.read)
    two = _epoch(loader)
    seen["The sizes of the batches"] = [len(batch[-1]) for batch in one]
    seen["The sizes of the batches in the second epoch"] = [len(batch[-1]) for batch in two]
    seen["What a shuffled epoch changes: torch's global random numbers"] = not torch.equal(
        before, torch.get_rng_state()
    )
    if not shuffle:
        seen["The first epoch"], seen["The second epoch"] = one, two
        outer = []
        for batch in loader:  # two loops over one loader
            inner = _order(_epoch(loader))
            outer.append([_order([batch]), inner])
        seen["Two loops, one inside the other"] = outer
        return seen
    entries = [number for batch in one for number in batch[0].flatten().tolist()]
    expected = [number for i in _order(one) for number in (i, i + 0.5)]
    seen["Inputs and targets belong together"] = entries == expected
    seen["How many different items an epoch has"] = [len(set(_order(epoch))) for epoch in (one, two)]
    seen["How often items are read more than once in an epoch"] = len(read) - len(set(read))
    torch.manual_seed(2)
    again = obj(Items(n), batch_size, **options)
    seen["The same seed gives the same epochs"] = [_order(_epoch(again)), _order(_epoch(again))] == [
        _order(one),
        _order(two),
    ]
    if n >= 8:
        seen["The second epoch has the order of the first"] = _order(one) == _order(two)
        other = obj(Items(n), batch_size, **(options | {"seed": seed + 1}))
        seen["Another seed gives the same order"] = _order(one) == _order(_epoch(other))
        seen["Shuffled, the items are in order"] = _order(one) == sorted(_order(one))
    if n >= 20:
        seen["The loops disturb each other"] = _interleaved(obj, n, batch_size, options)
    seen["The orders of the first two epochs, drawn by randperm with the loader's generator"] = [
        _order(one),
        _order(two),
    ]
    return seen


def _interleaved(obj, n, batch_size, options) -> bool:
    loader = obj(Items(n), batch_size, **options)
    left, right = iter(loader), iter(loader)
    pairs = list(zip(left, right, strict=True))
    orders = [_order([pair[k] for pair in pairs]) for k in (0, 1)]
    return any(sorted(order) != list(range(n)) for order in orders)


@DataLoader.oracle
def _(n, batch_size, shuffle=False, drop_last=False, seed=0, entries=2):
    data = Items(n, entries)
    sampler = torch.utils.data.SequentialSampler(data)
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch_size, sampler=sampler, drop_last=drop_last, generator=torch.Generator()
    )
    epoch = _epoch(loader)
    sizes = [len(batch[-1]) for batch in epoch]
    seen = {"The number of batches, len(loader)": len(loader)}
    seen |= {
        "How many items were read in all when each batch came": np.cumsum(sizes, dtype=int).tolist(),
        "The sizes of the batches": sizes,
        "The sizes of the batches in the second epoch": sizes,
        "What a shuffled epoch changes: torch's global random numbers": False,
    }
    if not shuffle:
        nested = [[_order([batch]), _order(epoch)] for batch in epoch]
        return seen | {
            "The first epoch": epoch,
            "The second epoch": epoch,
            "Two loops, one inside the other": nested,
        }
    seen |= {
        "Inputs and targets belong together": True,
        "How many different items an epoch has": [sum(sizes)] * 2,
        "How often items are read more than once in an epoch": 0,
        "The same seed gives the same epochs": True,
    }
    if n >= 8:
        seen |= {
            "The second epoch has the order of the first": False,
            "Another seed gives the same order": False,
            "Shuffled, the items are in order": False,
        }
    if n >= 20:
        seen["The loops disturb each other"] = False
    draws = torch.Generator().manual_seed(seed)
    seen["The orders of the first two epochs, drawn by randperm with the loader's generator"] = [
        torch.randperm(n, generator=draws).tolist()[: sum(sizes)] for _ in range(2)
    ]
    return seen


DataLoader.agree(by_name)


class _Loader:
    """A loader that chooses its batches in `order` and `pieces`; mistakes change one of them."""

    def __init__(self, dataset, batch_size, shuffle=False, drop_last=False, seed=0):
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        return len(self.pieces(list(range(len(self.dataset)))))

    def order(self, n):
        return torch.randperm(n, generator=self.generator).tolist() if self.shuffle else list(range(n))

    def pieces(self, order):
        cut = [order[k : k + self.batch_size] for k in range(0, len(order), self.batch_size)]
        return [piece for piece in cut if len(piece) == self.batch_size or not self.drop_last]

    def __iter__(self):
        for piece in self.pieces(self.order(len(self.dataset))):
            yield self.collate([self.dataset[i] for i in piece])

    def collate(self, items):
        return tuple(torch.stack(entries) for entries in zip(*items, strict=True))


@DataLoader.mistake
class the_last_batch_is_always_dropped(_Loader):
    """You always leave out the smaller last batch. Without `drop_last` it belongs to the epoch: those items would be seen less often."""

    def pieces(self, order):
        return [piece for piece in super().pieces(order) if len(piece) == self.batch_size]


@DataLoader.mistake
class the_last_batch_is_never_dropped(_Loader):
    """You keep the smaller last batch even with `drop_last`."""

    def pieces(self, order):
        return [order[k : k + self.batch_size] for k in range(0, len(order), self.batch_size)]


@DataLoader.mistake
class drops_a_full_batch_too(_Loader):
    """With `drop_last` you leave out the last batch even when it is full. Only a smaller one goes."""

    def pieces(self, order):
        pieces = _Loader.pieces(self, order)
        full = len(order) % self.batch_size == 0
        return pieces[:-1] if self.drop_last and full else pieces


@DataLoader.mistake
class length_in_items(_Loader):
    """Your `len(loader)` counts the items. It should count the batches of an epoch."""

    def __len__(self):
        return len(self.dataset)


@DataLoader.mistake
class length_rounded_down(_Loader):
    """Your `len(loader)` always rounds down. Without `drop_last` the smaller last batch counts, too."""

    def __len__(self):
        return len(self.dataset) // self.batch_size


@DataLoader.mistake
class length_one_too_many(_Loader):
    """Your `len(loader)` adds one to the rounded-down quotient, even if the batches fit exactly. Only a smaller last batch makes one more."""

    def __len__(self):
        return len(self.dataset) // self.batch_size + (not self.drop_last)


@DataLoader.mistake
class never_shuffles(_Loader):
    """You ignore `shuffle`: every epoch has the items in order."""

    def order(self, n):
        return list(range(n))


@DataLoader.mistake
class always_shuffles(_Loader):
    """You shuffle always. Without `shuffle` the items come in order."""

    def order(self, n):
        return torch.randperm(n, generator=self.generator).tolist()


@DataLoader.mistake
class the_same_order_each_epoch(_Loader):
    """Your epochs all have the same order, because you draw it once, or start the generator again each time. Draw a fresh order in each epoch."""

    def order(self, n):
        self.generator.manual_seed(self.seed)
        return super().order(n)


@DataLoader.mistake
class global_random_numbers(_Loader):
    """You draw from torch's global random numbers, so that the order depends on whatever else draws from them. Use the loader's own generator."""

    def order(self, n):
        return torch.randperm(n).tolist() if self.shuffle else list(range(n))


@DataLoader.mistake
class drawn_with_repetition(_Loader):
    """You draw each item anew (`randint`), so that some come twice and others never. An epoch is an *order* of all items."""

    def order(self, n):
        if not self.shuffle or n == 0:
            return list(range(n))
        return torch.randint(n, (n,), generator=self.generator).tolist()


@DataLoader.mistake
class only_the_batches_are_shuffled(_Loader):
    """You shuffle the batches, but each batch holds neighbours, in order. Shuffle the items, then cut."""

    def pieces(self, order):
        if not self.shuffle:
            return super().pieces(order)
        pieces = super().pieces(sorted(order))
        return [pieces[k] for k in torch.randperm(len(pieces), generator=self.generator).tolist()]


@DataLoader.mistake
class everything_is_read_first(_Loader):
    """You read all items before the first batch. A data set may be larger than the memory: read an item when its batch is asked for."""

    def __iter__(self):
        order = self.order(len(self.dataset))
        items = [self.dataset[i] for i in order]
        yield from [self.collate(piece) for piece in self.pieces(items)]


@DataLoader.mistake
class batches_overlap(_Loader):
    """Your batches overlap: each begins one item after the last one began. Batch k begins at k times the batch size."""

    def pieces(self, order):
        whole = super().pieces(order)
        return [order[k : k + self.batch_size] for k in range(len(whole))]


@DataLoader.mistake
class items_are_not_collated(_Loader):
    """You hand over a list of items. `collate` makes a batch of them: one tensor of all inputs, one of all targets."""

    def collate(self, items):
        return items
