"""``python -m tracegrad``: the command line."""

import sys

from tracegrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
