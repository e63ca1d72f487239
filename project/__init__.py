"""Wiring of the VideoPlanet backend: imports what lies below it, nobody imports it."""
