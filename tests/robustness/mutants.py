"""Change valid files at random, as bad disks, other programs and bad people do; a seed says how."""

import csv
import io
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import yaml

WORDS = (
    "",
    " ",
    "nan",
    "a\nb",
    "a\tb",
    "\x00",
    "\x1b[31m",
    "ä" * 300,
    "𝔘",
    "../../x",
    "/etc/passwd",
    "-x",
    "$(id)",
    "'; id;'",
)
NUMBERS = (0, 1, -1, 0.5, 2**31, -(2**31), 2**62, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 1e-320)
ENCODINGS = (
    "anndata", "raw", "dict", "array", "csr_matrix", "csc_matrix", "dataframe", "string", "string-array", "categorical",
    "nullable-integer", "nullable-boolean", "numeric-scalar", "null", "awkward-array", "none of these", "",
)  # fmt: skip


def mutate_bytes(path: Path, random: random.Random) -> str:
    """Flip bits, cut off, blank out, repeat or replace a part."""
    content = bytearray(path.read_bytes())
    size = len(content)
    kind = random.choice(("flip", "flip", "flip", "cut", "blank", "repeat", "noise", "empty", "append"))
    start = random.randrange(size + 1)
    length = min(2 ** random.randrange(12), size - start)
    if kind == "flip":
        for _ in range(random.choice((1, 3, 30))):
            if size:
                content[random.randrange(size)] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del content[start:]
    elif kind == "blank":
        content[start : start + length] = bytes(length)
    elif kind == "repeat":
        content[start:start] = content[start : start + length]
    elif kind == "noise":
        content[start : start + length] = random.randbytes(length)
    elif kind == "append":
        content += random.randbytes(length)
    else:
        content.clear()
    path.write_bytes(content)
    return f"{kind} at {start}, {length} bytes"


def mutate_hdf5(path: Path, random: random.Random) -> str:
    """Change the tree of an HDF5 file: one to three of its parts."""
    done = []
    with h5py.File(path, "r+") as file:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            things: list[h5py.HLObject] = []
            file.visititems(lambda _, thing, things=things: things.append(thing))  # returns None, so goes on
            if not things:
                break
            thing = random.choice(things)
            change = random.choice(CHANGES)
            done.append(f"{change.__name__} {thing.name}")
            try:
                change(thing, random)
            except Exception as error:  # noqa: BLE001 - not every change goes with every part
                done.append(f"(not possible: {error})")
    return "; ".join(done)


def delete(thing, random):
    del thing.parent[thing.name]


def rename(thing, random):
    thing.parent.move(thing.name, random.choice([word for word in WORDS if word and "\0" not in word]))


def retype(thing, random):
    kind = random.choice(("i1", "u1", "i8", "f2", "f4", "f8", "c16", "?", "S3", h5py.string_dtype(), "V4", ">f8"))
    _replace(thing, _values(thing).astype(kind))


def reshape(thing, random):
    values = _values(thing)
    kinds = (
        lambda: values[:-1], lambda: values[:0], lambda: np.concatenate([values, values]), lambda: values.ravel()[0],
        lambda: values[:, None], lambda: values.T, lambda: values.ravel(), lambda: values[..., :1],
        lambda: np.resize(values, (3, 3, 3)), lambda: h5py.Empty(values.dtype),
    )  # fmt: skip
    _replace(thing, random.choice(kinds)())


def overwrite(thing, random):
    """Put odd values at some places."""
    values = np.array(_values(thing))
    flat = values.reshape(-1)
    for _ in range(random.choice((1, 1, 5, flat.size))):
        word = random.choice(NUMBERS if values.dtype.kind in "biufc" else WORDS)
        with np.errstate(all="ignore"):
            place = random.randrange(flat.size)
            if values.dtype.kind in "iub" and isinstance(word, float):
                word = random.choice([n for n in NUMBERS if isinstance(n, int)])
            flat[place] = np.array(word).astype(values.dtype) if values.dtype.kind in "biufc" else word
    _replace(thing, values)


def shuffle(thing, random):
    """Other order, or one value many times."""
    values = np.array(_values(thing))
    flat = values.reshape(-1)
    order = list(range(flat.size))
    random.shuffle(order)
    _replace(thing, (flat[order] if random.random() < 0.5 else np.repeat(flat[:1], flat.size)).reshape(values.shape))


def replace_by_other(thing, random):
    things = []
    thing.file.visit(things.append)
    other, name, parent = random.choice(things), thing.name, thing.parent
    thing.file.copy(thing.file[other], parent, "_copy")
    del parent[name]
    parent.move("_copy", name)


def group_or_not(thing, random):
    name, parent = thing.name, thing.parent
    del parent[name]
    parent[name] = random.choice((1, "text", [1.0, 2.0], np.zeros((2, 2)))) if isinstance(thing, h5py.Group) else {}
    if isinstance(parent[name], h5py.Group):
        parent[name].create_group("x")


def drop_attribute(thing, random):
    del thing.attrs[random.choice(list(thing.attrs))]


def change_attribute(thing, random):
    name = random.choice([*thing.attrs, "shape"])
    thing.attrs[name] = random.choice(
        (1, -1, "text", "", "\n", [1, 2], [2**40, 2**40], [-1, 5], 1.5, ["a", "b"], [], h5py.Empty("f4"), *ENCODINGS)
    )


def change_encoding(thing, random):
    thing.attrs["encoding-type"] = random.choice(ENCODINGS)
    if random.random() < 0.3:
        thing.attrs["encoding-version"] = random.choice(("0.0.0", "0.1.0", "0.2.0", "9.9", "x", 7))


def link(thing, random):
    name, parent = thing.name, thing.parent
    if random.random() < 0.5:
        del parent[name]
    else:
        name += "_"
    parent[name] = random.choice(
        (h5py.SoftLink("/nowhere"), h5py.SoftLink(name), h5py.SoftLink("/X"), h5py.ExternalLink("/etc/passwd", "/x"))
        + (thing.file["/obs"],)
    )


def add(thing, random):
    """Something no one asked for."""
    group = thing if isinstance(thing, h5py.Group) else thing.parent
    value = random.choice((1, "text", np.zeros((2, 3)), np.array([b"x"]), np.bool_(True), np.zeros(0), 1j))
    group[random.choice(("X", "extra", "missing", "imputed", "spatial", "stmcdi", "counts", "a b", "ä"))] = value


def inflate(thing, random):
    """Say that there is much more than there is."""
    shape = (2 ** random.choice((20, 33, 40)),) * max(1, len(thing.shape))
    attributes, name, parent = dict(thing.attrs), thing.name, thing.parent
    kind = thing.dtype
    del parent[name]
    parent.create_dataset(name, shape, dtype=kind, chunks=(64,) * len(shape)).attrs.update(attributes)


CHANGES: tuple[Callable, ...] = (
    delete, rename, retype, retype, reshape, reshape, overwrite, overwrite, overwrite, overwrite, shuffle,
    replace_by_other, group_or_not, drop_attribute, change_attribute, change_encoding, link, add, inflate,
)  # fmt: skip


def _values(thing):
    return np.asarray(thing[()])


def _replace(thing, values) -> None:
    attributes, name, parent = dict(thing.attrs), thing.name, thing.parent
    kind = h5py.string_dtype() if getattr(values, "dtype", None) is not None and values.dtype.kind in "OU" else None
    del parent[name]
    made = parent.create_dataset(name, data=values, dtype=kind) if kind else parent.create_dataset(name, data=values)
    made.attrs.update(attributes)


def mutate_sheet(path: Path, random: random.Random) -> str:
    """Change cells, rows and columns of a table."""
    if random.random() < 0.3:
        return mutate_bytes(path, random)
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    done = []
    for _ in range(random.choice((1, 1, 2, 5))):
        kind = random.choice(
            ("cell", "cell", "cell", "drop row", "repeat row", "drop cell", "add cell", "shuffle", "long")
        )
        row = random.randrange(len(rows)) if rows else -1
        done.append(f"{kind} {row}")
        if row < 0 or not rows[row]:
            continue
        cell = random.randrange(len(rows[row]))
        if kind == "cell":
            rows[row][cell] = random.choice([*WORDS, *map(str, NUMBERS), 'a"b', "s3://x/y", "sample", ",", "x y"])
        elif kind == "drop row":
            del rows[row]
        elif kind == "repeat row":
            rows.insert(row, list(rows[row]))
        elif kind == "drop cell":
            del rows[row][cell]
        elif kind == "add cell":
            rows[row].insert(cell, random.choice(WORDS))
        elif kind == "shuffle":
            random.shuffle(rows[row])
        else:
            rows[row][cell] = "x" * 200_000
    text = io.StringIO()
    csv.writer(text, quoting=random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    path.write_text(text.getvalue(), random.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig")))
    return "; ".join(done)


def mutate_folder(path: Path, random: random.Random) -> str:
    """Change one file of a folder, as its kind is changed, or take it away."""
    file = random.choice(sorted(part for part in path.rglob("*") if part.is_file()))
    if random.random() < 0.05:
        file.unlink()
        return f"{file.name}: gone"
    change = {".h5": mutate_hdf5, ".csv": mutate_sheet, ".tsv": mutate_sheet}.get(file.suffix, mutate_bytes)
    return f"{file.name}: {change(file, random)}"


def mutate_model(path: Path, random: random.Random) -> str:
    """Change a model's folder."""
    kind = random.choice(("bytes", "config", "config", "config", "yaml", "weights", "weights", "weights", "files"))
    if kind == "bytes":
        file = random.choice([part for part in path.iterdir() if part.is_file()])
        return f"{file.name}: {mutate_bytes(file, random)}"
    if kind == "config":
        return f"config: {_mutate_config(path / 'config.yaml', random)}"
    if kind == "yaml":
        return f"yaml: {mutate_yaml(path / 'config.yaml', random)}"
    if kind == "weights":
        return f"weights: {_mutate_weights(path / 'model.safetensors', random)}"
    file = random.choice(list(path.iterdir()))
    file.unlink()
    what = random.choice(("gone", "folder", "link to itself", "link to nothing", "pipe"))
    if what == "folder":
        file.mkdir()
    elif what != "gone" and what != "pipe":
        file.symlink_to(file.name if what == "link to itself" else "nothing")
    elif what == "pipe":
        os.mkfifo(file)
    return f"{file.name}: {what}"


def mutate_yaml(path: Path, random: random.Random) -> str:
    """Replace or extend a YAML file by one that is odd as such."""
    text, kind = path.read_text("utf-8"), random.randrange(7)
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    path.write_text(
        (
            "!!python/object/apply:os.system ['touch pwned']\n",
            bomb + text,
            text + "self: &s [*s]\n",
            "[" * 5000,
            "- 1\n- 2\n",
            text.replace("genes:", "genes: &g\n- *g\ngenes2:"),
            "x: " + "y" * 3_000_000 + "\n" + text,
        )[kind],
        "utf-8",
    )
    return f"odd {kind}"


def _mutate_config(path: Path, random: random.Random) -> str:
    content = yaml.safe_load(path.read_text("utf-8"))
    done = []
    for _ in range(random.choice((1, 1, 2))):
        places = list(_places(content))
        holder, key = random.choice(places)
        kind = random.choice(("drop", "number", "number", "word", "nest", "list", "huge"))
        done.append(f"{kind} {key}")
        if kind == "drop":
            del holder[key]
        else:
            holder[key] = {
                "number": random.choice((0, -1, 1, 3, 0.5, 1e308, float("nan"), None, True)),
                "word": random.choice(WORDS),
                "nest": {"a": {"b": holder[key] if not isinstance(holder[key], dict) else 1}},
                "list": [1, "a"],
                "huge": random.choice((10**6, 2**31, 10**12, 2**63, 10**30)),
            }[kind]
    path.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
    return "; ".join(done)


def _places(content):
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        if not (key == "genes" and isinstance(value, list)):
            yield from _places(value)


def _mutate_weights(path: Path, random: random.Random) -> str:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = random.choice([name for name in header if name != "__metadata__"])
    kind = random.choice(("shape", "shape", "dtype", "offsets", "name", "drop", "length", "nan", "swap", "data"))
    if kind == "shape":
        header[name]["shape"] = random.choice(
            ([2**40], [], [0], [2**32, 2**32], [-1], [1] * 100, header[name]["shape"][::-1], "x", [1.5])
        )
    elif kind == "dtype":
        header[name]["dtype"] = random.choice(("F64", "I64", "F16", "BF16", "BOOL", "U8", "X", 1))
    elif kind == "offsets":
        header[name]["data_offsets"] = random.choice(([0, 2**60], [10, 5], [-1, 4], [0, 0], [2**63, 2**64], "x"))
    elif kind == "name":
        header[random.choice(WORDS)] = header.pop(name)
    elif kind == "drop":
        del header[name]
    elif kind == "nan":
        start, stop = header[name]["data_offsets"]
        data = data[:start] + b"\xff" * (stop - start) + data[stop:]
    elif kind == "swap":
        other = random.choice([name for name in header if name != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    elif kind == "data":
        data = data[: random.randrange(len(data))]
    text = json.dumps(header).encode()
    size = random.choice((0, 2**63, len(text) + 1, 100_000_000)) if kind == "length" else len(text)
    path.write_bytes(struct.pack("<Q", size) + text + data)
    return f"{kind} {name}"
