"""What its buttons do. To a letter's job: what they mean for the letter, through `deadletters`.

Views in place of rq-dashboard's own, by the same names. The job goes once the letter is settled;
where RQ's Redis fails in between, the clock takes it away. Requeue and Empty of a whole queue
are for the letters that are shown: nobody gives up for good what he has not seen.
"""

from __future__ import annotations

from typing import Any, Final

import redis
from flask import Flask, current_app, jsonify, request
from rq import Worker
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from rq_dashboard import web as theirs
from werkzeug.exceptions import MethodNotAllowed

from evoflask import auditlog, bell, configuration, deadletters, mirror, operations
from evoflask.deadletters import Filter
from evoflask.errors import Conflict, NotFound
from evoflask.models import DeadLetter
from evoflask.sinks import delivering
from evoflask.web import parts

BY: Final = "dashboard"


def replace(app: Flask) -> None:
    """Put ours in the place of theirs."""
    for view in (delete_job_view, requeue_job_view, requeue_all, empty_queue, list_workers):
        app.view_functions[f"rq_dashboard.{view.__name__}"] = view


def requeue_job_view(job_id: str) -> Any:
    """Deliver a letter again; 409 for a job that is none."""
    letter = mirror.letter_of(job_id)
    if letter is None:
        raise Conflict("Only dead letters are requeued here: a bell that is lost rings again.")
    _still_open(letter)
    _note("deadletter.requeue", deadletters.requeue(parts().manager, letter))
    _forget([letter])
    return _ok(f"Letter {letter} is delivered again.")


def delete_job_view(job_id: str) -> Any:
    """Give a letter up for good. Another job is deleted as theirs does: a bell rings again."""
    letter = mirror.letter_of(job_id)
    if letter is None:
        return theirs.delete_job_view(job_id)
    _still_open(letter)
    _note("deadletter.discard", deadletters.discard(letter))
    _forget([letter])
    return _ok(f"Letter {letter} was given up.")


def requeue_all(queue_name: str) -> Any:
    """Deliver again every letter of a sink that is shown, in the order of their acceptance.
    Theirs answers a GET too."""
    if request.method != "POST":
        raise MethodNotAllowed(valid_methods=["POST"])
    sink = bell.sink_of(queue_name)
    if sink not in delivering():
        raise Conflict(f"{queue_name} is no queue of a sink: only dead letters are requeued here.")
    return _shown("requeue", sink, "Letters that are delivered again")


def empty_queue(queue_name: str, registry_name: str) -> Any:
    """Give up every letter of a sink that is shown. Other registries are emptied as theirs
    does; letters that somebody requeued by RQ's own tools are shown again."""
    sink = bell.sink_of(queue_name)
    if registry_name != "failed" or sink not in delivering():
        return theirs.empty_queue(queue_name, registry_name)
    _delete_others(queue_name)
    return _shown("discard", sink, "Letters that were given up")


def _shown(kind: str, sink: str, words: str) -> Any:
    """An operation on what is shown: half a second of it at once, the clock goes on with it."""
    letters = mirror.shown(_redis(), sink)
    wanted = Filter(sink=sink, ids=letters)
    operation = deadletters.plan(kind, wanted, BY, limit=len(letters))
    if letters:
        operations.start(parts().manager, operation)
        auditlog.note(BY, f"deadletter.{kind}", sink=sink, done=operation.done, of=len(letters))
    mirror.forget_settled(_redis(), sink)
    said = f"{words}: {operation.done}."
    if letters and operation.state == "running":
        said += f" The clock goes on with the others, operation {operation.id}."
    elif left := deadletters.count(wanted):
        said += f" Left: {left}, whose subscription or body is gone."
    return _ok(said, count=operation.done)


def list_workers(instance_number: int) -> Any:
    """Theirs, but with the serializer of our jobs: it would unpickle what a worker is at."""
    workers = [
        {
            "name": worker.name,
            "pid": worker.pid,
            "queues": [queue.name for queue in worker.queues],
            "state": str(worker.get_state()),
            "current_job": theirs.serialize_current_job(worker.get_current_job()),
            "last_heartbeat": worker.last_heartbeat,
            "birth_date": worker.birth_date,
            "successful_job_count": worker.successful_job_count,
            "failed_job_count": worker.failed_job_count,
            "total_working_time": worker.total_working_time,
            "version": getattr(worker, "version", ""),
            "python_version": getattr(worker, "python_version", ""),
        }
        for worker in Worker.all(connection=_redis(), serializer=JSONSerializer)
    ]
    return jsonify(workers=sorted(workers, key=lambda w: (w["state"], w["queues"], w["name"])))


def _still_open(letter: int) -> None:
    """Raises `NotFound`. One that was settled elsewhere loses its job at once."""
    if not deadletters.count(Filter(ids=[letter])):
        _forget([letter])
        raise NotFound(f"Dead letter {letter} was settled already.")


def _note(action: str, row: DeadLetter) -> None:
    tenant = configuration.by_id(row.instance_id)
    auditlog.note(BY, action, tenant, row.subscription_name, letter=row.id)


def _forget(letters: list[int]) -> None:
    mirror.forget(_redis(), delivering(), letters)


def _delete_others(queue_name: str) -> None:
    registry = FailedJobRegistry(queue_name, connection=_redis(), serializer=JSONSerializer)
    for job_id in registry.get_job_ids(cleanup=False):
        if mirror.letter_of(job_id) is None:
            theirs.delete_job_view(job_id, registry)


def _redis() -> redis.Redis:
    found: redis.Redis = current_app.redis_conn  # type: ignore[attr-defined]  # see `register`
    return found


def _ok(message: str, **facts: Any) -> Any:
    return jsonify(status="OK", message=message, **facts)
