"""Graph patterns, a page each; ``whet.agents.graphs.PATTERNS`` lists them."""
