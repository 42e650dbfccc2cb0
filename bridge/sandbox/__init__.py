"""A payment provider with play money, for development: an API, a payment page, and signed webhooks.

It knows nothing of pgcheckout; ``bridge.providers.sandbox`` speaks to it as the other adapters speak to theirs.
"""
