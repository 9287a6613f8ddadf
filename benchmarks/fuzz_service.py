"""Ten thousand questions of every kind, well-formed and not, to the application: which statuses it answers with.

    python benchmarks/fuzz_service.py [--questions 10000]

The questions are those of tests/serve/questions.py, of which the test suite asks fewer. An answer of another shape
than the one that is promised, or an error of the server's own, ends this with the question. Needs the test
dependencies.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from hypothesis import HealthCheck, given, settings

TESTS = Path(__file__).parent.parent / "tests" / "serve"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=10_000)
    arguments = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    kinds = import_module("questions")
    app, statuses = kinds.application(), Counter[tuple[str, int]]()

    @settings(
        max_examples=arguments.questions,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(kinds.questions)
    def asked(question):  # type: ignore[no-untyped-def]
        first = question.path.split("/")[1]
        statuses[f"{question.method} /{first if first in kinds.ANSWERS else '…'}", kinds.check(app, question)] += 1

    began = time.perf_counter()
    asked()
    for (route, status), count in sorted(statuses.items()):
        print(f"{route:<20} {status} {count:6,}")
    print(f"{statuses.total():,} questions in {time.perf_counter() - began:.0f} s, none answered with 5xx")


if __name__ == "__main__":
    main()
