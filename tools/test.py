#!/usr/bin/env python
"""Evaluate a checkpoint: `mmext test` from a checkout."""

from mmext.cli.test import main

if __name__ == '__main__':
    main()
