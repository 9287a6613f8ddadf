"""From tables to a graph: relations, features, texts and their vectors."""
