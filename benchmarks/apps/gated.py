"""Gates in front of the benchmarks' applications."""

from asgi_health import HealthConfig, HealthGate

heavy = HealthGate("heavy:app", config=HealthConfig())
light = HealthGate("three_lines:app", config=HealthConfig())
