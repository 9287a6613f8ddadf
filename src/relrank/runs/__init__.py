"""A fitted model as a folder: saved, loaded, asked for lists, exported."""
