"""Examine the installation and the machine, and say what each part lets you do: `align doctor`.

Nothing here imports a required package: a missing or broken one is what the examination is for.
"""
