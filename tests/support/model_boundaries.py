"""Boundaries that take what a training or a prediction has left: a recipe, a model, a checkpoint, a journal."""

import yaml
from boundaries import Boundary

from modeling_cpsl.experiments.recipe import RECIPES, read_recipe


def boundary(name):
    """The boundary of this name."""
    return {"recipe": _recipe}[name]()


def _recipe():
    def read(folder):
        read_recipe(folder / "recipe.yaml", output_dir=str(folder))

    packaged = yaml.safe_load((RECIPES / "sample.yaml").read_text())
    return Boundary([{"recipe.yaml": packaged}, {"recipe.yaml": read_recipe("sample").resolved()}], read)
