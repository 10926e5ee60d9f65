"""`python -m csd3d`: the `csd3d` command."""

import sys

from csd3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
