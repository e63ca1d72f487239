"""What `python -m asgi_health` can do; one module a command."""
