"""`python -m leukolens` does what `leukolens` does."""

import sys

from leukolens.cli import main

sys.exit(main())
