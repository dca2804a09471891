#!/usr/bin/env python
"""Class weights from a data set's counts: `mmext class-weights` from a checkout."""

from mmext.cli.class_weights import main

if __name__ == '__main__':
    main()
