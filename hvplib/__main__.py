"""`python -m hvplib`: the command line."""

import sys

from hvplib.cli import main

sys.exit(main())
