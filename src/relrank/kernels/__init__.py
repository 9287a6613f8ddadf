"""Compiled loops and linear algebra, arrays in and arrays out: nothing here knows of graphs or models."""
