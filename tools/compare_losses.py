#!/usr/bin/env python
"""Compare configs over several seeds: `mmext compare` from a checkout."""

import sys

from mmext.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['compare', *sys.argv[1:]]))
