"""`python -m mmext` is `mmext`."""

import sys

from mmext.cli.main import main

sys.exit(main())
