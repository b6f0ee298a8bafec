"""``python -m circuitkit``, and the ``circuitkit`` command."""

from __future__ import annotations

import sys

from circuitkit.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
