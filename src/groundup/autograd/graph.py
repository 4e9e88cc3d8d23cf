"""The graph, forward and backward.

Generated from chapters/01_autograd/03_graph.md by `make sync`: edit that file, not this one.
"""

import math

__all__ = ["Value", "backpropagate", "descend", "gradients_by_hand", "topological_order"]


def gradients_by_hand(a: float, b: float, c: float) -> tuple[float, ...]:
    """L = (a * b + c) * a, and its slopes in a, b and c.

    Returns (L, grad_a, grad_b, grad_c).
    """
    d = a * b
    e = d + c
    L = e * a
    grad_e = a  # times grad_L, which is 1
    grad_d = grad_e
    grad_c = grad_e
    grad_b = grad_d * a
    grad_a = grad_d * b + e
    return L, grad_a, grad_b, grad_c


class Value:
    """A number that remembers how it was computed.

    data: the number. grad: the slope of the last `backward()`'s result in this number.
    parents: the Values that it was made from; a leaf has none.
    op: the operation's name, for drawings.
    """

    def __init__(self, data, parents=(), op="", backward=lambda grad: None):
        self.data = float(data)
        self.grad = 0.0
        self.parents = parents
        self.op = op
        self._backward = backward  # adds each parent's share to that parent's grad

    def __repr__(self):
        return f"Value(data={self.data}, grad={self.grad})"

    @staticmethod
    def wrap(other):
        """So that `x + 2` works: a plain number becomes a leaf."""
        return other if isinstance(other, Value) else Value(other)

    def __add__(self, other):
        other = Value.wrap(other)

        def backward(grad):
            self.grad += grad
            other.grad += grad

        return Value(self.data + other.data, (self, other), "+", backward)

    def __mul__(self, other):
        other = Value.wrap(other)

        def backward(grad):
            self.grad += other.data * grad
            other.grad += self.data * grad

        return Value(self.data * other.data, (self, other), "*", backward)

    def __pow__(self, exponent):
        if isinstance(exponent, Value):
            raise TypeError("the exponent must be a plain number: it gets no slope")

        def backward(grad):
            self.grad += exponent * self.data ** (exponent - 1) * grad

        return Value(self.data**exponent, (self,), f"**{exponent}", backward)

    def exp(self):
        result = math.exp(self.data)

        def backward(grad):
            self.grad += result * grad

        return Value(result, (self,), "exp", backward)

    def log(self):
        """The natural logarithm; data must be above zero."""

        def backward(grad):
            self.grad += grad / self.data

        return Value(math.log(self.data), (self,), "log", backward)

    def tanh(self):
        result = math.tanh(self.data)

        def backward(grad):
            self.grad += (1 - result**2) * grad

        return Value(result, (self,), "tanh", backward)

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        """other - self, where other is a plain number."""
        return (-self) + other

    def __truediv__(self, other):
        """self / other, where other is a Value or a plain number."""
        return self * Value.wrap(other) ** -1

    def __rtruediv__(self, other):
        """other / self, where other is a plain number."""
        return self**-1 * other

    __radd__ = __add__  # 2 + x is x + 2, and 2 * x is x * 2
    __rmul__ = __mul__

    def backward(self):
        """Add d(this number)/d(leaf) to the grad of every leaf below it."""
        backpropagate(self)  # you write it two exercises from now


def topological_order(root) -> list:
    """Every node that `root` was made from, and `root`: each once, after its parents.

    A node is anything that has `parents` and can be put into a set.
    """
    order, placed, pile = [], set(), [root]
    while pile:
        node = pile[-1]
        missing = [parent for parent in node.parents if parent not in placed]
        if missing:
            pile.extend(missing)
        else:
            pile.pop()
            if node not in placed:
                placed.add(node)
                order.append(node)
    return order


def backpropagate(root) -> None:
    """Add d(root)/d(leaf) to every leaf's grad; nodes in between get theirs afresh."""
    order = topological_order(root)
    for node in order:
        if node.parents:
            node.grad = 0.0
    root.grad += 1.0
    for node in reversed(order):
        node._backward(node.grad)


def descend(parameters: list, loss_of, learning_rate: float, steps: int) -> list[float]:
    """Gradient descent in place.

    parameters: leaves; loss_of(parameters) builds the loss, a Value.
    Returns the loss that each step started from.
    """
    losses = []
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = 0.0
        loss = loss_of(parameters)
        loss.backward()
        losses.append(loss.data)
        for parameter in parameters:
            parameter.data -= learning_rate * parameter.grad
    return losses
