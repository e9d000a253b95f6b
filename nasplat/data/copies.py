"""Files with the same content: each content is in one part of a data set."""

from collections.abc import Mapping, Sequence

from nasplat.data.digests import DataFile
from nasplat.data.manifest import SAME_CONTENT
from nasplat.errors import InputError

PARTS = ("training", "validation", "test")


def apart(
    files: Mapping[str, Sequence[DataFile]],
) -> tuple[dict[str, list[DataFile]], list[DataFile], list[str]]:
    """Keep each content in one part: the test stays whole, so that it stays comparable, and then the validation part.

    Args:
        files: The files of each part that has a folder.

    Returns:
        All three parts, those without a folder empty; the files that are left out; and lines for users.

    Raises:
        InputError: Nothing is left of a part.
    """
    parts = {part: list(files.get(part, ())) for part in PARTS}
    left_out: list[DataFile] = []
    said: list[str] = []
    taken: dict[str, str] = {}
    for part in reversed(PARTS):
        if copies := [file for file in parts[part] if file.digest in taken]:
            others = " and ".join(sorted({taken[file.digest] for file in copies}))
            parts[part] = [file for file in parts[part] if file.digest not in taken]
            if not parts[part]:
                raise InputError(
                    f"every image of {part} has the content of an image of {others}, such as {copies[0].name}; parts "
                    "must have different images"
                )
            left_out += copies
            said.append(
                f"{len(copies)} images of {part} are left out of it, such as {copies[0].name}, since {SAME_CONTENT}: "
                f"{others}"
            )
        taken |= {file.digest: part for file in parts[part]}
    return parts, left_out, said


def told(parts: Mapping[str, Sequence[DataFile]]) -> list[str]:
    """Lines for users on files of the same content, within one class and in several."""
    same: dict[str, list[DataFile]] = {}
    for files in parts.values():
        for file in files:
            same.setdefault(file.digest, []).append(file)
    groups = [group for group in same.values() if len(group) > 1]
    said = []
    if groups:
        one, other = groups[0][0].name, groups[0][1].name
        extra = sum(len(group) - 1 for group in groups)
        said.append(
            f"{extra} images have the content of another one, such as {one} and {other}; each group is in one part"
        )
    if mixed := [group for group in groups if len({file.label for file in group}) > 1]:
        one, other = mixed[0][0].name, next(file.name for file in mixed[0] if file.label != mixed[0][0].label)
        said.append(f"{len(mixed)} contents are in several classes, such as {one} and {other}; remove what is wrong")
    return said
