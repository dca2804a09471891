"""Hooks that watch training, and keep it."""

from .channels_last_hook import ChannelsLastHook
from .check_hook import CheckHook
from .checkpoint_hook import CheckpointHook
from .report_hook import ReportHook
from .resume_hook import ResumeHook
from .termination_hook import TerminationHook

__all__ = ['ChannelsLastHook', 'CheckHook', 'CheckpointHook', 'ReportHook', 'ResumeHook', 'TerminationHook']
