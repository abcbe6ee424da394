"""Layout and printing of figures: each is laid out once, and drawn once for every file that is made of it."""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_PNG_DPI = 200


def print_figure(figure: Figure, target: Path | io.StringIO) -> None:
    """Draw a figure that is laid out into a file, PNG or SVG, or as a transparent SVG.

    `Figure.savefig` would draw it twice, the first time for layout engines.
    """
    resolution = figure.dpi
    try:
        if isinstance(target, Path) and target.suffix == ".png":
            figure.set_dpi(_PNG_DPI)
            FigureCanvasAgg(figure).print_png(target)
            return
        grounds = [figure.patch, *(axes.patch for axes in figure.axes)]
        seen = [ground.get_visible() for ground in grounds]
        for ground in grounds if isinstance(target, io.StringIO) else ():
            ground.set_visible(False)
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
        for ground, visible in zip(grounds, seen, strict=True):
            ground.set_visible(visible)
    finally:
        # Printing an SVG leaves its own resolution behind.
        figure.set_dpi(resolution)


def laid_out(figure: Figure) -> Figure:
    """The figure with its panels and their words fixed at the positions that the layout engine finds: they need not be
    found again each time that the figure is drawn."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # The last digits of the solver's result depend on the order of its variables, and file identifiers on the digits.
    for axes in figure.axes:
        left, low, width, height = np.round(axes.get_position().bounds, 5).tolist()
        axes.set_position((left, low, width, height))
        _fix_words(axes)
    return figure


def _fix_words(axes: Axes) -> None:
    """Keep the labels of a panel's axes where they are."""
    if not axes.get_visible():
        return
    for axis in (axes.xaxis, axes.yaxis):
        place = axis.label.get_transform().transform(axis.label.get_position())
        axis.set_label_coords(*axes.transAxes.inverted().transform(place))
