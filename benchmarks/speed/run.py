"""Everything that a user waits for, beside what they would use instead and what the machine can do, in one run.

    python benchmarks/speed/run.py [--only TASK ...] [--quick] [--budget SECONDS] [--json FILE] [--page]

Prints one table per task and writes ``docs/performance.json``, from which ``docs/performance.md`` and its plots come.
With --only, the other tasks' rows stay as they were; a quick run leaves ``docs`` alone. Peers are installed into
``benchmarks/.environments`` when first needed. Data sets are read from ``$RELRANK_DATA``; tasks that need them are
skipped with a word where it is not set.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # where the package "speed" lies
    from speed.bench import main

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peer of the moment ends too

    main()
