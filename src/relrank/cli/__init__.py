"""The command line: a module for each group of commands, and what a terminal shows while they run."""
