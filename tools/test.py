#!/usr/bin/env python
"""Evaluate a checkpoint: `mmext test` from a checkout."""

import sys

from mmext.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['test', *sys.argv[1:]]))
