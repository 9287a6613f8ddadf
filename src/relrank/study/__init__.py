"""A study: what is compared, which cells that takes, how they are tuned and run, and what they show."""
