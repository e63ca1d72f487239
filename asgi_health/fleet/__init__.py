"""Several workers as one instance: one readiness, one boot, one stop."""
