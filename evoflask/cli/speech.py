"""What the commands have in common: errors as sentences, tables, options out of a list."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click
from flask.cli import with_appcontext

from evoflask.errors import EvoflaskError

Command = TypeVar("Command", bound=Callable[..., Any])

CLI = "cli"
"""Who does what is done here, in the audit log."""


def spoken(command: Command) -> Command:
    """Within the application; what evoflask raises becomes sentences and status 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except EvoflaskError as error:
            for sentence in error.messages:
                click.echo(f"evoflask: {sentence}", err=True)
            sys.exit(2)

    return with_appcontext(run)  # type: ignore[return-value]  # the same signature, by wraps


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    for line in columns(head, rows):
        click.echo(line)


def columns(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Columns as wide as they must be; the last one is left as it is."""
    lines = [tuple(head), *(tuple(_cell(each) for each in row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head) - 1)]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        yield "  ".join([*cells, line[-1]]).rstrip()


def _cell(value: object) -> str:
    text = "-" if value is None or value == "" else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


def with_options(words: Mapping[str, str]) -> Callable[[Command], Command]:
    """Gives a command an option for each name."""

    def give(command: Command) -> Command:
        for name, meaning in reversed(list(words.items())):
            command = click.option(f"--{name}", help=meaning)(command)
        return command

    return give


def instances(name: str | None) -> tuple[int, ...] | None:
    from evoflask import configuration

    return None if name is None else (configuration.get(name).instance.id,)
