"""python -m kdlib.corpora [--check]: see `build`."""

import sys

from .build import main

sys.exit(main())
