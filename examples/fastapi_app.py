"""A FastAPI service of a few lines: ``await pipeline.asearch`` on the pipeline's own threads.

Try it with ``SEARCHPIPE_SNAPSHOT=catalog/ uvicorn examples.fastapi_app:app``. ``searchpipe serve`` is the
same with limits, shedding, health, metrics and a search page.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request

import searchpipe
from searchpipe.errors import OverloadedError, QueryError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open when the server starts, close when it ends."""
    snapshot, config = os.environ["SEARCHPIPE_SNAPSHOT"], os.environ.get("SEARCHPIPE_CONFIG")
    with searchpipe.Pipeline.open(snapshot, config) as pipeline:
        pipeline.warm_up()
        app.state.pipeline = pipeline
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/search")
async def search(request: Request, q: str, k: int = 10) -> dict[str, Any]:
    """``GET /search?q=red+shoes&k=10``."""
    try:
        page: searchpipe.Page = await request.app.state.pipeline.asearch(q, k)
    except QueryError as error:
        raise HTTPException(400, str(error)) from error
    except OverloadedError as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
    return page.to_dict()
