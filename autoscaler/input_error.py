"""The error for input that cannot be used: files, names and numbers from outside.

The reading code raises `InputError` (`refused_input.py` makes one of pydantic's errors), the command line prints it as
one line and exits with status 2. A mistake of our own is never an `InputError`; it stays an ordinary exception.
"""

from __future__ import annotations


class InputError(Exception):
    """One sentence that names the file, the place in it, the value, what is wrong and how to fix it.

    `file` is the name as the user gave it. `line` counts from 1, the header included. `field` is a
    column, a JSON field or an option. `value` is shown as it was read, shortened if long. `problem`
    says what is wrong ("this is negative"), `hint` what to do ("give a whole number from 0 up").
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the sentence, in its order
        self, file: str, line: int | None, field: str | None, value: object, problem: str, hint: str
    ) -> None:
        super().__init__(file, line, field, value, problem, hint)
        self.file = file
        self.line = line
        self.field = field
        self.value = value
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        place = self.file
        if self.line is not None:
            place += f", line {self.line}"
        if self.field is not None:
            place += f", field {self.field}"
        if self.value is not None:
            place += f", value {_shortened(self.value)}"
        return f"{place}: {self.problem}; {self.hint}."


def _shortened(value: object, limit: int = 60) -> str:
    """Quote a value on one line, so that a megabyte of rubbish does not fill the terminal."""
    text = repr(value if isinstance(value, str) else str(value))
    return text if len(text) <= limit else text[: limit - 4] + "..." + text[-1]
