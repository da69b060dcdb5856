"""`python -m raydistill`."""

from raydistill.cli import entry

entry()
