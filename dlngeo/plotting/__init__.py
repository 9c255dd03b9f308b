"""Figures: of what jobs return, and of geodesics, entropies and flows, each by one call.

Those of jobs take JSON-able results alone. The others take matrices, metrics and flows, and ``axes`` to draw into, and
return them. None touches the global state of pyplot. Curves are labelled beside themselves, in colours that eyes
without red or green, and grey prints, tell apart.
"""

from dlngeo.plotting.flows import plot_flows, plot_singular_values
from dlngeo.plotting.geodesics import plot_geodesics
from dlngeo.plotting.landscape import plot_landscape
from dlngeo.plotting.results import (
    compare_figure,
    comparison_figure,
    complete_figure,
    error_text,
    flow_figure,
    sample_figure,
)

__all__ = [
    "compare_figure",
    "comparison_figure",
    "complete_figure",
    "error_text",
    "flow_figure",
    "plot_flows",
    "plot_geodesics",
    "plot_landscape",
    "plot_singular_values",
    "sample_figure",
]
