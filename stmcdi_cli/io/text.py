"""Small text and YAML files from elsewhere: their size is limited, and YAML gives plain data only."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

from stmcdi_cli.errors import InputError, one_line

MAX_SIZE = 2**24
"""Bytes of a text file; a hundred thousand names take a tenth of that."""
MAX_DEPTH = 32
"""Lists and mappings within each other."""


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8-sig") -> str:
    """Read a text file.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file or the shell's ``<(...)``, or has more than `MAX_SIZE` bytes.
    UnicodeDecodeError
        It is not text in that encoding.
    """
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or Path(path).is_relative_to("/dev/fd")):
        raise OSError(errno.EINVAL, "not a file", str(path))
    with open(path, "rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise OSError(errno.EFBIG, f"more than {MAX_SIZE // 2**20} MB", str(path))
    return content.decode(encoding)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read plain data from a YAML file. Aliases are refused: a few of them can stand for billions of values.

    Raises
    ------
    OSError, UnicodeDecodeError
        As `read_text`.
    ValueError
        It is not YAML, is nested too deeply, or has a key twice: the second would replace the first.
    """
    import yaml

    text = read_text(path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, for long lists of genes
    depth = 0
    try:
        for event in yaml.parse(text, loader):  # before values are built, which recurses
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} lists within each other")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias (*), which is not supported")
        return yaml.load(text, _without_repeated_keys(loader))
    except (yaml.YAMLError, OverflowError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def _without_repeated_keys(loader: Any) -> Any:
    """Give a loader that refuses a mapping with a key twice."""

    class Loader(loader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise ValueError(f"the key {key.value} is there twice")
                seen |= {key.value} if isinstance(key.value, str) else set()
            return super().construct_mapping(node, deep)

    return Loader


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read one name per line, without blank lines and lines that start with #; of a model's folder, its genes.

    Raises
    ------
    InputError
        The file cannot be read as text, or the folder is no model's.
    """
    config = Path(path) / "config.yaml"
    if config.is_file():
        try:
            return [str(gene) for gene in read_yaml(config)["genes"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{config}: is not a model's configuration; name a folder that `stmcdi train` wrote"
            ) from error
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); give a text file with one name per line") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
