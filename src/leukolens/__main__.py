"""`python -m leukolens` does what `leukolens` does."""

from leukolens.cli import main

main()
