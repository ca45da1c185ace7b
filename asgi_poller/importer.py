"""From `module:attribute` to an ASGI 3 application, with one clear line for each way in which that
can fail.

Loading runs the user's code: where that code fails, its traceback is logged (from the user's first
frame on), since nothing else says where. Every other failure is one line.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from types import ModuleType, TracebackType
from typing import Any, cast

from asgi_poller.config import ASGIApplication, Config
from asgi_poller.errors import StartupError
from asgi_poller.settings.sources import env_file_values
from asgi_poller.settings.table import nearest

_log = logging.getLogger("asgi_poller.error")

# Frames of these files are of no use to someone whose module failed to import.
_OWN_FRAMES = (__file__, importlib.__file__, "<frozen importlib")


def load_application(config: Config) -> ASGIApplication:
    """The application that `config.app` names, ready to be called as `app(scope, receive, send)`.

    Loads `config.env_file` into os.environ (variables that are set stay as they are) and puts
    `config.app_dir` first into sys.path before anything is imported. Call it once for each event
    loop: modules are imported once, a factory is called every time. Blocks while the module is
    imported. Raises StartupError, ConfigError for the env file.
    """
    if config.env_file is not None:
        for name, value in env_file_values(config.env_file).items():
            os.environ.setdefault(name, value)
    if isinstance(config.app, str):
        _put_first(config.app_dir)
        app, name = import_object(config.app, app_dir=config.app_dir), repr(config.app)
    else:
        app, name = config.app, "the application"
    if config.factory:
        app = _call_factory(app, name)
    elif _accepts(app, 0) and not _accepts(app, 3):
        _log.warning("%s looks like an application factory and is used as one; say --factory", name)
        app = _call_factory(app, name)
    _check_interface(app, name)
    return cast(ASGIApplication, app)


def import_object(path: str, *, app_dir: str = "") -> Any:
    """The object that `module:attribute.attribute` names. Raises StartupError.

    `app_dir` is only used to suggest modules that do exist.
    """
    module_name, colon, attributes = path.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        raise StartupError(_advice_for_file(module_name, attributes or "app"))
    if not all(module_name.split(".")) or not all(attributes.split(".")):
        hint = f"{path}:app" if path and not colon else "main:app"
        raise StartupError(f"{path!r} must be MODULE:ATTRIBUTE, such as {hint!r}")
    found: Any = _import_module(module_name, app_dir)
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise StartupError(
                f"{module_name!r} has no attribute {attributes!r}{nearest(name, dir(found))}"
            ) from None
    return found


def _advice_for_file(path: str, attributes: str) -> str:
    directory, stem = os.path.split(path.removesuffix(".py"))
    directory = os.path.normpath(directory) if directory else ""
    packages = directory.split(os.sep) if directory not in ("", ".") else []
    if all(map(str.isidentifier, packages)):
        instead = ".".join([*packages, stem])
        return f"{path!r} is a file, give the module: '{instead}:{attributes}'"
    return f"{path!r} is a file, give the module: --app-dir {directory} '{stem}:{attributes}'"


def _put_first(app_dir: str) -> None:
    directory = os.path.abspath(app_dir)
    if app_dir and not os.path.isdir(directory):
        raise StartupError(f"--app-dir: there is no directory {app_dir!r}")
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def _import_module(name: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module that exits is no application
        frames = _frames_of_user(error.__traceback__)
        if isinstance(error, ModuleNotFoundError) and frames is None:
            raise StartupError(
                f"there is no module {error.name!r}{nearest(name, _modules_in(app_dir))}"
                f" (looked in {os.path.abspath(app_dir)} and sys.path)"
            ) from None
        _log.error("%r failed while it was imported", name, exc_info=(type(error), error, frames))
        raise StartupError(f"{name!r} cannot be imported: {_described(error)}") from error


def _frames_of_user(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is neither ours nor of the import system. None if
    there is none.
    """
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
        frames = frames.tb_next
    return frames


def _described(error: BaseException) -> str:
    """The kind of error and its message, on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _modules_in(app_dir: str) -> list[str]:
    """The names of the modules and packages in a directory."""
    names = []
    for entry in os.scandir(app_dir or "."):
        stem, extension = os.path.splitext(entry.name)
        if extension == ".py" or (entry.is_dir() and stem.isidentifier() and not extension):
            names.append(stem)
    return names


def _call_factory(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise StartupError(f"{name} is no factory: {type(factory).__name__} cannot be called")
    if not _accepts(factory, 0):
        hint = "leave --factory out" if _accepts(factory, 3) else "a factory takes none"
        raise StartupError(f"{name} is no factory, it needs arguments: {hint}")
    try:
        app = factory()
    except (Exception, SystemExit) as error:
        frames = _frames_of_user(error.__traceback__)
        _log.error("the factory %s failed", name, exc_info=(type(error), error, frames))
        raise StartupError(f"the factory {name} failed: {_described(error)}") from error
    if inspect.iscoroutine(app):
        app.close()
        raise StartupError(f"the factory {name} must be a plain function, not async")
    return app


def _accepts(app: Any, count: int) -> bool:
    """Whether `app` can be called with so many positional arguments; True if that is not known."""
    try:
        inspect.signature(app).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True  # a built-in without a signature
    return True


def _check_interface(app: Any, name: str) -> None:
    """Raises StartupError for what is no ASGI 3 application."""
    if not callable(app):
        raise StartupError(f"{name} is no ASGI application: {type(app).__name__} cannot be called")
    if _accepts(app, 3):
        return
    if _accepts(app, 1):
        raise StartupError(
            f"{name} is an ASGI 2 application: wrap it in"
            " asgiref.compatibility.guarantee_single_callable"
        )
    if _accepts(app, 2):
        raise StartupError(f"{name} is a WSGI application: wrap it in a2wsgi.WSGIMiddleware")
    raise StartupError(f"{name} is no ASGI application: it does not take (scope, receive, send)")
