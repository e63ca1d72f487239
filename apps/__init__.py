"""The domains of the product; each imports `apps.core` and the domains below it."""
