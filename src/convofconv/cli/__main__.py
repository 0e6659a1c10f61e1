"""``python -m convofconv.cli``, for launchers such as torchrun."""

import sys

from .entry import main

sys.exit(main())
