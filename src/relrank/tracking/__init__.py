"""A study followed in MLflow while it runs."""
