"""Gunicorn's hooks: one boot, one readiness, one stop for all workers.

Only public hooks are used (https://docs.gunicorn.org/en/stable/settings.html#server-hooks). A
configuration file runs again on HUP, so what must survive stands in this module, once a process.
"""

import logging
import os
import resource
import signal
import sys
import traceback
from functools import partial
from types import FrameType
from typing import Any

from asgi_health.adapters.systemd import Notifier
from asgi_health.errors import ConfigurationError
from asgi_health.fleet.alarm import Alarm
from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.draining import MasterDrain, release_stop_signals
from asgi_health.fleet.folder import end_instance, name_instance
from asgi_health.fleet.master import Master
from asgi_health.fleet.masterboard import Stage
from asgi_health.fleet.scoreboard import WORKERS_MAX
from asgi_health.gate import HealthGate

__all__ = ["EXIT_CRASH_LOOP", "Hooks"]

_log = logging.getLogger("asgi_health.fleet")

EXIT_CRASH_LOOP = 5
"""Of the server, when workers die again and again and `on_crash_loop` is `exit`."""

_READY_LOOK_S = 0.1
_BOOT_MARGIN_S = 10.0


class _Process:
    """What outlives a configuration: the master of this process, once it has one."""

    master: Master | None = None
    drain: MasterDrain | None = None
    notifier = Notifier("")


class Hooks:
    """Name each in the configuration file: `when_ready = hooks.when_ready`, and so on.

    An application that is no HealthGate is served as Gunicorn does without them.
    """

    def __init__(self, config: FleetConfig) -> None:
        self.config = config

    def on_starting(self, server: Any) -> None:
        """Before the port is bound."""
        _log_like_gunicorn(server.log.error_log)
        _raise_descriptor_limit()
        name_instance()
        _Process.notifier = Notifier.take(os.environ)

    def when_ready(self, server: Any) -> None:
        """The port is bound, no worker is forked: load, or say why each worker will."""
        gate = _entry_point(server)
        if gate is None:
            return
        if server.num_workers > WORKERS_MAX:
            _refuse(server)
        obstacle = self._obstacle(server)
        if obstacle is not None:
            _log.info("each worker loads for itself: %s", obstacle)
        master = _Process.master = Master(self.config, is_warm=obstacle is None)
        master.board.workers_wanted = server.num_workers
        master.board.was_complete = _is_upgrade()
        limit_s = gate.config.boot_deadline_s + gate.config.failed_linger_s + _BOOT_MARGIN_S
        _Process.notifier.loading(limit_s=limit_s)
        notify = _Process.notifier.stopping
        _Process.drain = MasterDrain(master.board, alarm=master.alarm, on_drain=notify)
        _Process.drain.install()  # before the load, which puts its own handlers in front
        if master.board.is_warm:
            self._load(server, gate, master)
        _watch_children(server, master)
        if _Process.notifier.is_active:
            _notify_when_ready(master)

    def on_reload(self, server: Any) -> None:
        """HUP: the configuration has been read again."""
        if _Process.master is not None:
            _Process.master.reconfigure(self.config, workers=server.num_workers)

    def nworkers_changed(self, server: Any, new_value: int, _old_value: int | None) -> None:
        """TTIN, TTOU, or the configuration."""
        if _Process.master is None:
            return
        if new_value > WORKERS_MAX:
            _log.error("%d workers are wanted, allowed are %d", new_value, WORKERS_MAX)
            server.num_workers = WORKERS_MAX  # which calls this once more
        else:
            _Process.master.board.workers_wanted = new_value

    def pre_fork(self, _server: Any, worker: Any) -> None:
        """In the master: a worker is about to be forked."""
        if _Process.master is not None:
            _Process.master.board.others_serve = _is_upgrade()
            _Process.master.reserve(worker.age)

    def post_fork(self, _server: Any, worker: Any) -> None:
        """In the worker: what belongs to the master's process is the master's."""
        Alarm.forget()
        if _Process.master is not None:
            _Process.master.pin(worker.age)
        if _Process.drain is not None:
            _Process.drain.keep_for_worker()

    def post_worker_init(self, worker: Any) -> None:
        """In the worker: the entry point is imported, the server has not started."""
        gate, master = _gate_of(worker), _Process.master
        if master is None or gate is None:
            release_stop_signals()
            return
        is_uvicorn = _is_uvicorn(worker)
        seat = master.seat(worker.age)
        gate.take_seat(seat, drains=is_uvicorn)
        if not is_uvicorn:
            release_stop_signals()
            return
        from asgi_health.adapters.uvicorn import Post, Worker, serve_in_fleet  # noqa: PLC0415 - not every server has it

        post = Post(
            gate=gate,
            seat=seat,
            handover=master.handover,
            requests_max=worker.max_requests,
            master=worker.ppid,
            graceful_s=worker.cfg.graceful_timeout,
        )
        if isinstance(worker, Worker):
            worker.post = post
        else:  # stock looks its own method up at the instance
            worker._serve = partial(serve_in_fleet, worker, post)  # noqa: SLF001

    def worker_exit(self, server: Any, worker: Any) -> None:
        """In the worker, at its end: keep the traceback that ends it."""
        if worker.ppid == os.getpid():  # in the master: somebody else has reaped this worker
            self.child_exit(server, worker)
            return
        gate, raised = _gate_of(worker), _raised(sys.exc_info()[1])
        seat = None if gate is None else gate.seat
        if seat is not None and raised is not None:
            seat.leave_words("".join(traceback.format_exception(raised)))

    def child_exit(self, _server: Any, worker: Any) -> None:
        """In the master: a worker has ended."""
        master = _Process.master
        if master is None:
            return
        master.bury(worker.pid, generation=worker.age, aborted=worker.aborted)
        is_over = master.is_looping and master.board.stage is Stage.SERVING
        if is_over and master.board.config.on_crash_loop == "exit":
            master.board.stage = Stage.STOPPING
            from gunicorn.errors import HaltServer  # noqa: PLC0415 - values need no Gunicorn

            raise HaltServer("fleet.crash_loop: workers die again and again", EXIT_CRASH_LOOP)

    def _obstacle(self, server: Any) -> str | None:
        """Why there is no warm boot; None when there is."""
        obstacles = {
            "WARM_BOOT is off": not self.config.warm_boot,
            "a responder needs Linux": not sys.platform.startswith("linux"),
            "the listeners speak TLS": server.cfg.is_ssl,
            "the listeners speak the PROXY protocol": _speaks_proxy_protocol(server.cfg),
            "reuse_port gives each worker a listener of its own": server.cfg.reuse_port,
            "only Uvicorn's workers can take connections over": not _is_uvicorn(
                server.worker_class
            ),
        }
        return next((reason for reason, holds in obstacles.items() if holds), None)

    def _load(self, server: Any, gate: HealthGate, master: Master) -> None:
        from asgi_health.fleet.warm import WarmBoot  # noqa: PLC0415 - needs Linux

        boot = WarmBoot(
            gate,
            board=master.board,
            listeners=[] if _is_upgrade() else [listener.sock for listener in server.LISTENERS],
            takers=max(1, server.num_workers),
            on_stop=lambda _code: _clean_up(server),
            prepare=_import_server,
        )
        master.handover = boot.run()


def _refuse(server: Any) -> None:
    """Gunicorn writes the sentence and ends with 1."""
    found = ConfigurationError(
        option="workers",
        found=server.num_workers,
        allowed=f"at most {WORKERS_MAX}",
        change="Set WEB_CONCURRENCY, or `workers`.",
    )
    _clean_up(server)
    raise RuntimeError(str(found)) from found


def _entry_point(server: Any) -> HealthGate | None:
    """The gate; None when there is none, or when it cannot be imported: the worker says why."""
    try:
        app = server.app.wsgi()
    except BaseException as error:  # noqa: BLE001 - Gunicorn reports it, once, from a worker
        _log.debug("the entry point cannot be imported: %r", error)
        return None
    if not isinstance(app, HealthGate):
        _log.warning("the application is a %s, no HealthGate: no hooks", type(app).__name__)
        _Process.notifier.ready()  # as Gunicorn says it, when the port is open
        return None
    return app


def _gate_of(worker: Any) -> HealthGate | None:
    """What a worker serves, which Gunicorn's own `asgi` worker keeps under another name."""
    apps = (getattr(worker, name, None) for name in ("wsgi", "asgi"))
    return next((app for app in apps if isinstance(app, HealthGate)), None)


def _is_upgrade() -> bool:
    """Whether the master that started this one, by USR2, still lives: its workers serve."""
    return "GUNICORN_PID" in os.environ


def _is_uvicorn(worker: Any) -> bool:
    """Whether this worker (or class) is one of Uvicorn's for Gunicorn."""
    kinds = worker.__mro__ if isinstance(worker, type) else type(worker).__mro__
    return any(kind.__name__ == "UvicornWorker" for kind in kinds)


def _speaks_proxy_protocol(config: Any) -> bool:
    return str(config.proxy_protocol).lower() not in {"false", "off", "none"}


def _import_server() -> None:
    """Import what Uvicorn picks when a worker starts; what is imported here is shared."""
    from uvicorn.config import Config  # noqa: PLC0415 - only where workers are Uvicorn's

    import asgi_health.adapters.uvicorn  # noqa: PLC0415

    config = Config(app=asgi_health.adapters.uvicorn.Worker, log_config=None)
    config.load()
    config.get_loop_factory()


def _raised(error: BaseException | None) -> BaseException | None:
    """What ended a worker: Gunicorn makes an exit code of every exception but SystemExit."""
    if not isinstance(error, SystemExit):
        return error
    return error.__context__ or (error if error.code else None)


def _clean_up(server: Any) -> None:
    """What Gunicorn does at its end, for an end before it began."""
    _Process.notifier.stopping()
    end_instance()
    server.stop()
    if server.pidfile is not None:
        server.pidfile.unlink()


def _watch_children(server: Any, master: Master) -> None:
    """See how a worker ended, before Gunicorn reaps it and throws that away."""
    previous = signal.getsignal(signal.SIGCHLD)

    halting = {server.WORKER_BOOT_ERROR, server.APP_LOAD_ERROR}

    def child(number: int, frame: FrameType | None) -> None:
        ended = master.watch(list(server.WORKERS))
        if any(ending.exit_code in halting for ending in ended):
            master.board.stage = Stage.STOPPING  # Gunicorn stops on these, and tells no hook
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGCHLD, child)


def _notify_when_ready(master: Master) -> None:
    """Tell systemd once the instance is ready; asked ten times a second until then."""
    if master.is_ready():
        _Process.notifier.ready()
    elif master.board.stage is Stage.SERVING:
        master.alarm.after(_READY_LOOK_S, partial(_notify_when_ready, master))


def _raise_descriptor_limit() -> None:
    """As many open connections as the machine allows: the soft limit becomes the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.info("the limit of open files stays at %d: %s", soft, error)


def _log_like_gunicorn(server_log: logging.Logger) -> None:
    """Show our lines where Gunicorn's stand, unless somebody has set logging up."""
    ours = logging.getLogger("asgi_health")
    if not ours.hasHandlers():
        ours.handlers = server_log.handlers
        ours.setLevel(server_log.level)
