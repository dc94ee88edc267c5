"""Word problems with several steps: speed and time, legs of a journey, compound interest, scaled rectangles."""

from random import Random

from training.embedded.conversation import Check, Example, ask, number
from training.embedded.families.arithmetic import money, money_product_steps, problem, product_steps, quotient_steps, sum_steps
from training.embedded.families.texts import PHRASES, WORDS, say

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
    values = {"a": a, "b": b, "s": number(s), "t": number(t), "unit": unit}
    answer = PHRASES["two legs answer"].format(x=number(a * s), y=number(b * t), total=total, **values)
    return problem(rng, "two legs", f"{a}*{s}+{b}*{t}", answer, total, vehicle=vehicle, per_hour=per_hour, **values)


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
    square, growth = _exact((1 + rate / 100) ** 2), _exact((100 + rate) ** 2 / 100 - 100)
    unit = rng.choice(("cm", "cm", "m", "mm"))
    answer = PHRASES["rectangle answer"].format(factor=number(1 + rate / 100), square=square, growth=growth)
    return problem(rng, "rectangle", f"{length}x{width}^{rate}", answer, growth, length=length, width=width, rate=rate, unit=unit)


def rectangle_area(rng: Random) -> Example:
    """Area of a rectangle with small sides."""
    length, width, unit = rng.randint(2, 40), rng.randint(2, 12), rng.choice(("cm", "m"))
    question = say(rng, "area", length=length, width=width, unit=unit)
    answer = f"{product_steps(length, width)}. The area is {length * width} square {unit}."
    return ask("area", f"{length}x{width}", question, answer, Check(kind="contains", expected=f"is {length * width} square"))


def _exact(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
