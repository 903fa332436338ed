"""Vector recall on a GPU: which index, how it is made, and one dispatcher for all callers."""
