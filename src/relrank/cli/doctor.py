"""The command that says what relrank finds on this machine."""
