"""Named errors.

Each sentence says what was found, what is allowed, and what to change.
"""

__all__ = [
    "BootDeadlineExceeded",
    "ConfigurationError",
    "HealthError",
    "IllegalTransition",
    "InnerStartupFailed",
    "LoadError",
    "TargetError",
    "UnsupportedScope",
    "WarmupFailed",
]


class HealthError(Exception):
    """The base of every error that this package raises on purpose."""


class ConfigurationError(HealthError, ValueError):
    """A configuration value cannot work.

    Raised when the configuration is built, never later.
    """

    def __init__(self, *, option: str, found: object, allowed: str, change: str) -> None:
        super().__init__(f"{option} is {found!r}; allowed: {allowed}. {change}")
        self.option = option
        self.found = found


class IllegalTransition(HealthError):
    """An event arrived that the present phase does not allow."""

    def __init__(self, *, phase: str, event: str) -> None:
        super().__init__(
            f"event {str(event)!r} in phase {str(phase)!r}; allowed: the pairs in "
            f"phase.TRANSITIONS. Ask Lifecycle.can({str(event)!r}) first where it may come late."
        )
        self.phase = phase
        self.event = event


class UnsupportedScope(HealthError):
    """The server offers a protocol that nothing can answer yet."""

    def __init__(self, *, scope_type: str) -> None:
        super().__init__(
            f"scope type {scope_type!r} before the application is ready; allowed: http, websocket, "
            "lifespan. Offer it again when the service is ready."
        )


class LoadError(HealthError):
    """The application cannot be loaded.

    `code` is the public reason; the text is for the authorised only. Subclass it with a `code` of
    your own to name what went wrong, for example `env.invalid`.
    """

    code = "boot.error"


class TargetError(LoadError):
    """The name given to the gate leads to nothing that can serve."""

    code = "boot.target"

    def __init__(self, *, target: str, found: str) -> None:
        super().__init__(
            f"target {target!r} is {found}; allowed: 'module:function' that takes no argument and "
            "returns an ASGI application or a LoadedApp, 'module:application', or the dotted name "
            "of a Django settings module. Correct the name given to HealthGate."
        )


class BootDeadlineExceeded(LoadError):
    """The load took longer than `boot_deadline_s`."""

    code = "boot.deadline"

    def __init__(self, *, deadline_s: float, step: str | None) -> None:
        super().__init__(
            f"the application was not loaded within {deadline_s:g} s; the last step was {step!r}. "
            "The stacks of all threads are in the log. "
            "Make that step faster, or raise boot_deadline_s."
        )


class InnerStartupFailed(LoadError):
    """The inner application answered `lifespan.startup.failed`."""

    code = "boot.lifespan"

    def __init__(self, *, message: str) -> None:
        super().__init__(
            f"the application's own lifespan startup failed: {message or 'no message given'}"
        )


class WarmupFailed(LoadError):
    """The first request through the whole application did not give the expected answer."""

    code = "boot.warmup"

    def __init__(self, *, path: str, found: str, allowed: str) -> None:
        super().__init__(
            f"the warm-up request GET {path} gave {found}; allowed: {allowed}. "
            "A user's request would fare the same: read the log, or name another warm-up path."
        )
