"""Graph patterns, a page each: ``react``, ``refine`` and ``best_of_n``."""
