"""Studies and models from data frames: ``rr.Study`` and ``rr.Estimator``."""
