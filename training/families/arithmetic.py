"""Plain arithmetic, percentages, unit prices, gcd by hand, counting.

Every sampler is one family. All questions and answers are composed here.
"""

import math
from random import Random

from training.conversation import Check, Example, ask, number

_OPENERS = ("What is {}?", "Calculate {}.", "Compute {}.", "{} = ?", "How much is {}?", "Please work out {}.", "{}")


def plain(rng: Random) -> Example:
    """One operation on two numbers; the answer is the equation."""
    operation = rng.choice("++--**/")
    if operation == "+":
        left, right = rng.choice(((2, 2), (2, 1), (3, 2), (3, 3), (1, 1)))
        a, b = rng.randrange(10**left), rng.randrange(10**right)
        result = a + b
    elif operation == "-":
        a = rng.randrange(10 ** rng.choice((1, 2, 2, 3)))
        b = rng.randint(0, a)
        result = a - b
    elif operation == "*":
        a, b = rng.randint(2, 12 if rng.random() < 0.5 else 60), rng.randint(2, 12)
        result = a * b
    else:
        b, result = rng.randint(2, 12), rng.randint(1, 20)
        a = b * result
    sign, word = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times"), "/": ("/", "divided by")}[operation]
    shown = {"*": rng.choice(("*", "*", "x")), "/": "/"}.get(operation, sign)
    form = rng.random()
    expression = f"{a} {word} {b}" if form < 0.3 else f"{a}{shown}{b}" if form < 0.4 else f"{a} {shown} {b}"
    question = rng.choice(_OPENERS).format(expression)
    answer = f"{a} {sign} {b} = {result}"
    return ask("arithmetic", f"{a}{operation}{b}", question, answer, Check(kind="number", expected=str(result)))


def percentage(rng: Random) -> Example:
    """A percentage of a round number."""
    rate = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75))
    base = rng.randint(1, 40) * 20
    result = number(base * rate / 100)
    question = rng.choice(
        ("What is {r}% of {b}?", "Calculate {r} percent of {b}.", "How much is {r}% of {b}?", "Find {r}% of {b}.")
    ).format(r=rate, b=base)
    answer = f"{rate}% of {base} is {base} * {number(rate / 100)} = {result}."
    return ask("percentage", f"{rate}%{base}", question, answer, Check(kind="number", expected=result))


def unit_price(rng: Random) -> Example:
    """Price of several things from the price of one, or of one from several."""
    things = rng.choice(("pens", "books", "apples", "tickets", "notebooks", "cups", "bags", "chairs"))
    one = things[:-1]
    count, price = rng.randint(2, 12), rng.randint(2, 20)
    total = count * price
    if rng.random() < 0.6:
        question = rng.choice(
            (
                "One {one} costs ${p}. How much do {n} {many} cost?",
                "If a {one} costs ${p}, what is the price of {n} {many}?",
                "What do {n} {many} cost at ${p} each?",
            )
        ).format(one=one, p=price, n=count, many=things)
        answer, result = f"{count} * {price} = {total}. The {things} cost ${total}.", total
    else:
        question = rng.choice(
            ("{n} {many} cost ${t}. How much is one {one}?", "If {n} {many} cost ${t}, what does one {one} cost?")
        ).format(one=one, t=total, n=count, many=things)
        answer, result = f"{total} / {count} = {price}. One {one} costs ${price}.", price
    return ask("unit price", f"{count}@{price}", question, answer, Check(kind="number", expected=str(result)))


def greatest_divisor(rng: Random) -> Example:
    """Euclid's steps on two numbers."""
    factor = rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12))
    a, b = factor * rng.randint(2, 12), factor * rng.randint(2, 12)
    a, b = max(a, b), min(a, b)
    question = rng.choice(
        ("What is the gcd of {a} and {b}?", "Find the greatest common divisor of {a} and {b}.", "gcd({a}, {b}) = ?")
    ).format(a=a, b=b)
    steps, left, right = [], a, b
    while right:
        steps.append(f"{left} mod {right} = {left % right}")
        left, right = right, left % right
    result = math.gcd(a, b)
    answer = ", ".join(steps) + f". The greatest common divisor is {result}."
    return ask("gcd", f"{a}&{b}", question, answer, Check(kind="number", expected=str(result)))


def counting(rng: Random) -> Example:
    """Count up, down or in steps."""
    kind = rng.random()
    first, last, step = 1, rng.randint(3, 40), 1
    if kind < 0.1:
        last = rng.choice((50, 60, 80, 100))
    elif kind < 0.3:
        first = rng.randint(2, 60)
        last = first + rng.randint(3, 20)
    elif kind < 0.4:
        first, last, step = rng.randint(5, 20), 1, -1
    elif kind < 0.5:
        step = rng.choice((2, 5, 10))
        first, last = step, step * rng.randint(4, 10)
    if step == 1:
        question = rng.choice(
            (
                "Count from {a} to {b}.",
                "Count from {a} to {b}",
                "Please count from {a} to {b}.",
                "List the numbers from {a} to {b}.",
                "Write all numbers from {a} to {b}, separated by commas.",
                "Can you count from {a} up to {b}?",
            )
        )
    elif step < 0:
        question = rng.choice(("Count down from {a} to {b}.", "Count backwards from {a} to {b}."))
    else:
        question = rng.choice(("Count from {a} to {b} in steps of {s}.", "Count by {s} from {a} to {b}."))
    values = range(first, last + (1 if step > 0 else -1), step)
    question = question.format(a=first, b=last, s=step)
    return ask("counting", f"{first}..{last}:{step}", question, ", ".join(map(str, values)))


def steps(rng: Random) -> Example:
    """Three small numbers joined by two operations, solved one at a time."""
    a, b, c = rng.randint(2, 30), rng.randint(2, 12), rng.randint(2, 12)
    form = rng.randrange(3)
    if form == 0:
        expression, inner, result = f"{a} + {b} * {c}", f"{b} * {c} = {b * c}", a + b * c
        outer = f"{a} + {b * c} = {result}"
    elif form == 1:
        expression, inner, result = f"({a} + {b}) * {c}", f"{a} + {b} = {a + b}", (a + b) * c
        outer = f"{a + b} * {c} = {result}"
    else:
        expression, inner, result = f"{a} * {b} + {c}", f"{a} * {b} = {a * b}", a * b + c
        outer = f"{a * b} + {c} = {result}"
    question = rng.choice(("Solve step by step: {}", "What is {}? Show your steps.", "Calculate {} step by step."))
    answer = f"First, {inner}. Then, {outer}. The answer is {result}."
    return ask("arithmetic steps", expression, question.format(expression), answer, Check(kind="number", expected=str(result)))
