"""Hooks that watch training."""

from .channels_last_hook import ChannelsLastHook
from .check_hook import CheckHook
from .report_hook import ReportHook

__all__ = ['ChannelsLastHook', 'CheckHook', 'ReportHook']
