"""Pictures of a training, curves and predictions beside the ground truth; and the curves of the losses."""

from .curves import plot_curves
from .loss_curves import plot_loss
from .pictures import draw_predictions

__all__ = ['draw_predictions', 'plot_curves', 'plot_loss']
