"""The heterogeneous graph: relations, features, histories, propagation over it, and its form on disk."""
