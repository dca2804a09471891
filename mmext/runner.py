"""mmengine's runner with a console for people."""

from mmengine.logging import MMLogger
from mmengine.runner import Runner as BaseRunner

from mmext.console import tidy


class Runner(BaseRunner):
    """mmengine's Runner with its arguments, whose console shows what a user needs; the log file has everything."""

    def build_logger(self, *args: object, **kwargs: object) -> MMLogger:
        """Build the logger, and tidy its console."""
        logger = super().build_logger(*args, **kwargs)
        tidy(logger)
        return logger
