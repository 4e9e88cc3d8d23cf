"""Stand-ins for `triton` and `triton.language` where Triton is not installed.

A lesson's kernels are decorated when their cell or module is read, long before one runs. The stand-in lets that
happen and raises only when a kernel is launched, in one line that says what to install.
"""

MESSAGE = (
    "Triton is not installed: run `pip install triton` (it is for Linux, with or without a GPU), "
    "or open this lesson in Colab"
)


class TritonMissing(ImportError):
    """A kernel was launched, or a Triton function called, on a machine without Triton."""

    def __init__(self, name: str):
        super().__init__(f"cannot run {name}: {MESSAGE}")


class _Absent:
    """Any name of the absent package: it can be looked up, passed and annotated with, but not called."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> "_Absent":
        # Dunder names stay missing, so that copy, inspect and hasattr see an ordinary object.
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self._name}.{name}")

    def __call__(self, *args, **kwargs):
        raise TritonMissing(self._name)

    def __repr__(self) -> str:
        return f"<{self._name}: not installed>"


class Kernel:
    """A decorated kernel: keeps its Python function, raises at launch."""

    def __init__(self, fn):
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", "kernel")
        self.__doc__ = getattr(fn, "__doc__", None)
        self.__module__ = getattr(fn, "__module__", __name__)

    def __getitem__(self, grid):
        return self

    def __call__(self, *args, **kwargs):
        raise TritonMissing(self.__name__)

    run = warmup = __call__

    def __repr__(self) -> str:
        return f"<kernel {self.__name__}: Triton is not installed>"


def _decorator(*args, **kwargs):
    return lambda fn: fn if isinstance(fn, Kernel) else Kernel(fn)


class constexpr:
    """Annotation `BLOCK: tl.constexpr`, and the holder of a module's constant `BLOCK = tl.constexpr(128)`."""

    def __init__(self, value):
        self.value = value


class Config:
    """`triton.Config`: keeps what it was given."""

    def __init__(self, kwargs=None, **options):
        self.kwargs = dict(kwargs or {})
        self.__dict__.update(options)


class _Triton(_Absent):
    Config = Config
    autotune = staticmethod(_decorator)
    heuristics = staticmethod(_decorator)

    @staticmethod
    def jit(fn=None, **options):
        return _decorator() if fn is None else Kernel(fn)

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        return -(-a // b)

    @staticmethod
    def next_power_of_2(n: int) -> int:
        return 1 << max(n - 1, 0).bit_length()


class _Language(_Absent):
    constexpr = constexpr


tl = _Language("triton.language")
triton = _Triton("triton")
triton.language = tl
