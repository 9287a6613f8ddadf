"""Models that are trained on the edges of the graph: matrix factorisation, LightGCN, message passing."""
