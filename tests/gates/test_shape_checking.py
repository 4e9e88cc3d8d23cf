"""In the tests, every function of the generated library is checked against its annotated shapes."""

import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

SOURCE = """
import numpy as np
from jaxtyping import Float


def square(x: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n"]:
    return x[0]
"""


def test_a_wrong_shape_is_refused(tmp_path, monkeypatch):
    import groundup.autograd

    (tmp_path / "shape_probe.py").write_text(SOURCE)
    monkeypatch.setattr(groundup.autograd, "__path__", [*groundup.autograd.__path__, str(tmp_path)])
    from groundup.autograd import shape_probe

    monkeypatch.delitem(sys.modules, "groundup.autograd.shape_probe")

    assert shape_probe.square(np.ones((2, 2))).shape == (2,)
    with pytest.raises(TypeCheckError):
        shape_probe.square(np.ones((2, 3)))
