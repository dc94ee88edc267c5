"""What pydantic finds wrong with a body, as one place and one sentence in JSON's words. Pure."""

from typing import TypeAlias

Fault: TypeAlias = tuple[tuple[int | str, ...], str]
"""Place and message, pydantic's."""


def find_first_fault(faults: list[Fault]) -> Fault:
    """Return the first fault. Where a field may have several forms, that is the fault of the form that it nearly has.

    pydantic puts the form's name ('str', 'list[int]') into the place of each fault. A value nearly has a form whose fault is within
    an object or a list of its own; where no form is such, or several are, the fault is that the value has none of them.
    """
    place, message = faults[0]
    at = next((i for i, part in enumerate(place) if isinstance(part, str) and (part in _FORMS or "[" in part)), None)
    if at is None:
        return place, message
    faults = [fault for fault in faults if fault[0][:at] == place[:at] and len(fault[0]) > at]
    deeper = [fault for fault in faults if len(fault[0]) > at + 1 + str(fault[0][at]).startswith("list[")]
    if len({fault[0][at] for fault in deeper}) == 1:
        return find_first_fault([(where[:at] + where[at + 1 :], what) for where, what in deeper])
    forms = dict.fromkeys(_plain(str(where[at])) for where, _ in faults)
    return place[:at], f"must be {' or '.join(forms)}"


def _plain(form: str) -> str:
    """Return a form's name in JSON's words."""
    if form in _FORMS:
        return _FORMS[form]
    if form.startswith("list["):
        inner = _plain(form[5:-1])
        return f"a list of {_SEVERAL.get(inner, 'objects')}"
    if form.startswith("literal["):
        return form[8:-1].replace(",", " or ")
    return "an object"


_FORMS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}
_SEVERAL = {"a string": "strings", "an integer": "integers", "a number": "numbers", "a list of integers": "lists of integers"}
