"""Paths and URIs: which file system they name, and what lies within what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import pyarrow.fs as pafs

GLOB_CHARACTERS = frozenset("*?[")
SAFE_IN_URI = "/:@%"  # what is quoted already stays as it is
SERVER = "endpoint_override="  # the setting that tells two buckets of a name apart


def is_uri(path: str) -> bool:
    """Whether a path names its file system (s3://, gs://, file://, …)."""
    return "://" in path


def user_of(uri: str) -> str:
    """What a URI says of who is asking, with the @ behind it: "KEY:SECRET@" of s3://KEY:SECRET@bucket/a; or nothing."""
    scheme, _, place = uri.partition("://")
    user, at, _ = place.partition("/")[0].rpartition("@")
    return user + at if scheme in ("s3", "gs") else ""  # elsewhere it may name a place, as Azure's containers


def open_path(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path within it. Raises pyarrow.ArrowInvalid and OSError.

    What stands behind a "?" in a URI are settings: s3://bucket/run?endpoint_override=host:9000&scheme=http.
    """
    if is_uri(path):
        uri, question, settings = path.partition("?")
        return pafs.FileSystem.from_uri(quote(uri, safe=SAFE_IN_URI) + question + settings)
    return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


def located(value: Any) -> Any:
    """The absolute path of what a text (or each of a list) names, if it is there or is a glob; all else as it is.

    The same file may be named in several ways, and workers have another current directory.
    """
    if isinstance(value, list):
        return [located(item) for item in value]
    if not isinstance(value, str) or not value or is_uri(value):
        return value
    path = os.path.expanduser(value)
    return os.path.abspath(path) if os.path.exists(path) or GLOB_CHARACTERS & set(path) else value


def real_paths(paths: Iterable[str]) -> list[str]:
    """The paths that files of this machine have without links, by path or file:// URI; other URIs in one spelling.

    That has neither user nor settings, but for the server's name.
    """
    folders: dict[str, str] = {}  # each looked up once: it takes longer than all else where files are many

    def real(path: str) -> str:
        if is_uri(path) and not path.startswith("file://"):
            server = [setting for setting in path.partition("?")[2].split("&") if setting.startswith(SERVER)]
            return "?".join([quote(_unquoted(path), safe="/:@"), *server])
        folder, name = os.path.split(_without_settings(path))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)
        return os.path.realpath(path) if name == ".." or os.path.islink(path) else path

    return [real(path) for path in paths]


def those_within(paths: Sequence[str], folder: str) -> list[str]:
    """Those of some paths or URIs that name a folder, by path or URI, or something in it: by name, or through links."""
    outer, real_outer = map(_without_settings, [folder, *real_paths([folder])])
    return [
        path
        for path, real in zip(paths, real_paths(paths), strict=True)
        if _without_settings(path).is_relative_to(outer) or _without_settings(real).is_relative_to(real_outer)
    ]


def globbed(pattern: str, folder: str, name: str) -> bool:
    """Whether a glob, by path or URI, would find what a name is in a folder; ** stands for any number of folders."""
    path = _without_settings(folder) / name
    return bool(GLOB_CHARACTERS & set(pattern)) and _agree(_without_settings(pattern).parts, path.parts)


def _agree(wanted: Sequence[str], parts: Sequence[str]) -> bool:
    if not wanted:
        return not parts
    hidden = [part.startswith(".") for part in parts]  # which only a pattern that begins so finds
    if wanted[0] == "**":
        return any(_agree(wanted[1:], parts[at:]) for at in range(len(parts) + 1) if not any(hidden[:at]))
    found = bool(parts) and fnmatchcase(parts[0], wanted[0]) and hidden[0] <= wanted[0].startswith(".")
    return found and _agree(wanted[1:], parts[1:])


def _without_settings(path: str) -> PurePosixPath:
    if is_uri(path):
        place = _unquoted(path)
        return PurePosixPath(os.path.normpath(place[7:]) if place.startswith("file://") else place)
    return PurePosixPath(open_path(path)[1])


def _unquoted(uri: str) -> str:
    """A URI without its user and settings."""
    return unquote(uri.partition("?")[0].replace(f"://{user_of(uri)}", "://", 1))
