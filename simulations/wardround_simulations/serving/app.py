"""The HTTP interface to one model: what is asked, what is refused, what is answered.

Inputs are patients' files. They are never logged, lie in a folder of this process alone while they
are read, and are gone before the answer is sent.
"""

import hmac
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware

from wardround_shared import __version__
from wardround_shared.errors import WardroundError
from wardround_simulations.prediction.output import Answers, as_json

LARGEST_INPUT = 256 * 2**20
"""Bytes of one input."""

# What an input is, told by the end of its name as everywhere; nothing else of it is used.
_ENDINGS = r"^\.?(dcm|dicom|ima|png|jpg|jpeg|csv|npz|edf|nii|nii\.gz|json|ndjson)$"
_COLUMN = "column."


class Predicts(Protocol):
    """What is asked; `Predictor` in life."""

    about: dict[str, Any]
    card: Path | None

    def ask(self, inputs: list[Path], *, columns: Mapping[str, str]) -> Answers:
        """What the model says of these files, with the cells of columns beside them."""
        ...


def build_app(
    model: Predicts, *, hosts: tuple[str, ...], token: str | None, largest: int = LARGEST_INPUT
) -> FastAPI:
    """The interface; its description is at `/openapi.json`.

    Args:
        model: is asked one input at a time.
        hosts: names under which this is reached; a request for any other is refused, so that no
            page in a browser can reach it by a name of its own (DNS rebinding).
        token: who asks has to bring it as a bearer token (RFC 6750); None for everybody.
        largest: bytes of one input.
    """
    app = FastAPI(
        title=f"Wardround: {model.about['study']}",
        version=__version__,
        description="A model learned across hospitals. It is no medical device.",
        # Those pages would load a stranger's script into the origin of patients' data.
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_no_page)],
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)
    guarded = [Depends(_bearer(token))] if token is not None else []
    one_at_a_time = threading.Lock()

    @app.get("/health", summary="Whether it is ready, and which model it has.")
    def health() -> dict[str, str]:
        return {
            "status": "ready",
            "study": model.about["study"],
            "study_id": model.about["study_id"],
            "version": __version__,
        }

    @app.get(
        "/card",
        summary="What the model is for, how good it is, what it is not for.",
        response_class=PlainTextResponse,
        dependencies=guarded,
    )
    def card() -> str:
        if model.card is None:
            raise HTTPException(404, "This run has no model card.")
        return model.card.read_text(encoding="utf-8")

    @app.post(
        "/predict",
        summary="Ask about one file, sent as the body of the request.",
        description="Columns that the study has beside an image or a recording are given as "
        "parameters of their own, such as column.age=63.",
        dependencies=guarded,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"format": "binary"}}},
            }
        },
    )
    async def predict(
        request: Request,
        kind: Annotated[
            str, Query(pattern=_ENDINGS, description="What the file is: dcm, png, csv, ...")
        ],
    ) -> dict[str, Any]:
        columns = _columns(request)
        body = await _body(request, largest)

        def ask() -> dict[str, Any]:
            with one_at_a_time:
                return _asked(model, body, kind.lstrip("."), columns)

        return await run_in_threadpool(ask)

    return app


def _columns(request: Request) -> dict[str, str]:
    """Cells by column; a parameter that is neither a column nor `kind` would have no effect."""
    if any(name != "kind" and not name.startswith(_COLUMN) for name in request.query_params):
        raise HTTPException(422, "The parameters are kind, and column.NAME for each column.")
    given = [
        (name.removeprefix(_COLUMN), cell)
        for name, cell in request.query_params.multi_items()
        if name.startswith(_COLUMN)
    ]
    if len({name for name, _ in given}) < len(given):
        raise HTTPException(422, "A column is given twice.")
    return dict(given)


def _asked(model: Predicts, body: bytes, ending: str, columns: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="wardround-") as folder:  # 0700
        file = Path(folder) / f"input.{ending}"
        file.write_bytes(body)
        try:
            answer = as_json(model.ask([file], columns=columns))
        except WardroundError as error:
            raise HTTPException(422, str(error).replace(f"{folder}/", "")) from None
    if not answer["predictions"]:
        why = {one["why"] for one in answer["failed"]} or {"there is no example in it"}
        raise HTTPException(422, f"The input cannot be used: {'; '.join(sorted(why))}.")
    for one in (*answer["predictions"], *answer["failed"]):
        one["input"] = one["input"].replace(f"{folder}/", "")
    # Where things lie on this machine is nobody's business.
    run, there = Path(answer["run"]).name, model.card is not None
    return answer | {"run": run, "model_card": "/card" if there else None, "notes": []}


async def _body(request: Request, largest: int) -> bytes:
    """The body, as long as it is not too large: that is told before all of it is there."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise HTTPException(413, f"An input may have {largest} bytes at most.")
        parts.append(part)
    return b"".join(parts)


def _no_page(request: Request) -> None:
    """Refuse what a page in a browser asks: any page could, without being able to read answers."""
    site = request.headers.get("sec-fetch-site", "none")
    if "origin" in request.headers or site not in {"none", "same-origin"}:
        raise HTTPException(403, "A page in a browser may not ask this server.")


def _bearer(token: str) -> Any:
    scheme = HTTPBearer(auto_error=False)

    def require(given: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]) -> None:
        told = "" if given is None else given.credentials
        if not hmac.compare_digest(told.encode(), token.encode()):
            raise HTTPException(
                401, "Bring the token of this server.", headers={"WWW-Authenticate": "Bearer"}
            )

    return require
