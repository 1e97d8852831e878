"""Presets: the built-in ones, and files of users with all settings or changes alone.

Nothing heavy is imported here: the command line needs the names.
"""

import copy
import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from stmcdi_cli.errors import OptionError, one_line
from stmcdi_cli.steps._settings import SETTINGS, check_fit, sections

_FOLDER = Path(__file__).parents[1] / "presets"
PRESETS = tuple(sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda name: (name != "default", name)))
"""Names of the built-in presets."""
_BASES = {"latent": "default", "attention": "paper"}
"""Preset of which a file that names only its variant takes what it leaves out."""


def read_preset(preset: str | os.PathLike[str]) -> dict[str, Any]:
    """Give every setting of a preset; ``preset`` in it is the built-in one's name, or the name of the user's file.

    Parameters
    ----------
    preset
        Name of a built-in preset, or a YAML file with settings. The key ``preset`` at its top names the built-in preset
        that it changes; without it, that is the one of its ``variant``, or ``default``.

    Raises
    ------
    OptionError
        There is no such preset or file, or the file has a key or value that is wrong.
    """
    if isinstance(preset, str) and preset in PRESETS:
        return _built_in(preset) | {"preset": preset}
    return _read_file(preset)[1] | {"preset": _name_of_file(preset)}


def preset_as_yaml(preset: str | os.PathLike[str]) -> str:
    """Give every setting of a preset as YAML that is itself a preset.

    Raises
    ------
    OptionError
        As `read_preset`.
    """
    import yaml

    if isinstance(preset, str) and preset in PRESETS:
        return f"preset: {preset}  # the settings that are not here are as there\n{_text(preset)}"
    base, config = _read_file(preset)
    return yaml.safe_dump({"preset": base, **config}, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.yaml").read_text("utf-8")


def _built_in(name: str) -> dict[str, Any]:
    import yaml

    config: dict[str, Any] = yaml.safe_load(_text(name))
    return config


def _name_of_file(preset: str | os.PathLike[str]) -> str:
    """Name of a user's file as models record it: without its folder, and not that of a built-in preset."""
    name = os.fsencode(Path(preset).name).decode("utf-8", "replace")
    return f"./{name}" if name in PRESETS else name


def _read_file(preset: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Give the preset that a user's file changes, and all settings."""
    content = _content(preset)
    try:
        base = _base(content)
        config = _changed(_built_in(base), content, base)
        check_fit(config)
    except OptionError as error:
        raise OptionError(f"preset {preset}: {error}") from error
    return base, config


def _content(preset: str | os.PathLike[str]) -> Mapping[Any, Any]:
    """Read what stands in a user's file."""
    from stmcdi_cli.io.text import read_yaml

    known = ", ".join(PRESETS)
    if not isinstance(preset, str | os.PathLike) or not os.path.exists(preset):
        near = difflib.get_close_matches(str(preset), PRESETS, n=1)
        raise OptionError(
            f"expected `preset` to be one of {known} or a YAML file, found `{preset}`, and there is no such file"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    try:
        content = read_yaml(preset)
    except UnicodeDecodeError as error:
        raise OptionError(f"preset {preset}: expected UTF-8 text, found something else; give a YAML file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"preset {preset}: cannot be read as YAML ({one_line(reason, 300)}); correct it") from error
    if content is None:
        raise OptionError(f"preset {preset}: expected settings, found none; `stmcdi presets show default` prints some")
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise OptionError(f"preset {preset}: expected settings with values, found {found}; write `section:` lines")
    return content


def _base(content: Mapping[Any, Any]) -> str:
    """Name of the built-in preset that a file changes."""
    if "preset" in content:
        return _known("preset", content["preset"], PRESETS)
    if "variant" in content:
        return _BASES[_known("variant", content["variant"], _BASES)]
    return "default"


def _known(key: str, value: Any, names: Collection[str]) -> str:
    """Give a value that is one of some names, or refuse it with the nearest."""
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1)
    raise OptionError(
        f"expected {key} to be one of {', '.join(names)}, found {_shown(value)}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def _changed(config: dict[str, Any], content: Mapping[Any, Any], base: str) -> dict[str, Any]:
    """Give a built-in preset's settings with those of a file instead; refuse what the model does not have."""
    config = copy.deepcopy(config)
    variant = config["variant"]
    known = SETTINGS[variant]
    for section, part in content.items():
        if section == "variant" and part != variant:
            raise OptionError(
                f"expected variant to be {variant}, that of the preset {base}, found {_shown(part)}; leave it out"
            )
        if section in ("preset", "variant"):
            continue
        if section not in sections(known):
            _refuse_unknown(str(section), variant, base, is_section=isinstance(part, Mapping))
        if not isinstance(part, Mapping):
            raise OptionError(f"expected {section} to have settings below it, found {_shown(part)}; correct it")
        for name, value in part.items():
            key = f"{section}.{name}"
            if key not in known or not isinstance(name, str):
                _refuse_unknown(key, variant, base)
            try:
                config.setdefault(section, {})[name] = known[key].read(value)
            except ValueError as error:
                raise OptionError(f"expected {key} to be {known[key].needs}, found {_shown(value)}") from error
    # Two words for the length of the training: the one that a file gives does away with that of the built-in preset.
    given = [name for name in ("epochs", "updates") if name in content.get("training", {})]
    if len(given) == 2:
        raise OptionError("found training.epochs beside training.updates, which it would make void; give one")
    if given:
        config["training"].pop("updates" if given == ["epochs"] else "epochs", None)
    return config


def _refuse_unknown(key: str, variant: str, base: str, *, is_section: bool = False) -> NoReturn:
    """Say that there is no such setting, and which is nearest."""
    known = SETTINGS[variant]
    if key in known:
        section, _, name = key.partition(".")
        raise OptionError(f"{key} stands at the top; write {name} below {section}:")
    for other, others in SETTINGS.items():
        if key in others or (is_section and key in sections(others)):
            raise OptionError(
                f"{key} is no setting of the variant {variant}, but of {other}; "
                f"name the preset to change, as in `preset: {_BASES[other]}`"
            )
    near = difflib.get_close_matches(key, sections(known) if is_section else [], n=1) or _nearest(key, known)
    if near:
        raise OptionError(f"{key} is no setting; did you mean {near[0]}?")
    raise OptionError(f"{key} is no setting; `stmcdi presets show {base}` prints those there are")


def _nearest(key: str, known: Collection[str]) -> list[str]:
    """Give the known setting, if any, that is nearest to one that is not known: by its initials, letters or place."""
    section, _, name = key.rpartition(".")
    names = {other.partition(".")[2]: other for other in known if not section or other.startswith(f"{section}.")}
    initials = "".join(word[0] for word in re.split("[_-]", name) if word)
    near = [initials] if len(initials) > 1 and initials in names else difflib.get_close_matches(name, names, n=1)
    if near:
        return [names[near[0]]]
    elsewhere = [other for other in known if other.partition(".")[2] == name]
    return elsewhere or difflib.get_close_matches(key, [] if names else known, n=1)


def _shown(value: Any) -> str:
    """Give a value of a file as it is quoted in an error."""
    try:
        return f"`{one_line('null' if value is None else value, 60)}`"
    except ValueError:  # of a number with thousands of digits
        return "a number of too many digits"
