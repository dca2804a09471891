#!/usr/bin/env python
"""Train and evaluate a detector: `mmext train` from a checkout."""

from mmext.cli.train import main

if __name__ == '__main__':
    main()
