"""``python -m searchpipe``."""

from searchpipe.cli import main

main()
