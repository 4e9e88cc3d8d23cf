"""Figures and widgets in one style.

Builders return plotly Figures: `lines`, `points`, `bars`, `heatmap`, `arrays`, `graph`. `figure` displays one;
`interactive`, `training` and `table` display what they make. plotly and NumPy are imported when first used.
"""

from groundup.show._emit import bundle_of, figure_json, show_bundle
from groundup.show.charts import bars, heatmap, lines, points
from groundup.show.control import interactive
from groundup.show.graphs import graph
from groundup.show.grids import arrays
from groundup.show.progress import training
from groundup.show.tables import table

__all__ = [
    "arrays", "bars", "figure", "graph", "heatmap", "interactive", "lines", "points", "table", "training",
]  # fmt: skip


def figure(fig, alt: str) -> None:
    """Display a plotly Figure. `alt` says in a sentence what it shows, for people who cannot see it.

    Raises:
        ValueError: empty alt text, or a figure of more than 150 kB.
    """
    show_bundle(bundle_of(figure_json(fig, alt)))
