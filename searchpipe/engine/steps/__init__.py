"""The factory's steps, one module each, in the order in which they run."""
