"""Models that read histories in time order."""
