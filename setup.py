"""The packages of the wheel; all else is in pyproject.toml.

`recipes/` is not inside a package: in the wheel it is alignment/recipes, where packaged_recipes.py of
alignment/pipeline/recipes finds it. pyproject.toml cannot add a folder to the packages that it finds.
"""

from setuptools import find_namespace_packages, setup

FOUND = find_namespace_packages(include=["alignment*", "reward_models*", "eval*"])

setup(packages=[*FOUND, "alignment.recipes"], package_dir={"alignment.recipes": "recipes"})
