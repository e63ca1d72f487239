"""The process environment, read once into a frozen, typed object.

Imports the standard library and `asgi_health` only: this runs before the first probe is answered.
"""

from project.env.environment import ROOT, Database, Env, InvalidEnvironment, current

__all__ = ["ROOT", "Database", "Env", "InvalidEnvironment", "current"]
