"""What ``benchmarks/attack.py`` tries: a module per part, and what they share."""
