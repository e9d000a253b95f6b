"""One categorical decision of a search space."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

from nasplat.errors import InputError

SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"
NAMED = 24
"""Messages name the genes, or the choices of a gene, if there are at most this many."""


@dataclass(frozen=True, slots=True)
class Gene:
    """One categorical decision.

    Args:
        name: The name of the decision in error messages.
        choices: The names of the alternatives. Up to 36 choices take one symbol of the code, more take two.
        parts: The names of the parts of a choice, if the names of choices are parts joined by underscores, such as
            ``("type", "growth")`` for ``S_16``. Strategies may credit the parts. If empty, choices have no parts.

    Raises:
        InputError: There are too few or too many choices, or the name of a choice has other parts.
    """

    name: str
    choices: tuple[str, ...]
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= len(self.choices) <= len(SYMBOLS) ** 2:
            raise InputError(
                f"a gene must have 2 to {len(SYMBOLS) ** 2:,} choices, but {self.name!r} has {len(self.choices):,}; "
                "split it in two"
            )
        for choice in self.choices:
            if self.parts and choice.count("_") + 1 != len(self.parts):
                raise InputError(
                    f"a choice of the gene {self.name!r} must be {'_'.join(self.parts)}, but {choice!r} has "
                    f"{choice.count('_') + 1} parts"
                )

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbol of each choice in a code."""
        if len(self.choices) <= len(SYMBOLS):
            return tuple(SYMBOLS[: len(self.choices)])
        return tuple(a + b for a in SYMBOLS for b in SYMBOLS)[: len(self.choices)]

    def legend(self) -> str:
        """The symbols with their meaning: ``0 (none), 1 (skip_connect)``; of many only the first and the last."""
        meanings = [f"{symbol} ({choice})" for symbol, choice in zip(self.symbols, self.choices, strict=True)]
        return ", ".join(meanings if len(meanings) <= NAMED else [*meanings[:3], "…", meanings[-1]])


def checked(genes: object, space: str) -> Sequence[Gene]:
    """The genes of a space.

    Args:
        genes: What its class has as `genes`.
        space: The name of the space.

    Raises:
        InputError: It is no sequence of genes.
    """
    if not isinstance(genes, Sequence) or not genes or not all(isinstance(gene, Gene) for gene in genes):
        raise InputError(
            f"the genes of a space must be a tuple of Gene(name, choices), at least one, but those of {space} are "
            f'{reprlib.repr(genes)}; write Gene("width", ("16", "24")), or use nasplat.space(genes, build)'
        )
    return genes
