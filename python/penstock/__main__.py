"""`python -m penstock` is `penstock`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
