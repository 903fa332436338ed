"""A pipeline whose snapshot, engines and settings are replaced while it answers.

::

    from searchpipe.live.pipeline import LivePipeline

    with LivePipeline.open("catalog/", "searchpipe.toml") as live:
        live.follow()  # what is published and promoted from now on is taken on
        page = live.search("hiking boots")
"""
