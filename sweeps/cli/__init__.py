"""The command line: a module a command, with its help, its options and its action.

A command's module has its help as docstring, whose first line is the summary. ``add_options`` adds its options to its
parser, and ``execute`` does what the command does with the parsed options, by calling `sweeps.api`, and returns the
exit status. `sweeps.cli.main` lists the modules; none of them imports it.
"""
