"""The next case of a run: a new one of a layer in turn, or a change to one of the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from ostnode.fuzz.cases import Case, Layer
from ostnode.fuzz.making import bytewise, cborwise, semantics, sessions
from ostnode.fuzz.making.material import Material
from ostnode.fuzz.making.mutating import mutate

_MAKERS: Final[Mapping[Layer, Callable[[Random, Material], Case]]] = {
    Layer.BYTES: bytewise.make,
    Layer.CBOR: cborwise.make,
    Layer.SESSION: sessions.make,
    Layer.SEMANTICS: semantics.make,
}
_MUTATED: Final = 0.4
"""Of all cases, once there is a pool."""


class Chooser:
    """Makes case after case; the same seed and pools give the same cases."""

    def __init__(self, seed: int, material: Material, layers: Sequence[Layer] = ()) -> None:
        self._seed, self._material = seed, material
        self._layers = list(layers) or list(Layer)

    def case(self, number: int, pool: Sequence[Case]) -> Case:
        """Case number so and so."""
        rng = Random(f"{self._seed} {number}")  # noqa: S311  repeatable on purpose
        if pool and rng.random() < _MUTATED:
            return mutate(rng, rng.choice(pool), pool)
        return _MAKERS[self._layers[number % len(self._layers)]](rng, self._material)
