"""The Python face of the C++ scorer: engines on a GPU (or the host) serving many callers."""
