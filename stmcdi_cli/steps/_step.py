"""The form that most steps share: one function, which works in memory as well as from file to file."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from stmcdi_cli.errors import InputError
from stmcdi_cli.io.separate import separate
from stmcdi_cli.io.stream import Stream, to_memory
from stmcdi_cli.sparse import layers_of

if TYPE_CHECKING:
    from anndata import AnnData


P = ParamSpec("P")
Found = TypeVar("Found")
Result = TypeVar("Result", covariant=True)
Streams = TypeVar("Streams", covariant=True)


class Step(Protocol[P, Result, Streams]):
    """A step. Calling it gives a result with memory of its own; `stream` gives it in blocks of spots."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result: ...

    @property
    def stream(self) -> Callable[P, Streams]:
        """The same as a `Stream` for each result. The data may be on disk, opened by `io.h5ad.open_h5ad`."""


@overload
def step(function: Callable[P, Stream]) -> "Step[P, AnnData, Stream]": ...
@overload
def step(
    function: Callable[P, tuple[Stream, Stream]],
) -> "Step[P, tuple[AnnData, AnnData], tuple[Stream, Stream]]": ...
def step(function: Callable[..., Any]) -> Any:
    """Make a step of a function that gives one or two streams; its parameters and docstring stay."""

    @wraps(function)
    def in_memory(*args: Any, **kwargs: Any) -> Any:
        checked, kwargs = _checked(function, args, kwargs)
        made = function(*checked, **kwargs)
        results: list[AnnData] = []
        others = list(_tissues_among([*checked, *kwargs.values()]))
        for stream in (made,) if isinstance(made, Stream) else made:
            results.append(separate(to_memory(stream), [*others, *results]))
        return results[0] if isinstance(made, Stream) else tuple(results)

    one = signature(function).return_annotation is Stream
    result = "AnnData" if one else "tuple[AnnData, AnnData]"
    in_memory.__signature__ = signature(function).replace(return_annotation=result)  # type: ignore[attr-defined]
    in_memory.stream = function  # type: ignore[attr-defined]
    return in_memory


def of_tissues(function: Callable[P, Found]) -> Callable[P, Found]:
    """Make a function check what it is given as AnnData, as a step does."""

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Found:
        values, kwargs = _checked(function, args, kwargs)
        return function(*values, **kwargs)

    return checked


def _checked(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with every AnnData loaded where parts of it are not in memory yet; refuse what is no AnnData."""
    from anndata import AnnData

    kinds = {name: str(parameter.annotation) for name, parameter in signature(function).parameters.items()}

    def check(name: str, value: Any) -> Any:
        kind = kinds.get(name, "")
        if kind == "Sequence[AnnData]":
            if isinstance(value, AnnData) or not isinstance(value, Iterable):  # that of an AnnData gives its spots
                raise InputError(
                    f"expected `{name}` to be a list of AnnData objects, found {type(value).__name__}; give a list"
                )
            return [_loaded(name, each) for each in value]
        return _loaded(name, value) if kind == "AnnData" or (kind == "AnnData | None" and value is not None) else value

    positional = [check(name, value) for name, value in zip(kinds, args, strict=False)]
    return [*positional, *args[len(positional) :]], {name: check(name, value) for name, value in kwargs.items()}


def _loaded(name: str, value: Any) -> "AnnData":
    import pandas as pd
    from anndata import AnnData

    if not isinstance(value, AnnData):
        raise InputError(
            f"expected `{name}` to be an AnnData object, found {type(value).__name__}; read a file with "
            "anndata.read_h5ad first"
        )
    lazy = any(hasattr(matrix, "compute") for matrix in [value.X, *layers_of(value).values()])
    loaded = value.to_memory() if lazy or not isinstance(value.obs, pd.DataFrame) else value
    for what, table in (("obs", loaded.obs), ("var", loaded.var)):
        again = table.columns[table.columns.duplicated()]
        if len(again):
            raise InputError(f"expected each column of {what} once, found '{again[0]}' twice; rename one")
    return loaded


def _tissues_among(arguments: list[Any]) -> "Iterator[AnnData]":
    from anndata import AnnData

    for argument in arguments:
        if isinstance(argument, AnnData):
            yield argument
        elif isinstance(argument, list):
            yield from _tissues_among(argument)
