"""Hooks that watch training, and keep it."""

from .check_hook import CheckHook
from .checkpoint_hook import CheckpointHook
from .report_hook import ReportHook
from .resume_hook import ResumeHook
from .termination_hook import TerminationHook

__all__ = ['CheckHook', 'CheckpointHook', 'ReportHook', 'ResumeHook', 'TerminationHook']
