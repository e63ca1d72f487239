"""Video projects and who owns them."""
