"""Word problems with several steps: speed and time, legs of a journey, compound interest, scaled rectangles.

The wording of the tutorial's four mathematics prompts is one of the phrasings of each family.
"""

from random import Random

from training.embedded.conversation import Check, Example, ask, number
from training.embedded.families.arithmetic import (
    money,
    money_product_steps,
    product_steps,
    quotient_steps,
    sum_steps,
)

_VEHICLES = ("train", "car", "bus", "truck", "cyclist", "boat")


def faster_journey(rng: Random) -> Example:
    """The same way at a higher speed."""
    while True:
        speed, hours, more = rng.randrange(10, 116, 5), rng.randint(2, 10), rng.randrange(5, 65, 5)
        distance, new_speed = speed * hours, speed + more
        if new_speed % 10 == 0 and new_speed <= 120 and distance * 10 % new_speed == 0:
            break
    result = number(distance / new_speed)
    vehicle = rng.choice(_VEHICLES)
    unit, per_hour = rng.choice((("km", "km/h"), ("km", "km/h"), ("miles", "mph")))
    question = rng.choice(
        (
            "A {v} travels {d} {u} in {h} hours. If it increases its speed by {m} {k}, how long would the same journey take?",
            "A {v} covers {d} {u} in {h} hours. How long does the same trip take if its speed goes up by {m} {k}?",
            "A {v} needs {h} hours for {d} {u}. If it goes {m} {k} faster, how many hours does it need?",
        )
    ).format(v=vehicle, d=distance, u=unit, h=hours, m=more, k=per_hour)
    answer = faster_answer(distance, hours, more, per_hour)
    return ask("speed", f"{distance}/{hours}+{more}", question, answer, Check(kind="number", expected=result))


def faster_answer(distance: int, hours: int, more: int, per_hour: str) -> str:
    """Work out how long the way takes at the higher speed."""
    speed = distance // hours
    faster = speed + more
    return (
        f"The speed is {quotient_steps(distance, hours)} {per_hour}. The new speed is {speed} + {more} = {faster} {per_hour}. "
        f"The time is {distance} / {faster}: {quotient_by_rest(distance, faster)}, so {number(distance / faster)} hours."
    )


def quotient_by_rest(a: int, b: int) -> str:
    """Work out a / b, b a multiple of ten and the quotient of one decimal: how often b fits, and what part of b is left."""
    times, rest = divmod(a, b)
    worked = f"{times} * {b} = {times * b}, {sum_steps(a, times * b, '-')}"
    return worked + (f", {rest} / {b // 10} = {10 * rest // b}, {rest} / {b} = {number(rest / b)}" if rest else "")


def two_legs(rng: Random) -> Example:
    """Total distance over two speeds."""
    vehicle = rng.choice(_VEHICLES)
    unit, per_hour = rng.choice((("miles", "mph"), ("miles", "mph"), ("km", "km/h")))
    speeds = (rng.randrange(20, 101, 10), rng.randrange(20, 101, 10))
    hours = (rng.randint(1, 10) / 2, rng.randint(1, 10) / 2)
    parts = [speed * time for speed, time in zip(speeds, hours, strict=True)]
    total = number(sum(parts))
    question = rng.choice(
        (
            "If a {v} travels at {a} {k} for {s} hours, then at {b} {k} for {t} hours, what is the total distance traveled?",
            "A {v} drives {s} hours at {a} {k} and then {t} hours at {b} {k}. How far does it get?",
            "A {v} goes at {a} {k} for {s} hours and at {b} {k} for {t} hours. What is the total distance?",
        )
    ).format(v=vehicle, a=speeds[0], b=speeds[1], k=per_hour, s=number(hours[0]), t=number(hours[1]))
    answer = (
        f"First part: {speeds[0]} * {number(hours[0])} = {number(parts[0])} {unit}. Second part: {speeds[1]} * "
        f"{number(hours[1])} = {number(parts[1])} {unit}. Total: {number(parts[0])} + {number(parts[1])} "
        f"= {total} {unit}."
    )
    key = f"{speeds[0]}*{hours[0]}+{speeds[1]}*{hours[1]}"
    return ask("two legs", key, question, answer, Check(kind="number", expected=total))


def compound_interest(rng: Random) -> Example:
    """A sum that grows for one to three years, year by year; only sums that come out exact to the cent."""
    while True:
        start = rng.choice((rng.randint(1, 100) * 100, rng.randint(1, 20) * 500, rng.randint(1, 20) * 1000))
        rate, years = rng.choice((2, 3, 4, 5, 6, 8, 10)), rng.choice((1, 2, 2, 3, 3))
        if start * (100 + rate) ** years % 100 ** (years - 1) == 0:
            break
    question = rng.choice(
        (
            "Solve this step by step: If compound interest on ${p} at {r}% annually for {y} years, what is the final amount?",
            "${p} is invested at {r}% compound interest per year. What is it worth after {y} years?",
            "What is the final amount of ${p} at {r}% annual compound interest for {y} years?",
            "Calculate the compound interest result for ${p} at {r}% over {y} years.",
            "If I invest ${p} at {r}% annual compound interest, how much do I have after {y} years?",
        )
    ).format(p=start, r=rate, y=years)
    answer, amount = compound_answer(start, rate, years)
    return ask("compound interest", f"{start}@{rate}*{years}", question, answer, Check(kind="number", expected=amount))


def compound_answer(start: int, rate: int, years: int) -> tuple[str, str]:
    """Work out the growing sum year by year; return the working and the amount."""
    cents, lines = start * 100, []
    for year in range(1, years + 1):
        interest = cents * rate // 100
        worked = f" {money_product_steps(cents, rate)}, so" if rate < 10 else ""
        lines.append(
            f"Year {year}:{worked} {rate}% of {money(cents)} is {money(interest)}, and {sum_steps(cents, interest, write=money)}."
        )
        cents += interest
    return "\n".join(lines) + f"\nThe final amount is ${cents / 100:.2f}.", money(cents)


def scaled_rectangle(rng: Random) -> Example:
    """How the area grows when both sides grow by one percentage."""
    length, width = rng.randint(3, 30), rng.randint(2, 20)
    rate = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100))
    factor = number(1 + rate / 100)
    square, growth = _exact((1 + rate / 100) ** 2), _exact((100 + rate) ** 2 / 100 - 100)
    unit = rng.choice(("cm", "cm", "m", "mm"))
    question = rng.choice(
        (
            "A rectangle has length {l}{u} and width {w}{u}. If we increase both dimensions by {r}%, what is the "
            "percentage increase in area?",
            "Both sides of a {l}{u} by {w}{u} rectangle grow by {r}%. By how many percent does the area grow?",
            "A rectangle is {l} {u} long and {w} {u} wide. Both sides are increased by {r}%. How much "
            "larger is the area, "
            "in percent?",
        )
    ).format(l=length, w=width, r=rate, u=unit)
    answer = (
        f"Both sides are multiplied by {factor}, so the area is multiplied by {factor} * {factor} = {square}. "
        f"The area increases by {growth}%."
    )
    return ask("rectangle", f"{length}x{width}^{rate}", question, answer, Check(kind="number", expected=growth))


def rectangle_area(rng: Random) -> Example:
    """Area of a rectangle with small sides."""
    length, width, unit = rng.randint(2, 40), rng.randint(2, 12), rng.choice(("cm", "m"))
    question = rng.choice(
        (
            "What is the area of a rectangle with length {l}{u} and width {w}{u}?",
            "A rectangle is {l} {u} by {w} {u}. What is its area?",
        )
    ).format(l=length, w=width, u=unit)
    answer = f"{product_steps(length, width)}. The area is {length * width} square {unit}."
    return ask("area", f"{length}x{width}", question, answer, Check(kind="contains", expected=f"is {length * width} square"))


def _exact(value: float) -> str:
    text = f"{value:.4f}"
    return text.rstrip("0").rstrip(".")
