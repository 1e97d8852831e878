"""Tables of the pages."""


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; its first column to the left, figures to the right."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
