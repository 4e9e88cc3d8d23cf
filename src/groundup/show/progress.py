"""The curve of a training run: progress while it runs, one figure at its end."""

import html
import math
import sys
import time

from groundup.show import style
from groundup.show._data import plain, thin
from groundup.show._emit import bundle_of, figure_json, in_kernel, need_alt, on_page, show_bundle
from groundup.show.charts import lines

EVERY = 0.2  # least seconds between two redraws


class Training:
    """Context manager made by `training`. `history` is name → (steps, values)."""

    def __init__(self, steps: int, *, x: str, y: str, alt: str):
        self.steps, self.x, self.y, self.alt = steps, x, y, need_alt(alt)
        self.step = 0
        self.history: dict[str, tuple[list[int], list[float]]] = {}
        self._bar = None
        self._started = self._drawn = time.monotonic()

    def __enter__(self) -> "Training":
        self._started = self._drawn = time.monotonic()
        if not on_page():
            self._bar = _Notebook(self) if in_kernel() else _Terminal(self)
            self._bar.draw()
        return self

    def update(self, step: int | None = None, /, **values) -> None:
        """Record one step: `curve.update(loss=loss, val_loss=val)`; a value may be left out at most steps.

        Values are numbers or one-element arrays and tensors. `step` counts from 1 and is by default the next one.
        """
        numbers_now = {name: _number(name, value) for name, value in values.items()}
        self.step = self.step + 1 if step is None else int(step)
        for name, number in numbers_now.items():
            steps, numbers = self.history.setdefault(name, ([], []))
            steps.append(self.step)
            numbers.append(number)
        now = time.monotonic()
        if self._bar is not None and now - self._drawn >= EVERY:
            self._drawn = now
            self._bar.draw()

    def figure(self):
        """The curves recorded so far, as a plotly Figure."""
        return lines(self.history, x=self.x, y=self.y)

    def latest(self) -> str:
        return " · ".join(f"{name} {numbers[-1]:.4g}" for name, (_, numbers) in self.history.items())

    def rate(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        per_second = self.step / seconds
        return (
            f"{per_second:.3g} steps/s"
            if per_second >= 1 or not self.step
            else f"{1 / per_second:.3g} s/step"
        )

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self._bar is not None:
                self._bar.close(stopped=kind is not None)
            if self.history:
                show_bundle(bundle_of(figure_json(self.figure(), self.alt)))
        except Exception:
            # The run's own exception is the news; a drawing that fails after it must not take its place.
            if kind is None:
                raise


def _number(name: str, value) -> float:
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be one number, not {type(value).__name__}") from error


def training(steps: int, *, x: str = "step", y: str = "loss", alt: str) -> Training:
    """Progress bar and live curve of a training run of `steps` steps, for use in a `with`; one figure at its end.

    In a notebook both are redrawn at most five times a second; in a script the bar is on stderr; when a lesson is
    executed for the website only the figure is stored. After an exception the figure shows what was recorded.

    Raises:
        ValueError: empty alt text, or steps < 0.
    """
    if steps < 0:
        raise ValueError(f"steps is {steps}, but a run cannot have fewer than 0")
    return Training(steps, x=x, y=y, alt=alt)


class _Terminal:
    """One line on stderr, drawn by rich."""

    def __init__(self, run: Training):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.run = run
        self.progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}  {task.fields[latest]}"),
            console=Console(file=sys.stderr),
            auto_refresh=False,
        )
        self.task = self.progress.add_task("", total=run.steps, rate="", latest="")
        self.progress.start()

    def draw(self) -> None:
        self.progress.update(
            self.task, completed=self.run.step, rate=self.run.rate(), latest=self.run.latest()
        )
        self.progress.refresh()

    def close(self, stopped: bool) -> None:
        self.draw()
        self.progress.stop()


class _Notebook:
    """A bar, the latest values and the curve as HTML with inline SVG: light enough to redraw while training."""

    def __init__(self, run: Training):
        from IPython.display import display

        self.run = run
        self.shown = display(self._bundle(), raw=True, display_id=True)

    def draw(self) -> None:
        self.shown.update(self._bundle(), raw=True)

    def close(self, stopped: bool) -> None:
        self.shown.update(self._bundle(final="stopped at" if stopped else "done:"), raw=True)

    def _bundle(self, final: str = "") -> dict[str, str]:
        run = self.run
        words = [f"{final} {run.step}/{run.steps} steps".strip(), run.rate(), run.latest()]
        text = " · ".join(word for word in words if word)
        bar = f'<progress max="{max(run.steps, 1)}" value="{min(run.step, run.steps)}" aria-label="training"></progress>'
        curve = "" if final else _svg(run.history)
        return {"text/html": f"<div>{bar} {html.escape(text)}</div>{curve}", "text/plain": text}


def _svg(history: dict, width: int = 640, height: int = 200) -> str:
    """The curves so far, scaled to fill a box; the final figure has the axes."""
    curves = {name: thin(*pair, 300) for name, pair in history.items()}
    known = [(x, y) for xs, ys in curves.values() for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    if len(known) < 2:
        return f'<svg viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px" aria-hidden="true"></svg>'
    left, right = min(x for x, _ in known), max(x for x, _ in known)
    low, high = min(y for _, y in known), max(y for _, y in known)

    def point(x: float, y: float) -> str:
        return (
            f"{8 + (width - 16) * (x - left) / ((right - left) or 1):.1f},"
            f"{height - 8 - (height - 16) * (y - low) / ((high - low) or 1):.1f}"
        )

    parts = []
    for i, (xs, ys) in enumerate(curves.values()):
        colour = style.COLOURS[style.SERIES[i % len(style.SERIES)]]
        dots = " ".join(point(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y))
        dash = "" if i == 0 else ' stroke-dasharray="6 4"'
        parts.append(f'<polyline points="{dots}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    ends = f'<text x="8" y="14" font-size="12" fill="{style.COLOURS["text"]}">{plain(high)}</text>'
    ends += f'<text x="8" y="{height - 12}" font-size="12" fill="{style.COLOURS["text"]}">{plain(low)}</text>'
    box = f'viewBox="0 0 {width} {height}" style="width:100%;max-width:{width}px" aria-hidden="true"'
    return f"<svg {box}>{''.join(parts)}{ends}</svg>"
