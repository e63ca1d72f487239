"""Who uses the product: people with an e-mail address."""
