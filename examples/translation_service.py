"""A web service that translates for many clients at once through one session, in batches that they share.

    pip install edgewise starlette uvicorn
    uvicorn translation_service:app

``GET /translate?text=A+dog+runs.`` answers with server-sent events: every ``data:`` line is a JSON string, a piece of
the translation as it comes, and ``event: end`` follows the last. A client joins the batch that is under way, whoever
else is in it, and leaves it when its text is done; one that goes away ends its decoding.
``POST /translate`` with ``{"texts": [...]}`` answers with all translations at once; these are a batch of their own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import edgewise
from edgewise.errors import EdgewiseError, InputError

MOST_TEXTS = 64


@contextlib.asynccontextmanager
async def opened(app: Starlette) -> AsyncIterator[None]:
    """One session for all requests; each worker has a batch, whose engine calls use one thread."""
    with edgewise.load(threads=1) as session:
        async with edgewise.AsyncSession(session) as app.state.translator:
            yield


async def stream(request: Request) -> Response:
    """Answer with the pieces of one translation."""
    pieces = request.app.state.translator.stream(request.query_params.get("text", ""))
    try:
        first = await anext(pieces, None)  # what is wrong with the text is known now, before the status is sent
    except EdgewiseError as error:
        return refused(error)

    async def events() -> AsyncIterator[str]:
        async with contextlib.aclosing(pieces):
            piece = first
            try:
                while piece is not None:
                    yield f"data: {json.dumps(piece)}\n\n"
                    piece = await anext(pieces, None)
            except EdgewiseError as error:
                yield f"event: error\ndata: {json.dumps(str(error))}\n\n"
                return
            yield "event: end\ndata:\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def refused(error: EdgewiseError) -> Response:
    """What was asked is the client's fault, what the engine does the server's."""
    return JSONResponse({"error": str(error)}, status_code=400 if isinstance(error, InputError) else 500)


async def translate(request: Request) -> Response:
    """Answer with the translations of several texts."""
    try:
        texts = (await request.json())["texts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return JSONResponse({"error": f'expected {{"texts": [...]}}: {error}'}, status_code=400)
    if not isinstance(texts, list) or len(texts) > MOST_TEXTS:
        return JSONResponse({"error": f"texts must be a list of at most {MOST_TEXTS}"}, status_code=400)
    try:
        found = await request.app.state.translator.translate(texts)
    except EdgewiseError as error:
        return refused(error)
    return JSONResponse({"translations": [generation.text for generation in found]})


app = Starlette(
    routes=[Route("/translate", stream), Route("/translate", translate, methods=["POST"])],
    lifespan=opened,
)
