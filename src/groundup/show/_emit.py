"""Where a figure goes: a page, a live kernel, Colab, or a plain script."""

import os
import sys

from groundup.show import style
from groundup.show._data import as_json, check_size, plain


def on_page() -> bool:
    """Whether a lesson is being executed for the website, where outputs are stored and no kernel follows."""
    return os.environ.get("GROUNDUP_PAGE") == "1"


def in_colab() -> bool:
    return "google.colab" in sys.modules


def in_kernel() -> bool:
    """Whether rich output can be displayed (a Jupyter kernel, not a terminal)."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def show_bundle(bundle: dict[str, object]) -> None:
    """Display a mime bundle; outside a kernel, print its plain text."""
    if not in_kernel():
        print(bundle["text/plain"])
        return
    from IPython.display import display

    display(bundle, raw=True)


def need_alt(alt: str) -> str:
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(
            "alt is empty: say in a sentence what the figure shows, for people who cannot see it"
        )
    return " ".join(alt.split())


def figure_json(fig, alt: str, remedy: str = "plot fewer points, or a summary of them") -> dict:
    """What is stored of a figure: its JSON with the alt text in layout.meta and the display's configuration.

    Raises:
        ValueError: empty alt text, or more than 150 kB.
    """
    alt = need_alt(alt)
    stored = as_json(fig)
    layout = stored.setdefault("layout", {})
    layout["template"] = {"layout": plain(style.layout())}
    layout["meta"] = (layout.get("meta") or {}) | {"alt": alt}
    stored["config"] = dict(style.CONFIG)
    check_size(stored, remedy)
    return stored


def bundle_of(stored: dict) -> dict[str, object]:
    """Mime bundle of a stored figure; Colab shows only the HTML."""
    alt = stored["layout"]["meta"]["alt"]
    bundle = {"application/vnd.plotly.v1+json": stored, "text/plain": f"Figure: {alt}"}
    if in_colab():
        bundle["text/html"] = html_of(stored)
    return bundle


def html_of(stored: dict) -> str:
    """A stored figure as an HTML fragment that draws itself with plotly.js from its public address."""
    import html

    import plotly.io as pio

    body = {key: stored[key] for key in ("data", "layout", "frames") if key in stored}
    drawn = pio.to_html(
        body,
        config=stored["config"],
        include_plotlyjs="cdn",
        full_html=False,
        auto_play=False,
        validate=False,
    )
    return f'<div role="img" aria-label="{html.escape(stored["layout"]["meta"]["alt"], quote=True)}">{drawn}</div>'
