"""`python -m csd3d` is `csd3d`."""

import sys

from csd3d.cli.main import main

sys.exit(main())
