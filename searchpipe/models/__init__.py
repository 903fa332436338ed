"""Models: where they come from, and the cache that holds them."""
