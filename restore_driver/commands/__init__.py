"""Commands of the driver, a module for each kind; `restore_driver/cli.py` assembles them.

`option_table.py` declares what the four attempts take, `light.py` sends them to an agent without typer, `attempts.py`
makes typer's commands of them. `outcome.py` prints results and errors, `console.py` draws what needs rich. Heavy
imports wait until a command runs.
"""
