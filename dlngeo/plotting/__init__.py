"""Figures: of geodesics, entropies and flows, each by one call, and of what jobs return.

Those of jobs take JSON-able results alone. The others take matrices, metrics and flows, and ``axes`` to draw into, and
return them. None touches the global state of pyplot. Curves are labelled beside themselves, in colours that eyes
without red or green, and grey prints, tell apart.
"""

from dlngeo.plotting.flows import plot_flows, plot_singular_values
from dlngeo.plotting.geodesics import plot_geodesics
from dlngeo.plotting.landscape import plot_landscape
from dlngeo.plotting.results import compare_figure as compare_figure
from dlngeo.plotting.results import comparison_figure as comparison_figure
from dlngeo.plotting.results import complete_figure as complete_figure
from dlngeo.plotting.results import error_text as error_text
from dlngeo.plotting.results import flow_figure as flow_figure
from dlngeo.plotting.results import sample_figure as sample_figure

__all__ = ["plot_flows", "plot_geodesics", "plot_landscape", "plot_singular_values"]
