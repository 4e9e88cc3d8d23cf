"""Deep Learning from the Ground Up: the library that its learners write, and the autograder that checks it.

`from groundup import lesson` opens a lesson's checks; `from groundup.autograd import Value` is what the lessons build.
"""

from groundup.run.interpret import prepare_triton as _prepare_triton

# Before anything imports Triton: without an NVIDIA driver, kernels run in its interpreter.
_warning = _prepare_triton()
if _warning:
    import warnings

    warnings.warn(_warning, stacklevel=2)

__all__ = ["lesson"]


def __getattr__(name: str) -> object:
    if name == "lesson":
        from groundup.check import lesson

        return lesson
    if name == "__version__":
        from importlib.metadata import version

        return version("groundup")
    raise AttributeError(f"module 'groundup' has no attribute {name!r}")
