"""``python -m dszig_py`` is the ``dszig`` command."""

from __future__ import annotations

import sys

from dszig_py.cli import main

if __name__ == "__main__":
    sys.exit(main())
