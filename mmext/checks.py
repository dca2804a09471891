"""Checks of arguments, for losses, heads and assigners."""


def name_of(owner: object) -> str:
    """How a message names the owner of an argument: a string as it is, any other object by its class."""
    return owner if isinstance(owner, str) else type(owner).__name__


def check_choice(owner: object, name: str, value: object, choices: tuple) -> None:
    """Raise a ValueError that names the value and the choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(f'{name_of(owner)}: {name} must be one of {", ".join(map(repr, choices))}, but is {value!r}')


def check_at_least(owner: object, low: float, **values: float) -> None:
    """Raise a ValueError that names the first value that is not a finite number of at least `low`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < float('inf'):
            raise ValueError(f'{name_of(owner)}: {name} must be a number of at least {low}, but is {value!r}')


def check_positive(owner: object, **values: float) -> None:
    """Raise a ValueError that names the first value that is not a finite number above 0."""
    check_at_least(owner, 0, **values)
    for name, value in values.items():
        if value == 0:
            raise ValueError(f'{name_of(owner)}: {name} must be above 0, but is 0')
