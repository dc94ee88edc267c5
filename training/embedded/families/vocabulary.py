"""Words the families draw from: names, things, nonsense nouns, filler sentences.

Knows words only, no problems.
"""

from random import Random


def words(text: str) -> list[str]:
    """Split a line of words."""
    return text.split()


NAMES = words(
    "Anna Ben Carla David Elena Frank Grace Hugo Irina Jack Karen Liam Maria Nikolay Olga Paul Quinn Rosa "
    "Stefan Tanya Ursula Victor Wendy Xavier Yana Zoe Mia Noah Emma Ivan Petya Georgi Chen Wei Aisha Omar "
    "Lucas Sofia Adam Alice Bella Bob Charlie Clara Daniel Diana Eric Eva Felix Fatima Hannah Henry Isabel James "
    "Julia Kevin Laura Leo Linda Martin Miguel Nina Oscar Peter Priya Rachel Robert Sarah Sam Thomas Tina Yuki"
)

ANIMALS = words("cats dogs birds horses foxes lions wolves rabbits whales sheep goats mice bears tigers ducks owls")
CLASSES = words(
    "mammals animals carnivores pets predators swimmers hunters runners creatures vertebrates singers climbers "
    "teachers doctors students artists painters dancers robots machines flowers plants trees roses"
)
ADJECTIVES = words("red blue green small large old new quiet bright heavy light fast slow warm cold round")
THINGS = words("pen book apple orange chair table lamp cup bottle ticket notebook pencil bag shirt box plate ball candle key brush")
PLACES = words("garden market station library harbour village valley office kitchen museum school bridge river forest")
VERBS = words("watched moved painted counted carried found opened cleaned repaired visited measured described")

COMMON = words(
    "hello world apple river stone paper garden window music summer winter morning evening light water bread "
    "house street school friend letter number system server model token cloud stream cache engine python "
    "orange banana green yellow purple silver golden little happy quiet brave clever simple strong open close "
    "start stop north south east west monday friday market bridge forest mountain ocean island sugar coffee "
    "tea milk honey lemon table chair good day thank you please welcome peace love time space earth moon sun "
    "star planet rocket train car ship plane "
    "doctor teacher market farmer pilot sailor writer painter singer player winner leader worker driver reader "
    "report budget meeting project invoice contract receipt ticket packet folder record account profile password "
    "review summary answer question problem solution reason method result example detail version update release "
    "network cluster replica router thread process memory storage backup keyboard screen mouse camera phone radio "
    "battery cable switch button window mirror ladder hammer needle pocket jacket blanket carpet curtain pillow "
    "kitchen bedroom office factory library museum station airport harbour castle temple village country capital "
    "spring autumn weather thunder lightning snow rain wind fog storm cloudy sunny cold warm hot dry wet "
    "tomato potato onion pepper carrot lemon peach cherry grape melon cheese butter chicken salmon rice pasta soup "
    "pizza salad cake cookie chocolate vanilla breakfast lunch dinner recipe dessert "
    "guitar piano violin drum trumpet concert theatre movie novel poem story chapter page picture photo "
    "football tennis chess hockey running swimming cycling climbing dancing "
    "horse tiger rabbit eagle whale dolphin spider turtle monkey elephant kitten puppy "
    "first second third last next early late daily weekly annual local global public private simple complex "
    "heavy light deep shallow narrow wide round square empty full broken fresh ancient modern famous secret "
    "buy sell build break carry choose climb draw drive drop enter finish follow forget gather grow hide join keep "
    "learn leave listen lose make meet move need offer paint pick plan plant push reach remember return ride save "
    "share show speak spend stand study teach think throw travel visit wait walk wash watch wear win wish work "
    "about after again always before behind below between during every inside never often outside over soon "
    "together today tomorrow tonight under until without yesterday"
)

_ONSETS = words("b bl br d dr f fl g gl gr k kr l m n p pl pr r s sk sl sn st t tr v w z")
_VOWELS = words("a e i o u oo ee")
_CODAS = words("b d g k l m n p r rt sk t x z mp nk lm")


def nonsense_noun(rng: Random) -> str:
    """Make up a singular noun such as 'blorp'."""
    word = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
    return word if rng.random() < 0.6 else word + rng.choice(("le", "er", "o", "a", "in"))


def plural(noun: str) -> str:
    """Make a plural the simple way."""
    return noun + ("es" if noun.endswith(("x", "z", "s")) else "s")


def distinct_plurals(rng: Random, count: int) -> list[str]:
    """Draw distinct plural nouns, real or made up."""
    if rng.random() < 0.4:
        return rng.sample(ANIMALS + CLASSES, count)
    nouns: list[str] = []
    while len(nouns) < count:
        noun = plural(nonsense_noun(rng))
        if noun not in nouns:
            nouns.append(noun)
    return nouns


def sentence(rng: Random) -> str:
    """Write one sentence of no consequence, for long prompts."""
    kind = rng.randrange(6)
    thing, place, other = rng.choice(THINGS), rng.choice(PLACES), rng.choice(COMMON)
    if kind == 0:
        return f"{rng.choice(NAMES)} {rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {thing} near the {place}."
    if kind == 1:
        return f"In the {place} there were {rng.randint(2, 999)} {thing}s and a {rng.choice(ADJECTIVES)} {other}."
    if kind == 2:
        return f"The {nonsense_noun(rng)} is not a {nonsense_noun(rng)}, and nobody {rng.choice(VERBS)} it."
    if kind == 3:
        return " ".join(rng.choice(COMMON) for _ in range(rng.randint(3, 12))) + "."
    if kind == 4:
        return f"On day {rng.randint(1, 400)} the {place} was {rng.choice(ADJECTIVES)} and {rng.choice(ADJECTIVES)}."
    return f"Note {rng.randint(1, 99)}: {rng.choice(NAMES)} and {rng.choice(NAMES)} {rng.choice(VERBS)} a {thing}."
