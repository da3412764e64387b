"""`python -m bulkfetch`: the command line."""

import sys

from bulkfetch.cli import main

if __name__ == "__main__":
    sys.exit(main())
