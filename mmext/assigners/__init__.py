"""Label assigners; they need mmdet."""

from .sim_ota import BatchAssignment, BatchSimOTAAssigner

__all__ = ['BatchAssignment', 'BatchSimOTAAssigner']
