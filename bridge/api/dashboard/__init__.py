"""The dashboard: what an operator sees and may do in a browser, on the same functions as the command line."""

from fastapi import APIRouter

from bridge.api.dashboard import acts, pages, visits

__all__ = ["router"]

router = APIRouter()
for module in (visits, acts, pages):  # in this order they are tried: pages ends with what nobody knows
    router.include_router(module.router)
