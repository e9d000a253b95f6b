"""The teacher's features of a whole pool, on disk."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nasplat.data.picked import Layout
from nasplat.data.pool import Images, Pool
from nasplat.data.pool_pass import FREE, IS_UNREADABLE, MARKS, USABLE, Column, PoolPass, Told, content
from nasplat.errors import InputError
from nasplat.picking.feature_maps import FeatureMaps

FEATURES, ANSWERS = "features.f4", "answers.i4"
IS_KNOWN = FREE
"""The mark of one of the labelled images again."""


@dataclass(frozen=True)
class PoolFeatures:
    """The features of all images of a pool.

    Args:
        kept: What was computed of them.
    """

    kept: PoolPass

    @classmethod
    def of(
        cls, folder: Path, pool: Pool, maps: FeatureMaps, layout: Layout, known: Collection[bytes], told: Told
    ) -> "PoolFeatures":
        """Read the pool and keep the features of its images; those that are kept already are not read again.

        Args:
            folder: Where they are kept.
            pool: The pool.
            maps: Gives the features.
            layout: How images are made ready.
            known: The contents of the labelled images, which no image of the pool may be.
            told: Is told of the progress.

        Raises:
            InputError: No image of the pool can be used.
            StorageError: The disk is full.
        """
        scaling = layout.scaling

        def compute(images: Images) -> dict[str, NDArray[Any]]:
            logits, found = maps(scaling(torch.from_numpy(images)))
            marks = np.where([content(image) in known for image in images], IS_KNOWN, USABLE)
            return {FEATURES: found.numpy(), ANSWERS: logits.argmax(1).numpy(), MARKS: marks}

        columns = {FEATURES: Column("f4", maps.dimensions), ANSWERS: Column("i4", empty=-1)}
        kept = PoolPass.of(folder, pool, columns, compute, told)
        if not len(kept.usable):
            kept.delete()
            raise InputError(
                f"no image was picked, since none of the {len(pool):,} images of the pool can be used: "
                f"{kept.count(IS_UNREADABLE):,} cannot be read{kept.example()}, and "
                f"{kept.count(IS_KNOWN):,} are labelled images again; give another pool"
            )
        return cls(kept)

    @cached_property
    def answers(self) -> NDArray[np.int32]:
        """The class that the teacher gives to each image, `[n]`; -1 where it saw none."""
        return self.kept.column(ANSWERS)

    def chunks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The features of all images in order, a few thousand at a time, with the row of the first."""
        for first, features in self.kept.chunks(FEATURES):
            yield first, torch.from_numpy(features)

    def sample(self, most: int, seed: int) -> torch.Tensor:
        """The features of usable images, drawn at random; all if there are no more than `most`."""
        usable = self.kept.usable
        if len(usable) > most:
            drawn = random.Random(seed).sample(range(len(usable)), most)
            usable = usable[np.sort(np.array(drawn))]
        parts = []
        for first, features in self.chunks():
            inside = usable[(usable >= first) & (usable < first + len(features))] - first
            parts.append(features[torch.from_numpy(inside)])
        return torch.cat(parts)
