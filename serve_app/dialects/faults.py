"""Reduces pydantic's faults of a body to one place and one sentence in JSON's terms. Pure."""

from typing import TypeAlias

Fault: TypeAlias = tuple[tuple[int | str, ...], str]
"""Place and message of one of pydantic's errors."""


def find_first_fault(faults: list[Fault]) -> Fault:
    """Return the first fault. Where a field may have several forms, return the fault of the form that the value resembles.

    pydantic puts the form's name ('str', 'list[int]') into the place of each fault. A value resembles a form when the fault lies
    inside the value's own object or list. Where it resembles no form, or several, the fault is that it has none of the forms.
    """
    place, message = faults[0]
    at = next((i for i, part in enumerate(place) if isinstance(part, str) and (part in _FORM_NAMES or "[" in part)), None)
    if at is None:
        return place, message
    faults = [fault for fault in faults if fault[0][:at] == place[:at] and len(fault[0]) > at]
    deeper = [fault for fault in faults if len(fault[0]) > at + 1 + str(fault[0][at]).startswith("list[")]
    if len({fault[0][at] for fault in deeper}) == 1:
        return find_first_fault([(where[:at] + where[at + 1 :], what) for where, what in deeper])
    forms = dict.fromkeys(_show_form(str(where[at])) for where, _ in faults)
    return place[:at], f"must be {' or '.join(forms)}"


def _show_form(form: str) -> str:
    """Return a form's name in JSON's terms."""
    if form in _FORM_NAMES:
        return _FORM_NAMES[form]
    if form.startswith("list["):
        inner = _show_form(form[5:-1])
        return f"a list of {_PLURALS.get(inner, 'objects')}"
    if form.startswith("literal["):
        return form[8:-1].replace(",", " or ")
    return "an object"


_FORM_NAMES = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}
_PLURALS = {"a string": "strings", "an integer": "integers", "a number": "numbers", "a list of integers": "lists of integers"}
