"""Modules, data sets and loaders.

Generated from chapters/01_autograd/09_modules.md by `make sync`: edit that file, not this one.
"""

import math

import torch
from torch.nn import Parameter

__all__ = [
    "BatchNorm1d",
    "DataLoader",
    "Dataset",
    "Dropout",
    "Handle",
    "Linear",
    "Module",
    "ReLU",
    "Sequential",
    "collate",
    "load_state",
]


class Handle:
    """What registering a hook returns: `remove()` takes the hook away again."""

    def __init__(self, hooks: dict):
        self.hooks = hooks

    def remove(self):
        self.hooks.pop(self, None)  # the handle itself is the hook's key


class Module:
    """A subclass writes `forward`; it calls super().__init__() first."""

    def __init__(self):
        # Past our own __setattr__, which needs these dictionaries.
        vars(self).update(_parameters={}, _buffers={}, _modules={}, _hooks={})
        vars(self)["training"] = True

    def __setattr__(self, name, value):
        if name in self._parameters and not isinstance(value, Parameter | None):
            raise TypeError(f"{name} is a parameter: give it a Parameter or None")
        if isinstance(value, Parameter):
            home = self._parameters
        elif isinstance(value, Module):
            home = self._modules
        elif name in self._buffers:
            home = self._buffers
        else:
            home = vars(self)
        for other in (self._parameters, self._buffers, self._modules, vars(self)):
            if other is not home:
                other.pop(name, None)
        home[name] = value

    def __getattr__(self, name):
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in vars(self).get(kind, {}):
                return vars(self)[kind][name]
        hint = "" if "_modules" in vars(self) else "; was super().__init__() called?"
        raise AttributeError(f"{type(self).__name__} has no {name}{hint}")

    def register_buffer(self, name, tensor):
        """A tensor that belongs to the model's state but is not trained."""
        vars(self).pop(name, None)  # an ordinary attribute would hide it
        self._buffers[name] = tensor

    def walk(self, prefix=""):
        """All modules of the tree, parents first: pairs (prefix, module)."""
        found = [(prefix, self)]
        for name, child in self._modules.items():
            found += child.walk(f"{prefix}{name}.")
        return found

    def named_parameters(self):
        """Pairs (address, parameter), each parameter once."""
        found, seen = [], set()
        for prefix, module in self.walk():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    found.append((prefix + name, parameter))
        return found

    def parameters(self):
        return [parameter for _, parameter in self.named_parameters()]

    def state_dict(self):
        """Parameters and buffers by address; they share memory with the model."""
        state = {}
        for prefix, module in self.walk():
            for name, tensor in (module._parameters | module._buffers).items():
                state[prefix + name] = tensor.detach()
        return state

    def load_state_dict(self, state):
        load_state(self, state)  # your next exercise

    def train(self, mode=True):
        """Training mode, or evaluation mode, for the whole tree. Returns the module."""
        for _, module in self.walk():
            module.training = mode
        return self

    def eval(self):
        return self.train(False)

    def register_forward_hook(self, hook):
        """From now on, hook(module, inputs, output) runs after every forward."""
        handle = Handle(self._hooks)
        self._hooks[handle] = hook
        return handle

    def __call__(self, *inputs):
        """`module(x)`: forward, then the hooks."""
        output = self.forward(*inputs)
        for hook in list(self._hooks.values()):
            changed = hook(self, inputs, output)
            if changed is not None:
                output = changed
        return output

    def to(self, device):
        """Move every tensor of the tree to a device. Returns the module."""
        for _, module in self.walk():
            for tensor in (module._parameters | module._buffers).values():
                tensor.data = tensor.data.to(device)
        return self


class Linear(Module):
    """y = x Wᵀ + b. weight: (n_out, n_in), bias: (n_out,) or None; x: (..., n_in)."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = Parameter(torch.empty(n_out, n_in).uniform_(-bound, bound))
        start = torch.empty(n_out).uniform_(-bound, bound)
        self.bias = Parameter(start) if bias else None

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class ReLU(Module):
    """The number where it is above 0, else 0."""

    def forward(self, x):
        return x.relu()


class Sequential(Module):
    """Modules one after the other: children with the names 0, 1, 2, …"""

    def __init__(self, *modules: Module):
        super().__init__()
        for k, module in enumerate(modules):
            setattr(self, str(k), module)  # self.0 = module, if Python had it

    def forward(self, x):
        for module in self._modules.values():
            x = module(x)
        return x


def load_state(module, state: dict[str, torch.Tensor]) -> None:
    """Copy `state` into the module, or raise a ValueError that names every fault."""
    own = module.state_dict()
    faults = [f"missing: {key}" for key in own if key not in state]
    faults += [f"unexpected: {key}" for key in state if key not in own]
    common = [key for key in own if key in state]
    faults += [f"misshapen: {k}" for k in common if own[k].shape != state[k].shape]
    if faults:
        raise ValueError(", ".join(faults))
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


class Dropout(Module):
    """Srivastava et al. (2014), in the inverted form; p: the probability of a zero."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be at least 0 and below 1, not {p}")
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        keep = torch.rand_like(x) >= self.p
        return x * keep / (1 - self.p)


class BatchNorm1d(Module):
    """x: (batch, n). Ioffe and Szegedy (2015), algorithm 1; averages as in PyTorch."""

    def __init__(self, n: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = Parameter(torch.ones(n)), Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
            with torch.no_grad():
                self.running_mean += self.momentum * (mean - self.running_mean)
                unbiased = x.var(dim=0)
                self.running_var += self.momentum * (unbiased - self.running_var)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


class Dataset:
    """Items from tensors of equal length: item i has the i-th entry of each."""

    def __init__(self, *tensors: torch.Tensor):
        if len({len(tensor) for tensor in tensors}) != 1:
            raise ValueError("give tensors of one length")
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, i: int):
        return tuple(tensor[i] for tensor in self.tensors)


def collate(items: list[tuple]) -> tuple[torch.Tensor, ...]:
    """[(x0, y0), (x1, y1), …] → (all x, all y), stacked along a new first axis."""
    columns = zip(*items, strict=True)
    return tuple(torch.stack(entries) for entries in columns)


class DataLoader:
    """Batches of a data set; each `for` loop over it is one epoch."""

    def __init__(self, dataset, batch_size, shuffle=False, drop_last=False, seed=0):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self):
        """The number of batches in one epoch."""
        n = len(self.dataset)
        batches = n / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def __iter__(self):
        n = len(self.dataset)
        order = range(n)
        if self.shuffle:
            order = torch.randperm(n, generator=self.generator).tolist()
        for k in range(len(self)):
            chosen = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield collate([self.dataset[i] for i in chosen])
