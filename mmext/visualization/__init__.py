"""Pictures of a training: curves, and predictions beside the ground truth."""

from .curves import plot_curves
from .pictures import draw_predictions

__all__ = ['draw_predictions', 'plot_curves']
