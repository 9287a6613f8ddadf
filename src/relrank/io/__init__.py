"""Files and folders that are there completely or not at all: atomic writes, manifests, locks, tensors."""
