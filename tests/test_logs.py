"""Logging: real configurations in a fresh process, formatters, and files that are rotated away."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_poller import logs
from asgi_poller.config import Config
from asgi_poller.errors import ConfigError
from tests.support.command import run_python
from tests.support.waiting import in_threads

ADDRESS = "127.0.0.1:1234"
ENDED = logs.Outcome(1000, "[closed] 1000")
ANSI = re.compile("\x1b\\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Puts the handlers and levels of our loggers back."""
    names = ("", "asgi_poller", logs.ERROR_LOGGER, logs.ACCESS_LOGGER, logs.ASGI_LOGGER)
    before = [
        (logger, list(logger.handlers), logger.level, logger.propagate)
        for logger in map(logging.getLogger, names)
    ]
    yield
    for logger, handlers, level, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def access_line(formatter: logging.Formatter, message: str, *arguments: object) -> str:
    """What `formatter` makes of one access record."""
    record = logging.LogRecord("a", logging.INFO, "p", 1, message, arguments, None)
    return formatter.format(record)


def log_in_a_process(code: str) -> tuple[str, str]:
    """Standard output and error of a process that runs `code` with our loggers at hand."""
    program = f"""
import logging
from asgi_poller.config import Config
from asgi_poller.logs import *
from asgi_poller import logs
error = logging.getLogger(logs.ERROR_LOGGER)
access = logging.getLogger(logs.ACCESS_LOGGER)
asgi = logging.getLogger(logs.ASGI_LOGGER)
{code}
"""
    done = run_python("-c", program, check=True)
    return done.stdout, done.stderr


def test_the_default_writes_access_lines_to_stdout_and_others_to_stderr() -> None:
    out, err = log_in_a_process(
        "configure_logging(Config('a:b'))\n"
        f"access.info(logs.ACCESS_HTTP, {ADDRESS!r}, 'GET', '/x?y', '1.1', 200)\n"
        f"access.info(logs.ACCESS_HTTP, {ADDRESS!r}, 'GET', '/', '1.1', 299)\n"
        f"access.info(logs.ACCESS_WEBSOCKET, {ADDRESS!r}, 'WebSocket', '/ws', '1.1',"
        " logs.Outcome(101, '[accepted]'))\n"
        "error.info('started')\nerror.debug('hidden')\nasgi.log(logs.TRACE, 'hidden')\n"
    )
    assert out.splitlines() == [
        f'INFO:     {ADDRESS} - "GET /x?y HTTP/1.1" 200 OK',
        f'INFO:     {ADDRESS} - "GET / HTTP/1.1" 299 ',
        f'INFO:     {ADDRESS} - "WebSocket /ws" [accepted]',
    ]
    assert err == "INFO:     started\n"


def test_levels() -> None:
    _, err = log_in_a_process(
        "configure_logging(Config('a:b', log_level='trace'))\n"
        "asgi.log(logs.TRACE, 'message')\n"
        "error.critical('end %d', 1, extra={'color_message': 'coloured %d'})\n"
    )
    assert err.splitlines() == ["TRACE:    message", "CRITICAL: end 1"]
    out, err = log_in_a_process(
        "configure_logging(Config('a:b', log_level=30))\n"
        "error.info('hidden')\nerror.warning('seen')\n"
        "access.info(logs.ACCESS_HTTP, 'a', 'GET', '/', '1.1', 200)\n"
    )
    assert (out, err) == ("", "WARNING:  seen\n")


def test_no_access_log() -> None:
    out, err = log_in_a_process(
        "configure_logging(Config('a:b', access_log=False))\n"
        "access.info(logs.ACCESS_HTTP, 'a', 'GET', '/', '1.1', 200)\nerror.info('x')\n"
    )
    assert (out, err) == ("", "INFO:     x\n")


def test_colours_on_demand() -> None:
    out, err = log_in_a_process(
        "configure_logging(Config('a:b', use_colors=True))\n"
        "access.info(logs.ACCESS_HTTP, 'a', 'GET', '/', '1.1', 404)\n"
        "error.error('bad %d', 1, extra={'color_message': 'very bad %d'})\n"
    )
    status = "\x1b[31m404 Not Found\x1b[0m"
    assert out == f'\x1b[32mINFO\x1b[0m:     a - "\x1b[1mGET / HTTP/1.1\x1b[0m" {status}\n'
    assert err == "\x1b[31mERROR\x1b[0m:    very bad 1\n"


def test_a_pipe_gets_no_colours() -> None:
    out, err = log_in_a_process("configure_logging(Config('a:b'))\nerror.error('x')")
    assert not ANSI.search(out + err)


def test_log_config_none_leaves_logging_alone() -> None:
    _, err = log_in_a_process(
        "logging.basicConfig(format='mine %(message)s', level='INFO')\n"
        "configure_logging(Config('a:b', log_config=None))\nerror.info('x')\n"
    )
    assert err == "mine x\n"


def test_exceptions_have_their_traceback() -> None:
    _, err = log_in_a_process(
        "configure_logging(Config('a:b'))\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    error.exception('failed')\n"
    )
    assert err.startswith("ERROR:    failed\nTraceback (most recent call last):")


def test_records_of_websockets_are_numbers_for_those_who_count() -> None:
    assert (ENDED // 1, json.dumps(ENDED), f"{ENDED}") == (1000, "1000", "[closed] 1000")


def test_other_records_in_the_access_log_are_shown_as_they_are() -> None:
    assert access_line(logs.AccessFormatter(use_colors=False), "x %d", 1) == "INFO: x 1"


def test_a_level_without_colour_or_name() -> None:
    record = logging.LogRecord("a", 7, "p", 1, "x", (), None)
    assert logs.DefaultFormatter(use_colors=True).format(record).endswith(" x")


def dict_config(stream: str = "ext://sys.stderr") -> dict[str, Any]:
    """A user's configuration of our error logger."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "default": {"()": "asgi_poller.logs.DefaultFormatter", "fmt": "F %(message)s"}
        },
        "handlers": {
            "h": {"class": "logging.StreamHandler", "stream": stream, "formatter": "default"}
        },
        "loggers": {"asgi_poller": {"handlers": ["h"], "level": "INFO", "propagate": False}},
    }


def test_configuration_from_a_dictionary_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_json = tmp_path / "log.json"
    as_json.write_text(json.dumps(dict_config()))
    as_yaml = tmp_path / "log.yaml"
    as_yaml.write_text(json.dumps(dict_config()))  # JSON is YAML too
    as_ini = tmp_path / "log.ini"
    as_ini.write_text(
        "[loggers]\nkeys=root,ours\n[handlers]\nkeys=h\n[formatters]\nkeys=f\n"
        "[logger_root]\nhandlers=\n"
        "[logger_ours]\nqualname=asgi_poller\nlevel=INFO\nhandlers=h\npropagate=0\n"
        "[handler_h]\nclass=StreamHandler\nargs=(sys.stderr,)\nformatter=f\n"
        "[formatter_f]\nformat=F %(message)s\n"
    )
    for given in (dict_config(), as_json, as_yaml, as_ini):
        logs.configure_logging(Config("a:b", log_config=given))
        logging.getLogger(logs.ERROR_LOGGER).info("line")
        assert capsys.readouterr().err == "F line\n", given


def test_a_dictionary_is_not_changed() -> None:
    given = dict_config()
    logs.configure_logging(Config("a:b", log_config=given, use_colors=True))
    assert given == dict_config()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.ini", None, "there is no file"),
        ("a.json", "{", "cannot be used: Expecting property name"),
        ("b.json", "[]", "must be a mapping"),
        ("c.json", '{"version": 2}', "cannot be used: Unsupported version"),
        (
            "d.json",
            '{"version": 1, "handlers": {"h": {"class": "no.Such"}}}',
            "No module named 'no'",
        ),
        ("e.yaml", "a: [", "cannot be used: while parsing"),
        ("f.ini", "nothing", "cannot be used"),
        ("g.ini", "[loggers]\nkeys=root\n", "cannot be used"),
        ("h.json", '{"version": 1, "formatters": {"default": 3}}', "cannot be used"),
    ],
)
def test_configurations_that_do_not_work_are_one_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as fault:
        logs.configure_logging(Config("a:b", log_config=path))
    assert fault.value.option == "--log-config"
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


def test_yaml_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "log.yaml"
    path.write_text("version: 1")
    with pytest.raises(ConfigError, match="needs PyYAML: pip install"):
        logs.configure_logging(Config("a:b", log_config=path))


def test_notices_are_logged_as_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config("a:b", ws="websockets")
    logs.configure_logging(config)
    logs.log_notices(config)
    assert capsys.readouterr().err == "WARNING:  --ws websockets is uvicorn's; using auto\n"


def file_handler(path: Path, **options: Any) -> logging.FileHandler:
    """A handler of our error logger that writes to `path`."""
    handler = logging.FileHandler(path, **options)
    logger = logging.getLogger(logs.ERROR_LOGGER)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler


def test_files_are_opened_anew_after_a_rotation(tmp_path: Path) -> None:
    others = logs.reopen_log_files()  # pytest has one of its own
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    handler = file_handler(path, mode="w")
    logging.getLogger("").addHandler(handler)  # the same handler twice is one file
    error = logging.getLogger(logs.ERROR_LOGGER)
    error.info("before")
    path.rename(rotated)
    error.info("still the old file")
    assert logs.reopen_log_files() == others + 1
    error.info("after")
    assert rotated.read_text().splitlines()[0] == "before"
    assert "after" not in rotated.read_text()
    assert "after" in path.read_text()


def test_reopening_without_a_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file_handler(path, mode="w")
    error = logging.getLogger(logs.ERROR_LOGGER)
    error.info("one")
    logs.reopen_log_files()
    error.info("two")
    assert path.read_text().splitlines() == ["one", "two"]


def test_a_file_that_nothing_was_written_to_yet(tmp_path: Path) -> None:
    file_handler(tmp_path / "log", delay=True)
    logs.reopen_log_files()
    assert (tmp_path / "log").exists()


def test_a_file_that_cannot_be_opened_stays_as_it_was(tmp_path: Path) -> None:
    others = logs.reopen_log_files()
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    handler = file_handler(path)
    told = io.StringIO()
    logging.getLogger(logs.ERROR_LOGGER).addHandler(logging.StreamHandler(told))
    moved = tmp_path / "moved"
    directory.rename(moved)
    assert logs.reopen_log_files() == others
    assert "cannot reopen a log file" in told.getvalue()
    logging.getLogger(logs.ERROR_LOGGER).info("kept")
    handler.flush()
    assert "kept" in (moved / "log").read_text()


def test_threads_that_log_while_files_are_reopened_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file_handler(path)
    error = logging.getLogger(logs.ERROR_LOGGER)
    count = 500

    def write(name: int) -> None:
        for number in range(count):
            error.info("%d:%d", name, number)

    with in_threads(write, range(4)) as writers:
        while any(writer.is_alive() for writer in writers):
            logs.reopen_log_files()
    assert len(path.read_text().splitlines()) == 4 * count
