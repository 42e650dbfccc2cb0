"""The fault simulator: many purchases, everything that can go wrong with them, and a verdict on each.

``plan`` draws from a seed who buys what and what goes wrong; ``stage`` starts bridges and workers as processes of their
own on a ``database``; ``accounts`` are the providers, in this process, so that what they took is known; ``play`` lets
buyers buy while ``strikes`` kills things; ``ledger`` puts the providers' books beside the database's; ``verdict``
judges; ``display`` shows; ``run`` is all of it in order. docs/simulate.md says how to read the result.
"""
