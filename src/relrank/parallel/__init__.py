"""Threads, memory and process groups of the machine."""
