"""The factory's steps, one a module."""
