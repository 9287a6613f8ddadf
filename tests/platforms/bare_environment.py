"""An environment with few packages, simulated in one that has more: the others cannot be found."""

import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires


def name_of(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def closure(names):
    """Distributions, and all that they need without extras."""
    found, pending = set(), [name_of(name) for name in names]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            try:
                needed = requires(name) or ()
            except PackageNotFoundError:  # of another system
                continue
            pending += [name_of(line) for line in needed if "extra ==" not in line]
    return found


class BareFinder:
    """Finds modules like ``PathFinder``, but for those of distributions that are not allowed."""

    def __init__(self, names):
        allowed = closure(names)
        self.missing = {
            module
            for module, owners in packages_distributions().items()
            if not allowed & {name_of(owner) for owner in owners}
        }

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.missing else PathFinder.find_spec(name, path, target)

    def find_distributions(self, *args, **more):
        return PathFinder.find_distributions(*args, **more)

    def invalidate_caches(self):
        PathFinder.invalidate_caches()


def allow_only(names):
    """Let this process find only these distributions and what they need.

    Args:
        names: separated by commas.
    """
    finder = BareFinder(names.split(","))
    sys.meta_path[sys.meta_path.index(PathFinder)] = finder
