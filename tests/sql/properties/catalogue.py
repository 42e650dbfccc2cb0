"""What the shop of the property test sells: every kind of product, every kind of coupon."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["COUPONS", "PRODUCTS", "Coupon", "Product"]


@dataclass(frozen=True)
class Product:
    """Prices in minor units; USD is the default."""

    id: str
    kind: str
    prices: dict[str, int]
    terms: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Coupon:
    """A percentage, or amounts in minor units per currency. No number of places: any number."""

    id: str
    percent_off: int | None = None
    amounts_off: dict[str, int] = field(default_factory=dict)
    places: int | None = None
    places_per_user: int | None = None


PRODUCTS = {
    product.id: product
    for product in (
        Product("coins", "credits", {"USD": 500, "NGN": 750_000}, {"credits": 100}),
        Product("pass", "subscription", {"USD": 1200}, {"tier": "pass", "period": "30 days"}),
        Product(
            "circle", "group_create", {"USD": 300},
            {"capacity": 2, "contribution_product": "dues", "join_product": "seat", "cycle": "1 month"},
        ),
        Product("seat", "group_join", {"USD": 300}),
        Product("dues", "contribution", {"USD": 700}),
        Product("poster", "none", {"USD": 333}),
    )
}  # fmt: skip

COUPONS = {
    coupon.id: coupon
    for coupon in (
        Coupon("HALF", percent_off=50, places=1),
        Coupon("ONCE", percent_off=33, places_per_user=1),
        Coupon("GIFT", percent_off=100, places=2),
        Coupon("OFF400", amounts_off={"USD": 400}),
    )
}
