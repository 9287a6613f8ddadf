"""Models that are solved, not trained: baselines, neighbours, linear models, graph filters."""
