"""`python -m baseload`: the command line."""

import sys

from baseload.cli import main

sys.exit(main())
