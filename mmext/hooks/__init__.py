"""Hooks that watch training, and keep it."""

from .channels_last_hook import ChannelsLastHook
from .check_hook import CheckHook
from .checkpoint_hook import CheckpointHook
from .loss_monitor_hook import LossMonitorHook
from .outage_hook import OutageHook
from .report_hook import ReportHook
from .resume_hook import ResumeHook
from .summary_hook import SummaryHook
from .termination_hook import TerminationHook

__all__ = [
    'ChannelsLastHook',
    'CheckHook',
    'CheckpointHook',
    'LossMonitorHook',
    'OutageHook',
    'ReportHook',
    'ResumeHook',
    'SummaryHook',
    'TerminationHook',
]
