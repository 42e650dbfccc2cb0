"""Routes for the people and machines that run the bridge."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from bridge.api.context import FromContext
from bridge.api.errors import ErrorBody
from bridge.api.health import stale_workers
from bridge.auth import check_token
from bridge.errors import NotSupported
from bridge.metrics import exposition

__all__ = ["router"]

router = APIRouter(tags=["operations"])

# for the OpenAPI description only: the header is read below, to answer in our words
_BEARER = HTTPBearer(auto_error=False, scheme_name="MetricsToken", description="PGCHECKOUT_METRICS_TOKEN")


class Health(BaseModel):
    """``ok``, or an error answer."""

    status: str = "ok"


class Readiness(Health):
    """``workers``: seconds since each was last seen, null when that is not known; ``stale``: those gone silent."""

    workers: dict[str, int] | None
    stale: list[str]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """The process is alive."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={status: {"model": ErrorBody} for status in (500, 503)})
async def readyz(context: FromContext) -> Readiness:
    """The database answers, is migrated, lets the bridge in and can be written. Silent workers do not change that:
    webhooks and buyers need this bridge all the more."""
    await context.rpc.check()
    health = await context.figures.read()
    workers = health["heartbeats"] if health else None
    return Readiness(workers=workers, stale=stale_workers(workers or {}))


async def _may_count(
    context: FromContext,
    _scheme: Annotated[object, Security(_BEARER)],
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> None:
    token = context.settings.metrics_token
    if token is None:
        if context.settings.environment == "development":
            return
        raise NotSupported("The metrics are closed.", "Set PGCHECKOUT_METRICS_TOKEN to open them.")
    check_token(authorization, token, "metrics")


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=[Depends(_may_count)],
    responses={status: {"model": ErrorBody} for status in (401, 404)},
)
async def metrics(context: FromContext) -> Response:
    """Prometheus text format. A database that is away leaves its figures out."""
    return Response(exposition(await context.figures.read()), media_type=CONTENT_TYPE_LATEST)
