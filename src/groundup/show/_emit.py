"""Where a figure goes: a page, a live kernel, Colab, or a plain script."""

import html
import json
import os
import sys
import uuid

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


# Moves a figure through its frames with the browser's own slider, which the keyboard can reach; plotly's cannot be.
CONTROL = """
const plot = document.getElementById("{plot_id}"), input = document.getElementById("{plot_id}-control");
const values = %s, said = input.nextElementSibling;
input.addEventListener("input", () => {
  said.textContent = values[input.value];
  input.setAttribute("aria-valuetext", values[input.value]);
  Plotly.animate(plot, [input.value], {mode: "immediate", frame: {duration: 0, redraw: true}, transition: {duration: 0}});
});
"""


def html_of(stored: dict) -> str:
    """A stored figure as an HTML fragment that draws itself with plotly.js from its public address (for Colab)."""
    import plotly.io as pio

    layout, alt = stored["layout"], html.escape(stored["layout"]["meta"]["alt"], quote=True)
    name, frames, control, script = f"figure-{uuid.uuid4().hex[:12]}", stored.get("frames"), "", None
    if frames:
        said, active = layout["meta"]["control"], layout["sliders"][0]["active"]
        low = {"height": layout["height"] - said["height"]}
        layout = {key: item for key, item in layout.items() if key != "sliders"} | low
        frames = [frame | {"layout": frame["layout"] | low} for frame in frames]
        shown = html.escape(said["values"][active])
        control = (
            f'<label style="order:1;display:flex;gap:.6em;align-items:center;font:14px sans-serif;color:{style.COLOURS["text"]}">{html.escape(said["label"])}'
            f'<input id="{name}-control" type="range" min="0" max="{len(frames) - 1}" step="1" value="{active}" '
            f'aria-valuetext="{shown}" style="flex:1;max-width:30em"><output>{shown}</output></label>'
        )
        script = CONTROL % json.dumps(said["values"]).replace("</", "<\\/")
    body = {"data": stored["data"], "layout": layout} | ({"frames": frames} if frames else {})
    drawn = pio.to_html(
        body,
        config=stored["config"],
        include_plotlyjs="cdn",
        full_html=False,
        auto_play=False,
        validate=False,
        div_id=name,
        post_script=script,
        default_height=f"{layout.get('height', style.HEIGHT)}px",
    )
    least = layout["meta"].get("min_width", 0)
    # The control comes first in the text, because plotly's script looks for it while the page is still being read.
    return (
        f'<div style="display:flex;flex-direction:column">{control}<div style="overflow-x:auto">'
        f'<div role="img" aria-label="{alt}" style="min-width:{least}px">{drawn}</div></div></div>'
    )
