"""Mutations replace methods of the product by name. A name that does not exist any more must not go unnoticed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chaos import mutations


def test_every_mutation_finds_the_methods_that_it_replaces() -> None:
    """In another process, which ends with its mutations."""
    program = "from chaos.mutations import MUTATIONS, inject; inject(MUTATIONS)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_method_that_does_not_exist_is_an_error() -> None:
    class Product:
        def verify(self) -> None:
            raise NotImplementedError

    with pytest.raises(AttributeError, match="Product'> has no attribute check any more"):
        mutations._replace(Product, "check", None)
    assert not hasattr(Product, "check")


def test_an_unknown_mutation_is_an_error() -> None:
    with pytest.raises(KeyError):
        mutations.inject(["epochs-doubled"])
