"""One module for each kind of command; `restore_driver/cli.py` puts them together.

`option_table.py` says what the four attempts take, `light.py` sends them to an agent without typer, `attempts.py` makes
typer's commands of them. Heavy imports wait until a command runs.
"""
