"""Hooks that watch training."""

from .check_hook import CheckHook
from .report_hook import ReportHook

__all__ = ['CheckHook', 'ReportHook']
