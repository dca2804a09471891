#!/usr/bin/env python
"""Class weights from a data set's counts: `mmext class-weights` from a checkout."""

import sys

from mmext.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['class-weights', *sys.argv[1:]]))
