"""The form that most steps share: one function, which works in memory as well as from file to file."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from stmcdi_cli.io.stream import Stream, to_memory

if TYPE_CHECKING:
    from anndata import AnnData


P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)
Streams = TypeVar("Streams", covariant=True)


class Step(Protocol[P, Result, Streams]):
    """A step. Calling it gives the result in memory; `stream` gives it in blocks of spots."""

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
        made = function(*args, **kwargs)
        return to_memory(made) if isinstance(made, Stream) else tuple(map(to_memory, made))

    one = signature(function).return_annotation is Stream
    result = "AnnData" if one else "tuple[AnnData, AnnData]"
    in_memory.__signature__ = signature(function).replace(return_annotation=result)  # type: ignore[attr-defined]
    in_memory.stream = function  # type: ignore[attr-defined]
    return in_memory
