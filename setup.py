"""The packages of the wheel; all else is in pyproject.toml.

`recipes/` is not inside a package: in the wheel it is alignment/recipes, where alignment/pipeline/recipes/packaged.py
finds it. pyproject.toml can list packages or find them, but cannot add a folder to those that it finds.
"""

from setuptools import find_namespace_packages, setup

FOUND = find_namespace_packages(include=["alignment*", "reward_models*", "eval*"])

setup(packages=[*FOUND, "alignment.recipes"], package_dir={"alignment.recipes": "recipes"})
