"""Routes for the people and machines that run the bridge."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from bridge.api.context import FromContext
from bridge.api.errors import ErrorBody
from bridge.metrics import REGISTRY

__all__ = ["router"]

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """``ok``, or an error answer."""

    status: str = "ok"


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """The process is alive."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={status: {"model": ErrorBody} for status in (500, 503)})
async def readyz(context: FromContext) -> Health:
    """The database answers, is migrated and lets the bridge in."""
    await context.rpc.check()
    return Health()


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Prometheus text format."""
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
