"""The eval suites that come with the project: one folder each, with a YAML file for each format it can be run in."""
