#!/usr/bin/env python
"""Draw the data set "shapes": `mmext shapes` from a checkout."""

from mmext.cli.shapes import main

if __name__ == '__main__':
    main()
