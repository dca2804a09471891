#!/usr/bin/env python
"""Compare configs over several seeds: `mmext compare` from a checkout."""

from mmext.cli.compare import main

if __name__ == '__main__':
    raise SystemExit(main())
