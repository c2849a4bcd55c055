"""The Celery application and the whole beat schedule.

A message is a doorbell. What is due, who does it and what became of it are rows of
`settlement.Job`, so a message that is lost, doubled or late changes nothing: the sweep rings again.
Messages are JSON, are acknowledged after the work, and come back when a worker is lost.

Each queue has a worker process of its own, because a process has one interpreter: a search for a
certified rate, or two of them, must not keep an interval from being settled. The sweep is urgent.
"""

import contextlib
import os
import warnings
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from celery import Celery, Task, signals
from celery.exceptions import InvalidTaskError, SecurityWarning
from celery.worker import strategy
from django.conf import settings
from kombu import Queue

SWEEP_EVERY_S = 5.0
VISIBILITY_TIMEOUT_S = 600
"""Longer than any task takes: after it, the broker hands a message out again."""

# A worker that takes nothing but JSON may be root's, as everything of a root's demo is.
warnings.filterwarnings("ignore", category=SecurityWarning)

MESSAGE_BYTES_MAX = 16_384
"""More than a doorbell ever has."""


class Guarded(Task):  # type: ignore[type-arg]
    """A task whose messages are looked at before Celery takes them apart."""

    Strategy = "config.celery:guard"


def guard(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Return what receives a task's messages: whatever has not the form of one is discarded.

    Celery takes an error while it takes a message apart for one of its own and ends the worker,
    whose successor is given the same message again.
    """
    receive = strategy.default(task, app, consumer, **options)

    def received(message: Any, *arguments: Any, **named: Any) -> Any:
        if len(message.body or b"") > MESSAGE_BYTES_MAX:
            raise InvalidTaskError("the message is too long")
        try:
            positional, given, embedded = message.payload
            is_whole = (type(positional), type(given), type(embedded)) == (list, dict, dict)
        except (TypeError, ValueError) as error:
            raise InvalidTaskError("the message is none of a task") from error
        if not is_whole:
            raise InvalidTaskError("the message is none of a task")
        return receive(message, *arguments, **named)

    return received


app = Celery("baseload", task_cls=Guarded)
app.conf.update(
    broker_url=settings.CELERY_BROKER_URL,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    accept_content=["json"],
    task_serializer="json",
    result_backend=None,
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    task_queues=[Queue("urgent"), Queue("normal")],
    task_default_queue="normal",
    task_create_missing_queues=False,
    enable_utc=True,
    timezone="UTC",
    beat_max_loop_interval=SWEEP_EVERY_S,
    beat_schedule={
        "settlement.sweep": {
            "task": "settlement.sweep",
            "schedule": SWEEP_EVERY_S,
            "options": {"queue": "urgent", "expires": SWEEP_EVERY_S},
        },
    },
)
app.autodiscover_tasks()

_watch = contextlib.ExitStack()


@signals.worker_ready.connect(weak=False)
def _begin_watch(sender: Any, **_: object) -> None:
    """Watch beside the work, in whatever process a worker is."""
    from marketplace import watchman

    watch = watchman.Watchman(queues=",".join(sorted(sender.app.amqp.queues.consume_from)))
    watch.start()
    _watch.callback(watch.stop)


@signals.worker_shutting_down.connect(weak=False)
def _end_watch(**_: object) -> None:
    """Say that the worker has gone."""
    _watch.close()
