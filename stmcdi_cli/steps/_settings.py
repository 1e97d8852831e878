"""Every setting that a preset can have, by variant: what values it takes, and how they are read."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from stmcdi_cli.errors import OptionError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
"""A number that YAML 1.1 takes for text where it has an exponent and no point: 1e-3."""
_MOST = 10**9
_LEAST_SIGNAL = 1e-8
"""Variance of the data left in x_T: with less, 32-bit numbers cannot tell it from rounding."""


class Setting(NamedTuple):
    """One setting of a preset.

    Attributes
    ----------
    needs
        The values it takes, in words.
    read
        Gives a value in its type; raises ValueError where it is none of these.
    """

    needs: str
    read: Callable[[Any], Any]


def _number(value: Any) -> int | float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return value


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError


def whole(least: int, most: int = _MOST) -> Setting:
    """Take whole numbers in a range."""

    def read(value: Any) -> int:
        number = _number(value)
        _require(isinstance(number, int) or number.is_integer())
        _require(least <= number <= most)
        return int(number)

    return Setting(f"a whole number from {least} to {most}", read)


def number(needs: str, fits: Callable[[float], bool]) -> Setting:
    """Take finite numbers of which something is true; `needs` goes on after "a number"."""

    def read(value: Any) -> float:
        try:
            found = float(_number(value))
        except OverflowError as error:
            raise ValueError from error
        _require(math.isfinite(found) and fits(found))
        return found

    return Setting(f"a number {needs}", read)


def one_of(*names: str) -> Setting:
    """Take one of some names."""

    def read(value: Any) -> str:
        _require(isinstance(value, str) and value in names)
        return str(value)

    return Setting(" or ".join(names), read)


def or_null(setting: Setting, meaning: str) -> Setting:
    """Take null as well."""
    return Setting(f"{setting.needs}, or null for {meaning}", lambda v: None if v is None else setting.read(v))


POSITIVE = number("above 0", lambda x: x > 0)
NOT_NEGATIVE = number("of at least 0", lambda x: x >= 0)
SHARE = number("from 0 to 1", lambda x: 0 <= x <= 1)
PART = number("from 0 to below 1", lambda x: 0 <= x < 1)
BETWEEN = number("between 0 and 1", lambda x: 0 < x < 1)


def _pair(value: Any, first: Setting, second: Setting) -> list[float]:
    _require(isinstance(value, list) and len(value) == 2)
    return [first.read(value[0]), second.read(value[1])]


def _range(value: Any) -> list[float]:
    low, high = _pair(value, SHARE, SHARE)
    _require(low <= high and high > 0)
    return [low, high]


def _drops(value: Any) -> list[list[float]]:
    _require(isinstance(value, list))
    pairs = [_pair(entry, SHARE, POSITIVE) for entry in value]
    _require(all(one[0] < other[0] for one, other in zip(pairs, pairs[1:], strict=False)))
    return pairs


def _links(value: Any) -> list[str]:
    _require(isinstance(value, list) and len(value) > 0)
    _require(all(name in ("linear", "log") for name in value) and len(set(value)) == len(value))
    return list(value)


def _even(value: Any) -> int:
    found: int = whole(2, 10_000).read(value)
    _require(found % 2 == 0)
    return found


_BOTH = {
    "encoder.rank": whole(1, 1000),
    "encoder.full_depth": POSITIVE,
    "encoder.sweeps": whole(1, 10_000),
    "diffusion.T": whole(2, 10_000),
    "diffusion.beta_1": BETWEEN,
    "diffusion.beta_T": BETWEEN,
    "masking.hidden": Setting("two numbers from 0 to 1, [least, most], the second above 0", _range),
    "masking.validation": PART,
    "training.epochs": whole(1),
    "training.updates": whole(1),
    "training.batch_size": whole(1),
    "training.lr": POSITIVE,
    "training.lr_schedule": one_of("cosine", "piecewise"),
    "training.lr_drops": Setting(
        "a list of [share of the epochs, rate from there on], shares from 0 to 1 in rising order, rates above 0", _drops
    ),
    "training.weight_decay": NOT_NEGATIVE,
    "training.ema_decay": PART,
    "training.clip_norm": or_null(POSITIVE, "no limit"),
}

SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "latent": _BOTH
    | {
        "encoder.links": Setting("a list of linear, log or both", _links),
        "network.width": whole(1, 10_000),
        "network.depth": whole(0, 1000),
        "network.dropout": PART,
        "masking.whole": SHARE,
        "training.spots": or_null(whole(10), "all"),
    },
    "attention": _BOTH
    | {
        "network.layers": whole(1, 1000),
        "network.channels": whole(1, 10_000),
        "network.heads": whole(1, 10_000),
        "network.step_embedding": Setting("an even whole number from 2 to 10000", _even),
        "network.gene_embedding": whole(1, 10_000),
        "network.hops": whole(0, 100),
        "network.graph_hidden": whole(1, 100_000),
        "network.graph_condition": whole(1, 100_000),
        "masking.folds": whole(1, 1000),
        "training.patience": or_null(whole(1), "no early stop"),
        "training.validate_every": whole(1),
    },
}
"""By variant: the settings by ``section.name``."""


def sections(settings: Collection[str]) -> list[str]:
    """Give the sections of settings, each once."""
    return list(dict.fromkeys(key.partition(".")[0] for key in settings))


def check_fit(config: Mapping[str, Any]) -> None:
    """Refuse settings that do not fit each other."""
    diffusion, network = config["diffusion"], config["network"]
    T, first, last = diffusion["T"], diffusion["beta_1"], diffusion["beta_T"]
    if first > last:
        raise OptionError(f"expected diffusion.beta_1 to be at most diffusion.beta_T, found `{first}` and `{last}`")
    roots = (((T - t) * math.sqrt(first) + (t - 1) * math.sqrt(last)) / (T - 1) for t in range(1, T + 1))  # eq. 24
    left = math.exp(sum(math.log1p(-(root**2)) for root in roots))
    if left < _LEAST_SIGNAL:
        raise OptionError(
            f"expected diffusion.T steps to leave at least {_LEAST_SIGNAL:g} of the data's variance, "
            f"found `{left:.1g}`; lower diffusion.beta_T or diffusion.T"
        )
    encoder = config.get("encoder")
    if encoder and (absent := [name for name in ("rank", "full_depth", "sweeps") if name not in encoder]):
        raise OptionError(f"encoder.{absent[0]} is missing; this preset has no encoder of its own, so give all of it")
    if "heads" in network and network["channels"] % network["heads"]:
        channels, heads = network["channels"], network["heads"]
        raise OptionError(f"expected network.heads to divide network.channels, found `{heads}` and `{channels}`")
