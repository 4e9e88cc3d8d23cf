"""A training run's progress: nothing lost, whatever ends the run."""

import re
import sys

import numpy as np
import pytest
import torch

from groundup import show
from groundup.show import _emit, progress


@pytest.fixture
def shown(monkeypatch):
    """What a run displays."""
    bundles = []
    monkeypatch.setattr(progress, "show_bundle", bundles.append)
    return bundles


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setenv("GROUNDUP_PAGE", "1")


def series(bundle) -> dict:
    return {
        trace["name"]: (trace["x"], trace["y"]) for trace in bundle["application/vnd.plotly.v1+json"]["data"]
    }


def test_the_figure_holds_every_step(shown, page):
    with show.training(3, y="nats", alt="It falls.") as curve:
        curve.update(loss=3.0, val_loss=torch.tensor(3.5))
        curve.update(loss=torch.tensor([2.0], requires_grad=True))
        curve.update(loss=np.float32(1.0), val_loss=1.5)
    (bundle,) = shown
    assert series(bundle) == {"loss": ([1, 2, 3], [3, 2, 1]), "val_loss": ([1, 3], [3.5, 1.5])}
    layout = bundle["application/vnd.plotly.v1+json"]["layout"]
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == ("step", "nats")
    assert layout["meta"]["alt"] == "It falls."
    assert curve.history["loss"] == ([1, 2, 3], [3, 2, 1])


def test_a_page_stores_no_clock_and_writes_nothing_else(shown, page, capfd):
    with show.training(2, alt="alt") as curve:
        curve.update(loss=1)
    assert capfd.readouterr() == ("", "")
    assert not re.search(r"steps/s|s/step", str(shown))


def test_steps_may_be_named_and_metrics_may_be_called_step(shown, page):
    with show.training(100, alt="alt") as curve:
        curve.update(10, step=1.0)
        curve.update(step=2.0)
    assert series(shown[0]) == {"step": ([10, 11], [1, 2])}


@pytest.mark.parametrize("error", [RuntimeError("diverged"), KeyboardInterrupt(), SystemExit(1)])
def test_what_was_recorded_survives(shown, error, capsys):
    with pytest.raises(type(error)) as caught, show.training(100, alt="alt") as curve:
        curve.update(loss=2.0)
        raise error
    assert caught.value is error
    assert series(shown[0]) == {"loss": ([1], [2])}
    assert "1/100" in capsys.readouterr().err


def test_break_and_more_steps_than_promised(shown):
    with show.training(100, alt="alt") as curve:
        for _ in range(7):
            curve.update(loss=1.0)
            if curve.step == 5:
                break
    with show.training(1, alt="alt") as more:
        for _ in range(3):
            more.update(loss=1.0)
    assert len(series(shown[0])["loss"][0]) == 5 and len(series(shown[1])["loss"][0]) == 3


def test_nan_and_a_run_of_nothing(shown):
    with show.training(2, alt="alt") as curve:
        curve.update(loss=float("nan"))
        curve.update(loss=1.0)
    assert series(shown[0])["loss"][1] == [None, 1]
    with show.training(0, alt="alt"):
        pass
    assert len(shown) == 1, "no step, no figure"
    with pytest.raises(ValueError, match="steps is -1"):
        show.training(-1, alt="alt")


def test_a_wrong_value_is_refused_and_leaves_no_half_step(shown, page):
    with show.training(2, alt="alt") as curve:
        with pytest.raises(ValueError, match="loss must be one number, not Tensor"):
            curve.update(val_loss=1.0, loss=torch.zeros(3))
        curve.update(loss=1.0)
    assert series(shown[0]) == {"loss": ([1], [1])}


def test_a_figure_that_fails_does_not_hide_why_the_run_stopped(monkeypatch, page):
    monkeypatch.setattr(progress, "figure_json", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="diverged"), show.training(2, alt="alt") as curve:
        curve.update(loss=1.0)
        raise RuntimeError("diverged")
    with pytest.raises(ZeroDivisionError), show.training(2, alt="alt") as curve:
        curve.update(loss=1.0)


def test_a_long_run_fits(shown, page):
    losses = np.random.default_rng(0).normal(size=30_000)
    losses[12_345] = 50.0
    with show.training(len(losses), alt="alt") as curve:
        for loss in losses:
            curve.update(loss=loss)
    steps, values = series(shown[0])["loss"]
    assert len(steps) <= 1000 and values[steps.index(12_346)] == 50


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 0.01
        return self.now


def test_a_script_gets_one_line_on_stderr_at_most_five_times_a_second(shown, monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", Clock())
    draws = []
    draw = progress._Terminal.draw
    monkeypatch.setattr(progress._Terminal, "draw", lambda self: (draws.append(self.run.step), draw(self)))
    with show.training(500, alt="alt") as curve:
        for i in range(500):
            curve.update(loss=500 - i)
    out, err = capsys.readouterr()
    assert out == "" and "500/500" in err and "loss 1" in err and "steps/s" in err
    seconds = progress.time.now
    assert draws[0] == 0 and draws[-1] == 500 and 10 < len(draws) <= 5 * seconds + 2


class Handle:
    def __init__(self, bundles):
        self.bundles = bundles

    def update(self, bundle, raw):
        self.bundles.append(bundle)


def test_a_notebook_gets_bar_and_curve(shown, monkeypatch):
    import IPython.display

    live = []
    monkeypatch.setattr(progress, "in_kernel", lambda: True)
    monkeypatch.setattr(progress, "time", Clock())
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **_: live.append(bundle) or Handle(live))
    with pytest.raises(RuntimeError), show.training(100, alt="alt") as curve:
        for i in range(60):
            curve.update(loss=1 / (i + 1), val_loss=float("nan") if i % 2 else 2.0)
        raise RuntimeError
    assert "<progress" in live[0]["text/html"] and "0/100" in live[0]["text/plain"]
    assert 3 < len(live) < 60 and live[-2]["text/html"].count("<polyline") == 2
    assert (
        live[-1]["text/plain"].startswith("stopped at 60/100 steps · ")
        and "<svg" not in live[-1]["text/html"]
    )
    assert series(shown[0])["loss"][0] == list(range(1, 61))


def test_table(monkeypatch, capsys):
    bundles = []
    monkeypatch.setattr("groundup.show.tables.show_bundle", bundles.append)
    rows = [
        {"name": "<ours>", "ms": 1.23456, "n": 10_000},
        {"name": "theirs", "ms": torch.tensor(float("nan")), "note": None},
    ]
    show.table(rows, caption="A & B")
    html = bundles[0]["text/html"]
    assert "<caption>A &amp; B</caption>" in html and '<th scope="col"' in html and "&lt;ours&gt;" in html
    assert ">1.235<" in html and ">10,000<" in html and ">nan<" in html and html.count("<tr>") == 3
    assert 'style="text-align:right">1.235' in html and 'style="text-align:left">theirs' in html
    assert bundles[0]["text/plain"].splitlines()[:3] == [
        "A & B",
        "name       ms       n  note",
        "------  -----  ------  ----",
    ]
    show.table([])
    assert bundles[1]["text/html"].startswith("<table")


@pytest.mark.parametrize(
    ("values", "right"),
    [
        (["1,311 M", "124 M"], True),
        (["6.392 ± 0.018", "2.583", "—", "", None], True),
        (["2.22e+20", "", "0.2 ms", "3.1%", "0.21×", "<0.001", "−4", "+2.68%", "1.5 tokens/s"], True),
        (["GPT-2 124M", "RNN"], False),
        (["5", "no sheet"], False),
        (["—", ""], False),
        (["1 head, not 4"], False),
        ([True, False], False),
    ],
)
def test_columns_of_numbers_written_as_text_are_aligned_to_the_right(monkeypatch, values, right):
    bundles = []
    monkeypatch.setattr("groundup.show.tables.show_bundle", bundles.append)
    show.table([{"a column": value} for value in values])
    assert ("text-align:right" in bundles[0]["text/html"]) == right


KERNEL = """
import sys
from groundup import show
make = lambda n: show.bars({"a": n}, title=f"n = {n}")
#---
show.figure(show.lines({"a": [1, 2]}), "A line")
#---
show.table([{"a": 1}])
#---
with show.training(3, alt="It falls") as curve:
    for loss in (3, 2, 1): curve.update(loss=loss)
#---
show.interactive(make, [1, 2, 3], label="n", start=2, alt="A bar")
#---
slider = None
if "ipywidgets" in sys.modules:
    from ipywidgets import SelectionSlider, Widget
    from ipywidgets.widgets import widget
    instances = getattr(widget, '_instances', None) or Widget.widgets  # ipywidgets 8, 7
    slider = [w for w in instances.values() if isinstance(w, SelectionSlider)][0]
    slider.value = 2
"""


@pytest.mark.parametrize("page_mode", [False, True])
def test_in_a_real_kernel(page_mode, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    monkeypatch.setenv("GROUNDUP_PAGE", "1" if page_mode else "0")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source.strip()) for source in KERNEL.split("#---")]
    )
    client = NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute()
    _, figure, table, training, interactive, _ = (cell.outputs for cell in notebook.cells)
    plotly = "application/vnd.plotly.v1+json"
    assert [set(output.data) for output in figure] == [{plotly, "text/plain"}]
    assert (
        figure[0].data["text/plain"] == "Figure: A line"
        and figure[0].data[plotly]["layout"]["meta"]["alt"] == "A line"
    )
    assert [set(output.data) for output in table] == [{"text/html", "text/plain"}]
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.outputs)
    assert training[-1].data[plotly]["data"][0]["y"] == [3, 2, 1]
    if page_mode:
        assert len(training) == len(interactive) == 1
        assert len(interactive[0].data[plotly]["frames"]) == 3
        assert interactive[0].data[plotly]["layout"]["title"]["text"] == "n = 2"
    else:
        assert training[0].data["text/plain"].startswith("done: 3/3 steps · ") and len(training) == 2
        assert "application/vnd.jupyter.widget-view+json" in interactive[0].data
        # The slider was moved to its last value, and the figure followed.
        (drawn,) = (state["outputs"] for state in client.widget_state.values() if state.get("outputs"))
        figure = drawn[-1]["data"][plotly]
        assert figure["layout"]["title"]["text"] == "n = 3" and "sliders" not in figure["layout"]


def test_without_ipywidgets_the_slider_is_plotlys(monkeypatch):
    from groundup.show import control

    bundles = []
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(control, "in_kernel", lambda: True)
    monkeypatch.setattr(control, "show_bundle", bundles.append)
    show.interactive(lambda n: show.bars({"a": n}), [1, 2], label="n", alt="alt")
    assert len(bundles[0]["application/vnd.plotly.v1+json"]["frames"]) == 2


def test_a_terminal_is_no_kernel():
    assert not _emit.in_kernel()
