#!/usr/bin/env python
"""Train and evaluate a detector: `mmext train` from a checkout."""

import sys

from mmext.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
