"""Why a model recommends an item: paths, and the list without them."""
