"""Arithmetic and word problems: sums, percentages, prices, gcd, counting; speed and time, compound interest, rectangles.

Every sampler is one family. What is not in the multiplication table up to 12 x 12 is worked out in the answer by steps that are:
a small model computes well what it may write down.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from training.embedded.conversation import OPEN_KEY, Check, Example, ask, number
from training.embedded.families.texts import PHRASES, WORDS, say

_SIGNS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def problem(rng: Random, family: str, key: str, answer: str, result: object, *, phrase: str = "", **values: Any) -> Example:
    """Ask for a number in one of the family's wordings; the answer's last number is judged."""
    question = say(rng, phrase or family, **values)
    return ask(family, key, question, answer, Check(kind="number", expected=str(result)))


def places(number: int) -> list[int]:
    """Split a number by its digits: 507 is 500 and 7."""
    text = str(number)
    return [int(digit) * 10 ** (len(text) - 1 - at) for at, digit in enumerate(text) if digit != "0"] or [0]


def sum_steps(a: int, b: int, sign: str = "+", write: Callable[[int], str] = str) -> str:
    """Write a + b or a - b as a chain of equations that ends with the result, one digit of b at a time."""
    if sign == "-" and a == b:
        return f"{write(a)} - {write(b)} = {write(0)}"
    parts = places(b)
    chain = [f"{write(a)} {sign} {write(b)}"] if len(parts) > 1 else []
    for at, part in enumerate(parts):
        chain.append(" ".join([write(a), *(f"{sign} {write(each)}" for each in parts[at:])]))
        a += part if sign == "+" else -part
    return " = ".join([*chain, write(a)])


def money(hundredths: int) -> str:
    """Write an amount in hundredths without trailing zeros."""
    return number(hundredths / 100)


def money_product_steps(a: int, b: int) -> str:
    """Write a * b, a in hundredths and b of one digit: the products of a's digits, then their running sum."""
    parts = places(a)
    if len(parts) == 1:
        return f"{money(a)} * {b} = {money(a * b)}"
    lines, total = [], parts[0] * b
    for part in parts[1:]:
        value = part * b
        first, *rest = places(value)
        between = f" = {money(total + first)} + {money(rest[0])}" if rest else ""
        lines.append(f"{money(total)} + {money(value)}{between} = {money(total + value)}")
        total += value
    return f"{money(a)} * {b} = {' + '.join(f'{money(part)} * {b}' for part in parts)}: {', '.join(lines)}"


def product_steps(a: int, b: int) -> str:
    """Write a * b as a chain of equations that ends with the product; b is at most 12."""
    parts = places(a)
    if a <= 12 or b == 10 or (a <= 120 and a % 10 == 0) or (len(parts) == 1 and b < 10):
        return f"{a} * {b} = {a * b}"
    products = [(a, 10), (a, b - 10)] if b > 10 else [(part, b) for part in parts]
    chain = [f"{a} * {b}", " + ".join(f"{left} * {right}" for left, right in products)]
    first, *others = (left * right for left, right in products)
    values = [first, *(place for value in others for place in places(value))]
    while len(values) > 1:
        chain.append(" + ".join(map(str, values)))
        values = [values[0] + values[1], *values[2:]]
    return " = ".join([*chain, str(values[0])])


def quotient_steps(a: int, b: int) -> str:
    """Write the whole quotient a / b as a chain of equations; b is at most 12."""
    result, tens = a // b, a // b // 10 * 10
    split = f"{b * tens} / {b} + {a - b * tens} / {b} = {tens} + {result - tens} = "
    return f"{a} / {b} = {'' if result <= 12 or result == tens else split}{result}"


def plain(rng: Random) -> Example:
    """One operation on two numbers; the answer is the equation."""
    operation = rng.choice("++--**/")
    if operation == "+":
        left, right = rng.choice(((2, 2), (2, 1), (3, 2), (3, 3), (1, 1), (4, 3)))
        a, b = rng.randrange(10**left), rng.randrange(10**right)
        answer, result, known = sum_steps(a, b), a + b, max(a, b) < 10
    elif operation == "-":
        a = rng.randrange(10 ** rng.choice((1, 2, 2, 3)))
        b = rng.randint(0, a)
        answer, result, known = sum_steps(a, b, "-"), a - b, a < 20
    elif operation == "*":
        a, b = rng.randint(2, 12 if rng.random() < 0.4 else 99), rng.randint(2, 12)
        answer, result, known = product_steps(a, b), a * b, a <= 12
    else:
        b, result = rng.randint(2, 12), rng.randint(1, 30 if rng.random() < 0.6 else 120)
        a = b * result
        answer = quotient_steps(a, b)
        if rng.random() < 0.3:  # 480 / 6 by way of 48 / 6
            a, result = a * 10, result * 10
            answer = f"{a // 10} / {b} = {result // 10}, so {a} / {b} = {result}" if result > 120 else f"{a} / {b} = {result}"
        known = result <= 12 or (result <= 120 and result % 10 == 0)
    times, form = rng.choice("**x"), rng.random()
    sign = _SIGNS[operation] if form < 0.3 else times if operation == "*" else operation
    expression = f"{a}{sign}{b}" if 0.3 <= form < 0.4 else f"{a} {sign} {b}"
    return problem(rng, "arithmetic", OPEN_KEY if known else f"{a}{operation}{b}", answer, result, x=expression)


def percentage(rng: Random) -> Example:
    """A percentage of a round number, by way of its tenth."""
    rate = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60))
    base = rng.randint(1, 50) * 20
    tenth, result = base // 10, base * rate // 100
    values = {"base": base, "result": result, "tenth": tenth, "twice": 2 * tenth, "half": tenth // 2}
    answers = PHRASES["percentage answer"]
    answer = answers.get(rate, answers["else"]).format(**values, product=product_steps(tenth, rate // 10))
    return problem(rng, "percentage", f"{rate}%{base}", answer, result, rate=rate, base=base)


def unit_price(rng: Random) -> Example:
    """Price of several things from the price of one, or of one from several."""
    many = rng.choice(WORDS["goods"])
    count, price = rng.randint(2, 12), rng.randint(2, 40)
    one, total = many[:-1], count * price
    phrase, answer, result = "price of several", f"{product_steps(price, count)}. The {many} cost ${total}.", total
    if rng.random() >= 0.6:
        phrase, answer, result = "price of one", f"{quotient_steps(total, count)}. One {one} costs ${price}.", price
    values = {"one": one, "many": many, "price": price, "count": count, "total": total}
    return problem(rng, "unit price", f"{count}@{price}", answer, result, phrase=phrase, **values)


def greatest_divisor(rng: Random) -> Example:
    """Euclid's steps on two numbers."""
    factor = rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12))
    b, a = sorted((factor * rng.randint(2, 12), factor * rng.randint(2, 12)))
    lines, left, right = [], a, b
    while right:
        times, rest = divmod(left, right)
        lines.append(f"{times} * {right} = {left - rest}, {sum_steps(left, left - rest, '-')}")
        left, right = right, rest
    answer = ". ".join(lines) + f". The greatest common divisor is {left}."
    return problem(rng, "gcd", f"{a}&{b}", answer, left, a=a, b=b)


def counting(rng: Random) -> Example:
    """Count up, down or in steps."""
    kind, values, phrase = rng.random(), range(1, rng.randint(3, 40) + 1), "count"
    if kind < 0.1:
        values = range(1, rng.choice((50, 60, 80, 100)) + 1)
    elif kind < 0.3:
        first = rng.randint(2, 60)
        values = range(first, first + rng.randint(3, 20) + 1)
    elif kind < 0.4:
        values, phrase = range(rng.randint(5, 20), 0, -1), "count down"
    elif kind < 0.5:
        step = rng.choice((2, 5, 10))
        values, phrase = range(step, step * rng.randint(4, 10) + 1, step), "count by"
    question = say(rng, phrase, first=values[0], last=values[-1], step=values.step)
    return ask("counting", f"{values[0]}..{values[-1]}:{values.step}", question, ", ".join(map(str, values)))


def steps(rng: Random) -> Example:
    """Three small numbers joined by two operations, solved one at a time."""
    a, b, c = rng.randint(2, 30), rng.randint(2, 12), rng.randint(2, 12)
    if (form := rng.randrange(4)) == 3 and c > a * b:
        c = 0
    expression, inner, outer, result = (
        (f"{a} + {b} * {c}", f"{b} * {c} = {b * c}", sum_steps(a, b * c), a + b * c),
        (f"({a} + {b}) * {c}", sum_steps(a, b), product_steps(a + b, c), (a + b) * c),
        (f"{a} * {b} + {c}", product_steps(a, b), sum_steps(a * b, c), a * b + c),
        (f"{a} * {b} - {c}", product_steps(a, b), sum_steps(a * b, c, "-"), a * b - c),
    )[form]
    answer = f"First, {inner}. Then, {outer}. The answer is {result}."
    return problem(rng, "arithmetic steps", expression, answer, result, x=expression)


_METRIC, _MILES = ("km", "km/h"), ("miles", "mph")


def faster_journey(rng: Random) -> Example:
    """The same way at a higher speed."""
    while True:
        speed, hours, more = rng.randrange(10, 116, 5), rng.randint(2, 10), rng.randrange(5, 65, 5)
        distance, new_speed = speed * hours, speed + more
        if new_speed % 10 == 0 and new_speed <= 120 and distance * 10 % new_speed == 0:
            break
    vehicle, (unit, per_hour) = rng.choice(WORDS["vehicles"]), rng.choice((_METRIC, _METRIC, _MILES))
    answer = faster_answer(distance, hours, more, per_hour)
    values = {"vehicle": vehicle, "distance": distance, "unit": unit, "hours": hours, "more": more, "per_hour": per_hour}
    return problem(rng, "speed", f"{distance}/{hours}+{more}", answer, number(distance / new_speed), **values)


def faster_answer(distance: int, hours: int, more: int, per_hour: str) -> str:
    """Work out how long the way takes at the higher speed."""
    old, new = distance // hours, distance // hours + more
    # The new speed is a multiple of ten and the time has one decimal: how often the speed fits, and what part of it is left.
    times, rest = divmod(distance, new)
    division = f"{times} * {new} = {times * new}, {sum_steps(distance, times * new, '-')}"
    if rest:
        division += f", {rest} / {new // 10} = {10 * rest // new}, {rest} / {new} = {number(rest / new)}"
    values = {"speed": quotient_steps(distance, hours), "division": division, "distance": distance, "time": number(distance / new)}
    return str(PHRASES["speed answer"].format(old=old, more=more, new=new, per_hour=per_hour, **values))


def two_legs(rng: Random) -> Example:
    """Total distance over two speeds."""
    vehicle, (unit, per_hour) = rng.choice(WORDS["vehicles"]), rng.choice((_MILES, _MILES, _METRIC))
    a, b = rng.randrange(20, 101, 10), rng.randrange(20, 101, 10)
    s, t = rng.randint(1, 10) / 2, rng.randint(1, 10) / 2
    total = number(a * s + b * t)
    values = {"a": a, "b": b, "s": number(s), "t": number(t), "unit": unit, "vehicle": vehicle, "per_hour": per_hour}
    answer = PHRASES["two legs answer"].format(x=number(a * s), y=number(b * t), total=total, **values)
    return problem(rng, "two legs", f"{a}*{s}+{b}*{t}", answer, total, **values)


def compound_interest(rng: Random) -> Example:
    """A sum that grows for one to three years, year by year; only sums that come out exact to the cent."""
    while True:
        start = rng.choice((rng.randint(1, 100) * 100, rng.randint(1, 20) * 500, rng.randint(1, 20) * 1000))
        rate, years = rng.choice((2, 3, 4, 5, 6, 8, 10)), rng.choice((1, 2, 2, 3, 3))
        if start * (100 + rate) ** years % 100 ** (years - 1) == 0:
            break
    answer, amount = compound_answer(start, rate, years)
    return problem(rng, "compound interest", f"{start}@{rate}*{years}", answer, amount, start=start, rate=rate, years=years)


def compound_answer(start: int, rate: int, years: int) -> tuple[str, str]:
    """Work out the growing sum year by year; return the working and the amount."""
    cents, lines = start * 100, []
    for year in range(1, years + 1):
        interest = cents * rate // 100
        worked = f" {money_product_steps(cents, rate)}, so" if rate < 10 else ""
        values = {"amount": money(cents), "interest": money(interest), "sum": sum_steps(cents, interest, write=money)}
        lines.append(PHRASES["interest of a year"].format(year=year, worked=worked, rate=rate, **values))
        cents += interest
    return "\n".join(lines) + f"\nThe final amount is ${cents / 100:.2f}.", money(cents)


def scaled_rectangle(rng: Random) -> Example:
    """How the area grows when both sides grow by one percentage."""
    length, width = rng.randint(3, 30), rng.randint(2, 20)
    rate = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100))
    square, growth = number((1 + rate / 100) ** 2, 4), number((100 + rate) ** 2 / 100 - 100, 4)
    unit = rng.choice(("cm", "cm", "m", "mm"))
    answer = PHRASES["rectangle answer"].format(factor=number(1 + rate / 100), square=square, growth=growth)
    return problem(rng, "rectangle", f"{length}x{width}^{rate}", answer, growth, length=length, width=width, rate=rate, unit=unit)


def rectangle_area(rng: Random) -> Example:
    """Area of a rectangle with small sides."""
    length, width, unit = rng.randint(2, 40), rng.randint(2, 12), rng.choice(("cm", "m"))
    question = say(rng, "area", length=length, width=width, unit=unit)
    answer = f"{product_steps(length, width)}. The area is {length * width} square {unit}."
    return ask("area", f"{length}x{width}", question, answer, Check(kind="contains", expected=f"is {length * width} square"))
