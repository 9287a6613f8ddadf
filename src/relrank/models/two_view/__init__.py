"""The two-view model: an item as what is written of it and as what it shares with others."""
