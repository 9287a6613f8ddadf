"""Two studies side by side."""
def compare_studies(a, b, names): return {}
