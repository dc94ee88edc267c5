"""Plain arithmetic, percentages, unit prices, gcd by hand, counting.

Every sampler is one family. All questions and answers are composed here. Whatever is not in the multiplication table up to
12 x 12 is worked out in the answer by steps that are: a small model computes well what it may write down.
"""

import math
from collections.abc import Callable
from random import Random

from training.embedded.conversation import OPEN_KEY, Check, Example, ask, number

_OPENERS = ("What is {}?", "Calculate {}.", "Compute {}.", "{} = ?", "How much is {}?", "Please work out {}.", "{}")


def places(number: int) -> list[int]:
    """Split a number by its digits: 507 is 500 and 7."""
    text = str(number)
    parts = [int(digit) * 10**power for power, digit in zip(range(len(text) - 1, -1, -1), text, strict=True)]
    return [part for part in parts if part] or [0]


def sum_steps(a: int, b: int, sign: str = "+", write: Callable[[int], str] = str) -> str:
    """Write a + b or a - b as a chain of equations that ends with the result, one digit of b at a time."""
    if sign == "-" and a == b:
        return f"{write(a)} - {write(b)} = {write(0)}"
    parts = places(b)
    chain = [f"{write(a)} {sign} {write(b)}"]
    for at, part in enumerate(parts):
        if len(parts) > 1:
            chain.append(" ".join([write(a), *(f"{sign} {write(each)}" for each in parts[at:])]))
        a += part if sign == "+" else -part
    return " = ".join([*chain, write(a)])


def money_product_steps(a: int, b: int) -> str:
    """Write a * b, a in hundredths and b of one digit: the products of a's digits, then their running sum."""
    parts = places(a)
    start = f"{money(a)} * {b}"
    if len(parts) == 1:
        return f"{start} = {money(a * b)}"
    lines, total = [], parts[0] * b
    for part in parts[1:]:
        value = part * b
        first, *rest = places(value)
        between = f" = {money(total + first)} + {money(rest[0])}" if rest else ""
        lines.append(f"{money(total)} + {money(value)}{between} = {money(total + value)}")
        total += value
    return f"{start} = {' + '.join(f'{money(part)} * {b}' for part in parts)}: {', '.join(lines)}"


def money(hundredths: int) -> str:
    """Write an amount in hundredths without trailing zeros."""
    return number(hundredths / 100)


def product_steps(a: int, b: int) -> str:
    """Write a * b as a chain of equations that ends with the product; b is at most 12."""
    start = f"{a} * {b}"
    parts = places(a)
    if a <= 12 or b == 10 or (a <= 120 and a % 10 == 0) or (len(parts) == 1 and b < 10):
        return f"{start} = {a * b}"
    if b > 10:
        split, values = f"{a} * 10 + {a} * {b - 10}", [a * 10, a * (b - 10)]
    else:
        split, values = " + ".join(f"{part} * {b}" for part in parts), [part * b for part in parts]
    chain = [start, split]
    values = [values[0], *(place for value in values[1:] for place in places(value))]
    while len(values) > 1:
        chain.append(" + ".join(map(str, values)))
        values = [values[0] + values[1], *values[2:]]
    return " = ".join([*chain, str(values[0])])


def quotient_steps(a: int, b: int) -> str:
    """Write the whole quotient a / b as a chain of equations; b is at most 12."""
    result = a // b
    if result <= 12:
        return f"{a} / {b} = {result}"
    tens = result // 10 * 10
    if result == tens:
        return f"{a} / {b} = {result}"
    return f"{a} / {b} = {b * tens} / {b} + {a - b * tens} / {b} = {tens} + {result - tens} = {result}"


def plain(rng: Random) -> Example:
    """One operation on two numbers; the answer is the equation."""
    operation, key = rng.choice("++--**/"), ""
    if operation == "+":
        left, right = rng.choice(((2, 2), (2, 1), (3, 2), (3, 3), (1, 1), (4, 3)))
        a, b = rng.randrange(10**left), rng.randrange(10**right)
        answer, result = sum_steps(a, b), a + b
        key = OPEN_KEY if max(a, b) < 10 else ""
    elif operation == "-":
        a = rng.randrange(10 ** rng.choice((1, 2, 2, 3)))
        b = rng.randint(0, a)
        answer, result = sum_steps(a, b, "-"), a - b
        key = OPEN_KEY if a < 20 else ""
    elif operation == "*":
        a, b = rng.randint(2, 12 if rng.random() < 0.4 else 99), rng.randint(2, 12)
        answer, result = product_steps(a, b), a * b
        key = OPEN_KEY if a <= 12 else ""
    else:
        b, result = rng.randint(2, 12), rng.randint(1, 30 if rng.random() < 0.6 else 120)
        a = b * result
        answer = quotient_steps(a, b)
        if rng.random() < 0.3:  # 480 / 6 by way of 48 / 6
            a, result = a * 10, result * 10
            answer = f"{a // 10} / {b} = {result // 10}, so {a} / {b} = {result}" if result > 120 else f"{a} / {b} = {result}"
        key = OPEN_KEY if result <= 12 or (result <= 120 and result % 10 == 0) else ""
    sign, word = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times"), "/": ("/", "divided by")}[operation]
    shown = {"*": rng.choice(("*", "*", "x")), "/": "/"}.get(operation, sign)
    form = rng.random()
    expression = f"{a} {word} {b}" if form < 0.3 else f"{a}{shown}{b}" if form < 0.4 else f"{a} {shown} {b}"
    question = rng.choice(_OPENERS).format(expression)
    return ask("arithmetic", key or f"{a}{operation}{b}", question, answer, Check(kind="number", expected=str(result)))


def percentage(rng: Random) -> Example:
    """A percentage of a round number, by way of its tenth."""
    rate = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60))
    base = rng.randint(1, 50) * 20
    tenth, result = base // 10, base * rate // 100
    question = rng.choice(
        ("What is {r}% of {b}?", "Calculate {r} percent of {b}.", "How much is {r}% of {b}?", "Find {r}% of {b}.")
    ).format(r=rate, b=base)
    answer = f"10% of {base} is {tenth}."
    if rate == 5:
        answer += f" Half of {tenth} is {result}."
    elif rate == 50:
        answer = f"Half of {base} is {result}."
    elif rate == 15:
        answer += f" Half of {tenth} is {tenth // 2}. {tenth} + {tenth // 2} = {result}."
    elif rate == 25:
        answer += f" Half of {tenth} is {tenth // 2}. {tenth} + {tenth} + {tenth // 2} = {2 * tenth} + {tenth // 2} = {result}."
    elif rate > 10:
        answer += f" {product_steps(tenth, rate // 10)}."
    return ask("percentage", f"{rate}%{base}", question, answer, Check(kind="number", expected=str(result)))


def unit_price(rng: Random) -> Example:
    """Price of several things from the price of one, or of one from several."""
    things = rng.choice(("pens", "books", "apples", "tickets", "notebooks", "cups", "bags", "chairs", "shirts", "lamps", "keys"))
    one = things[:-1]
    count, price = rng.randint(2, 12), rng.randint(2, 40)
    total = count * price
    if rng.random() < 0.6:
        question = rng.choice(
            (
                "One {one} costs ${p}. How much do {n} {many} cost?",
                "If a {one} costs ${p}, what is the price of {n} {many}?",
                "What do {n} {many} cost at ${p} each?",
                "I buy {n} {many} at ${p} each. How much do I pay?",
            )
        ).format(one=one, p=price, n=count, many=things)
        answer, result = f"{product_steps(price, count)}. The {things} cost ${total}.", total
    else:
        question = rng.choice(
            (
                "{n} {many} cost ${t}. How much is one {one}?",
                "If {n} {many} cost ${t}, what does one {one} cost?",
                "I paid ${t} for {n} {many}. What is the price of one {one}?",
            )
        ).format(one=one, t=total, n=count, many=things)
        answer, result = f"{quotient_steps(total, count)}. One {one} costs ${price}.", price
    return ask("unit price", f"{count}@{price}", question, answer, Check(kind="number", expected=str(result)))


def greatest_divisor(rng: Random) -> Example:
    """Euclid's steps on two numbers."""
    factor = rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12))
    a, b = factor * rng.randint(2, 12), factor * rng.randint(2, 12)
    a, b = max(a, b), min(a, b)
    question = rng.choice(
        (
            "What is the gcd of {a} and {b}?",
            "Find the greatest common divisor of {a} and {b}.",
            "gcd({a}, {b}) = ?",
            "What is the greatest common divisor of {a} and {b}?",
        )
    ).format(a=a, b=b)
    lines, left, right = [], a, b
    while right:
        times = left // right
        lines.append(f"{times} * {right} = {times * right}, {sum_steps(left, times * right, '-')}")
        left, right = right, left % right
    result = math.gcd(a, b)
    answer = ". ".join(lines) + f". The greatest common divisor is {result}."
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
    form = rng.randrange(4)
    if form == 0:
        expression, inner, result = f"{a} + {b} * {c}", f"{b} * {c} = {b * c}", a + b * c
        outer = sum_steps(a, b * c)
    elif form == 1:
        expression, inner, result = f"({a} + {b}) * {c}", sum_steps(a, b), (a + b) * c
        outer = product_steps(a + b, c)
    elif form == 2:
        expression, inner, result = f"{a} * {b} + {c}", product_steps(a, b), a * b + c
        outer = sum_steps(a * b, c)
    else:
        result = a * b - c if a * b >= c else a * b
        c = a * b - result
        expression, inner = f"{a} * {b} - {c}", product_steps(a, b)
        outer = sum_steps(a * b, c, "-")
    question = rng.choice(
        ("Solve step by step: {}", "What is {}? Show your steps.", "Calculate {} step by step.", "Solve {} and show your work.")
    )
    answer = f"First, {inner}. Then, {outer}. The answer is {result}."
    return ask("arithmetic steps", expression, question.format(expression), answer, Check(kind="number", expected=str(result)))
