"""Who runs the cells of a study: this process, several of this machine, or Ray."""
