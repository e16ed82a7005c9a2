"""`python -m langchain_anyio`."""

from __future__ import annotations

import sys

try:
    from ._cli.command import main

    status: int = main()
except KeyboardInterrupt:  # while it was imported, which takes longest
    status = 130
sys.exit(status)
