"""The tools that guides of clients show, and requests to them as people word them.

A row per tool: its names, what it is said to do, its arguments, and sentences that hold them. An argument that some sentence leaves
out is optional. Knows no conversation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training.families.tool_schemas import CITIES
from training.families.vocabulary import COMMON, NAMES

STATES = ("San Francisco, CA", "New York, NY", "Boston, MA", "Austin, TX", "Paris, France", "Tokyo, Japan", "Sofia, Bulgaria")
_LANGUAGES = ("French", "German", "Spanish", "Italian", "Bulgarian", "Chinese", "Japanese", "English", "Greek", "Dutch")
_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "BGN", "CHF", "INR")
_UNITS = ("km", "miles", "meters", "feet", "kg", "pounds", "liters", "gallons")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "tomorrow", "today")
_ROOMS = ("kitchen", "bedroom", "office", "garage", "bathroom", "hallway", "living room")
_COUNTRIES = ("France", "Germany", "Bulgaria", "China", "Japan", "Spain", "Italy", "Brazil", "India", "Canada", "Kenya")
_GENRES = ("jazz", "rock", "comedy", "drama", "history", "science", "sports", "politics", "travel", "technology", "poetry")
_FOLDERS = ("docs", "src", "data", "tmp", "home", "logs", "images", "notes")
_ENDINGS = ("txt", "md", "csv", "json", "py", "log")
_TABLES = ("users", "orders", "products", "invoices", "books", "events")

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
INTEGER: dict[str, Any] = {"type": "integer"}

Draw = Callable[[Random], Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """One argument: what clients call it, its JSON schema, and a value."""

    names: str
    """Separated by spaces; each as likely."""
    schema: dict[str, Any]
    """Of its value."""
    draw: Draw
    """Draws a value."""


@dataclass(frozen=True, slots=True)
class Guide:
    """One kind of tool."""

    names: str
    """Separated by spaces."""
    abouts: tuple[str, ...]
    """Descriptions."""
    slots: tuple[Slot, ...]
    """Arguments, in the order of the schema."""
    sentences: tuple[str, ...]
    """Requests; `{0}` is the first argument's value, or a list of values where several things are asked for at once."""
    topic: str = ""
    """Shared by tools that could be taken for each other; without one a tool stands alone."""


def _one_of(*values: Any) -> Draw:
    return lambda rng: rng.choice(values)


def _between(low: int, high: int) -> Draw:
    return lambda rng: rng.randint(low, high)


def _words(*counts: int) -> Draw:
    return lambda rng: " ".join(rng.choice(COMMON) for _ in range(rng.choice(counts)))


def _where(rng: Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.7 else rng.choice(STATES)


def _choice(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def _code(rng: Random) -> str:
    return rng.choice(("", "A", "B", "ORD-", "user_", "X")) + str(rng.randint(100, 99999))


def _date(rng: Random) -> str:
    return f"{rng.randint(2023, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _clock(rng: Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.choice(('00', '15', '30', '45'))}"


def _path(rng: Random) -> str:
    start = rng.choice(("", "/", "./")) + rng.choice(_FOLDERS)
    return f"{start}/{rng.choice(COMMON)}.{rng.choice(_ENDINGS)}"


def _folder(rng: Random) -> str:
    return rng.choice(("/", "./", "")) + rng.choice(_FOLDERS)


def _link(rng: Random) -> str:
    return f"https://{rng.choice(COMMON)}.{rng.choice(('com', 'org', 'net'))}" + rng.choice(("", "", f"/{rng.choice(COMMON)}"))


def _sql(rng: Random) -> str:
    table = rng.choice(_TABLES)
    return rng.choice(
        (f"SELECT * FROM {table}", f"SELECT COUNT(*) FROM {table}", f"SELECT name FROM {table} LIMIT {rng.randint(1, 50)}")
    )


def _sum(rng: Random) -> str:
    first, second, third = rng.randint(1, 999), rng.randint(1, 99), rng.randint(1, 99)
    signs = [rng.choice("+-*/") for _ in range(2)]
    return f"{first} {signs[0]} {second}" + (f" {signs[1]} {third}" if rng.random() < 0.4 else "")


def _money(rng: Random) -> float | int:
    return rng.randint(1, 5000) if rng.random() < 0.7 else round(rng.uniform(1, 500), 2)


def _mail(rng: Random) -> str:
    return f"{rng.choice(NAMES).lower()}@{rng.choice(('example', 'mail', rng.choice(COMMON)))}.{rng.choice(('com', 'org'))}"


_PLACE = Slot("location location city place", TEXT, _where)
_UNIT = Slot("unit unit format", _choice("celsius", "fahrenheit"), _one_of("celsius", "fahrenheit"))
_NAME = Slot("name name user person", TEXT, _one_of(*NAMES))
_DATE = Slot("date day", TEXT, _date)
_FROM = Slot("origin departure source", TEXT, _one_of(*CITIES))
_TO = Slot("destination arrival target", TEXT, _one_of(*CITIES))

GUIDES: tuple[Guide, ...] = (
    Guide(
        "get_current_weather get_weather weather get_current_temperature get_temperature",
        ("Get the current weather in a given location", "Get the weather at a place", "Current weather for a city"),
        (_PLACE, _UNIT),
        (
            "What is the weather in {0}?",
            "What's the weather like in {0}?",
            "How is the weather in {0} today?",
            "What is the weather in {0} in {1}?",
            "Tell me the temperature in {0} in {1}.",
            "How warm is it in {0}, in {1}?",
            "weather {0}",
        ),
        "weather",
    ),
    Guide(
        "get_forecast get_weather_forecast get_n_day_weather_forecast forecast",
        ("Get a weather forecast for some days", "Forecast of the weather", "Get the forecast for the next days"),
        (_PLACE, Slot("days num_days n", INTEGER, _between(1, 14))),
        (
            "What will the weather be like in {0} over the next {1} days?",
            "Give me the {1} day forecast for {0}.",
            "Weather forecast for {0} for {1} days",
            "Will it rain in {0} in the next {1} days?",
        ),
        "weather",
    ),
    Guide(
        "get_time get_current_time current_time world_clock",
        ("Get the current time in a city", "Returns the local time", "Current time at a place"),
        (Slot("city location timezone place", TEXT, _where),),
        ("What time is it in {0}?", "Tell me the time in {0}.", "What is the current time in {0}?", "Time in {0} now?"),
        "time",
    ),
    Guide(
        "get_current_date get_today today get_date",
        ("Get today's date", "Returns the current date"),
        (),
        ("What day is it today?", "What is today's date?", "Tell me the date."),
    ),
    Guide(
        "get_flight_times search_flights find_flights get_flights",
        ("Get flight times between two cities", "Search for flights", "Find flights from one city to another"),
        (_FROM, _TO, _DATE),
        (
            "What is the flight time from {0} to {1}?",
            "Find flights from {0} to {1} on {2}.",
            "I want to fly from {0} to {1}.",
            "Are there flights from {0} to {1} on {2}?",
            "Show me flights to {1} from {0}.",
        ),
    ),
    Guide(
        "get_directions get_route directions get_distance calculate_distance",
        ("Get the way between two places", "Distance and directions between two cities"),
        (_FROM, _TO, Slot("mode", _choice("driving", "walking", "cycling"), _one_of("driving", "walking", "cycling"))),
        (
            "How do I get from {0} to {1}?",
            "How far is it from {0} to {1}?",
            "Directions from {0} to {1} by {2}, please.",
            "What is the distance between {0} and {1}?",
        ),
    ),
    Guide(
        "book_hotel find_hotel search_hotels reserve_room",
        ("Book a hotel room", "Find a hotel in a city", "Reserve a room for some nights"),
        (Slot("city location", TEXT, _one_of(*CITIES)), Slot("nights days", INTEGER, _between(1, 21))),
        ("Book a hotel in {0} for {1} nights.", "I need a room in {0} for {1} nights.", "Find me a hotel in {0}."),
    ),
    Guide(
        "reserve_table book_restaurant book_table make_reservation",
        ("Reserve a table in a restaurant", "Book a restaurant"),
        (Slot("people guests party_size", INTEGER, _between(1, 12)), Slot("time", TEXT, _clock)),
        ("Book a table for {0} at {1}.", "We are {0} people and want to eat at {1}.", "Table for {0} at {1}, please."),
    ),
    Guide(
        "translate translate_text translator",
        ("Translate text into a language", "Translates a text"),
        (Slot("text", TEXT, _words(1, 2, 3, 4)), Slot("language target_language to", TEXT, _one_of(*_LANGUAGES))),
        ('Translate "{0}" to {1}.', 'How do you say "{0}" in {1}?', "Translate {0} into {1}.", 'What is "{0}" in {1}?'),
        "word",
    ),
    Guide(
        "convert_currency currency_converter exchange_money",
        ("Convert an amount from one currency to another", "Convert money"),
        (
            Slot("amount value", NUMBER, _money),
            Slot("from_currency source base", TEXT, _one_of(*_CURRENCIES)),
            Slot("to_currency target quote", TEXT, _one_of(*_CURRENCIES)),
        ),
        ("Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?", "What are {0} {1} in {2}?", "Change {0} {1} into {2}."),
        "currency",
    ),
    Guide(
        "get_exchange_rate exchange_rate currency_rate",
        ("Get the exchange rate of two currencies", "Current rate between currencies"),
        (
            Slot("base source from_currency", TEXT, _one_of(*_CURRENCIES)),
            Slot("target quote to_currency", TEXT, _one_of(*_CURRENCIES)),
        ),
        ("What is the exchange rate from {0} to {1}?", "How many {1} for one {0}?", "Rate of {0} to {1}?"),
        "currency",
    ),
    Guide(
        "convert_units unit_converter convert",
        ("Convert a value between units", "Convert units of measure"),
        (
            Slot("value amount", NUMBER, _money),
            Slot("from_unit source", TEXT, _one_of(*_UNITS)),
            Slot("to_unit target", TEXT, _one_of(*_UNITS)),
        ),
        ("Convert {0} {1} to {2}.", "How many {2} are {0} {1}?", "What is {0} {1} in {2}?"),
    ),
    Guide(
        "calculator calculate evaluate_expression math",
        ("Evaluate a mathematical expression", "A calculator", "Computes the value of an expression"),
        (Slot("expression formula query", TEXT, _sum),),
        ("What is {0}?", "Calculate {0}.", "Use the calculator for {0}.", "Compute {0}", "How much is {0}?"),
        "sum",
    ),
    Guide(
        "create_event add_event schedule_meeting add_to_calendar",
        ("Create an event in the calendar", "Schedule a meeting", "Add an entry to the calendar"),
        (
            Slot("title name subject", TEXT, _words(1, 2)),
            Slot("day date", TEXT, _one_of(*_DAYS)),
            Slot("time start", TEXT, _clock),
        ),
        (
            'Schedule "{0}" for {1} at {2}.',
            'Put "{0}" in my calendar on {1} at {2}.',
            'Add an event "{0}" {1} at {2}.',
            'Plan "{0}" for {1}.',
        ),
    ),
    Guide(
        "play_music play_song music_player",
        ("Play music", "Play a song or a style of music"),
        (Slot("song query title", TEXT, _words(1, 2, 3)),),
        ("Play {0}.", 'Play "{0}".', "I want to hear {0}.", "Put on {0}, please."),
        "play",
    ),
    Guide(
        "set_light control_light turn_light light_switch",
        ("Switch a light on or off", "Control the lights of a room"),
        (Slot("room location", TEXT, _one_of(*_ROOMS)), Slot("state", _choice("on", "off"), _one_of("on", "off"))),
        ("Turn {1} the light in the {0}.", "Turn the {0} light {1}.", "Switch {1} the lights in the {0}.", "{0} light {1}"),
    ),
    Guide(
        "set_thermostat set_temperature set_heating",
        ("Set the temperature at home", "Set the thermostat in degrees"),
        (Slot("temperature degrees value", NUMBER, _between(10, 30)),),
        (
            "Set the temperature to {0} degrees.",
            "Make it {0} degrees in here.",
            "Set the thermostat to {0}.",
            "Heat to {0} degrees.",
        ),
    ),
    Guide(
        "web_fetch fetch_url open_page get_page http_get",
        ("Fetch a page from the web", "Get the content of a URL", "Download a web page"),
        (Slot("url link", TEXT, _link),),
        ("Fetch {0}.", "What is on {0}?", "Open {0}", "Read the page {0}.", "Summarize {0}"),
    ),
    Guide(
        "read_file open_file get_file_contents view_file",
        ("Read a file", "Returns the contents of a file", "Read a file from disk"),
        (Slot("path file filename file_path", TEXT, _path),),
        ("Read {0}.", "What is in {0}?", "Show me the file {0}.", "Open {0}", "Print the contents of {0}."),
    ),
    Guide(
        "delete_file remove_file",
        ("Delete a file", "Remove a file from disk"),
        (Slot("path file filename", TEXT, _path),),
        ("Delete {0}.", "Remove the file {0}.", "Please get rid of {0}."),
    ),
    Guide(
        "list_files list_directory ls",
        ("List the files of a folder", "List a directory"),
        (Slot("path directory folder", TEXT, _folder),),
        ("Which files are in {0}?", "List the files in {0}.", "What does {0} contain?", "Show the folder {0}."),
    ),
    Guide(
        "run_sql query_database execute_query sql",
        ("Run a SQL query", "Query the database"),
        (Slot("query sql statement", TEXT, _sql),),
        ("Run {0}", "Execute this query: {0}", "Run the query {0} on the database."),
    ),
    Guide(
        "get_user find_user lookup_user get_customer",
        ("Get a user by id", "Look up a customer", "Find a user in the database"),
        (Slot("id user_id customer_id", INTEGER, _between(1, 9999)),),
        ("Who is user {0}?", "Show me user {0}.", "Find the customer with id {0}.", "Look up user number {0}."),
        "user",
    ),
    Guide(
        "create_user add_user register_user add_contact",
        ("Create a user", "Register a new user", "Add a person"),
        (_NAME, Slot("age", INTEGER, _between(1, 99)), Slot("email", TEXT, _mail)),
        (
            "Create a user {0}, {1} years old.",
            "Register {0} with the email {2}.",
            "Add {0}, age {1}, email {2}.",
            "Add a new user named {0}.",
        ),
    ),
    Guide(
        "get_delivery_date track_order get_order_status track_package order_status",
        ("Get the state of an order", "When an order arrives", "Track a package by its number"),
        (Slot("order_id id tracking_number", TEXT, _code),),
        ("Where is my order {0}?", "When does order {0} arrive?", "Track {0}.", "What is the status of order {0}?"),
    ),
    Guide(
        "cancel_order refund_order",
        ("Cancel an order", "Cancel an order and pay it back"),
        (Slot("order_id id", TEXT, _code),),
        ("Cancel order {0}.", "I do not want order {0} any more.", "Please cancel my order {0}."),
    ),
    Guide(
        "define_word dictionary get_definition",
        ("Look up a word in the dictionary", "Definition of a word"),
        (Slot("word term", TEXT, _words(1)),),
        ("What does {0} mean?", 'Define "{0}".', "Look {0} up in the dictionary.", "What is the meaning of {0}?"),
        "word",
    ),
    Guide(
        "get_news search_news latest_news",
        ("Get the latest news about a topic", "News by topic"),
        (Slot("topic category query", TEXT, _one_of(*_GENRES)),),
        ("What is new in {0}?", "Give me the news about {0}.", "Latest {0} news, please.", "Any news on {0}?"),
    ),
    Guide(
        "generate_image create_image draw",
        ("Generate an image from a description", "Draw a picture"),
        (Slot("prompt description", TEXT, _words(1, 2, 3)),),
        ("Draw a {0}.", "Make a picture of a {0}.", "Generate an image of a {0}.", "I want an image of a {0}."),
    ),
    Guide(
        "random_number get_random generate_random_number",
        ("Draw a random number", "Returns a random number between two bounds"),
        (Slot("min low minimum", INTEGER, _between(0, 10)), Slot("max high maximum", INTEGER, _between(11, 1000))),
        ("Give me a random number between {0} and {1}.", "Pick a number from {0} to {1}.", "Random number from {0} to {1}?"),
    ),
    Guide(
        "roll_dice roll_die dice",
        ("Roll a die", "Roll dice with so many sides"),
        (Slot("sides", INTEGER, _between(4, 100)),),
        ("Roll a die with {0} sides.", "Roll a {0}-sided die.", "Throw a d{0}."),
    ),
    Guide(
        "save_note add_note remember create_note",
        ("Save a note", "Remember something for later"),
        (Slot("text note content", TEXT, _words(1, 2, 3, 4)),),
        ('Note this down: "{0}".', 'Remember "{0}".', "Make a note: {0}", 'Save "{0}" for later.'),
        "note",
    ),
    Guide(
        "add_todo add_task create_task",
        ("Add an item to the to-do list", "Create a task"),
        (Slot("task title item", TEXT, _words(1, 2, 3)),),
        ('Add "{0}" to my list.', "I have to {0}, write it down.", 'New task: "{0}"', 'Put "{0}" on my to-do list.'),
        "note",
    ),
    Guide(
        "search_knowledge_base retrieve search_docs retrieve_documents query_docs",
        ("Search the knowledge base", "Retrieve documents that fit a query", "Search the documentation"),
        (Slot("query question", TEXT, _words(1, 2, 3)), Slot("top_k limit k max_results", INTEGER, _between(1, 20))),
        (
            "What do the docs say about {0}?",
            "Search the knowledge base for {0}.",
            "Find {1} documents about {0}.",
            "Find documents on {0}, at most {1}.",
        ),
        "search",
    ),
    Guide(
        "web_search search_web google_search search_internet tavily_search",
        ("Search the web", "Search the internet for a query", "A search engine"),
        (Slot("query q", TEXT, _words(1, 2, 3)),),
        ("Search the web for {0}.", "Google {0}.", "Look {0} up on the internet.", "Find {0} online."),
        "search",
    ),
    Guide(
        "get_capital capital_of country_capital",
        ("Get the capital of a country", "Returns the capital city"),
        (Slot("country", TEXT, _one_of(*_COUNTRIES)),),
        ("What is the capital of {0}?", "Name the capital of {0}.", "Capital of {0}?"),
        "capital",
    ),
    Guide(
        "get_population population",
        ("Get the population of a place", "How many people live somewhere"),
        (Slot("place city country location", TEXT, _one_of(*CITIES, *_COUNTRIES)),),
        ("How many people live in {0}?", "What is the population of {0}?", "Population of {0}?"),
        "population",
    ),
    Guide(
        "is_prime check_prime prime_check",
        ("Tell whether a number is prime", "Check if a number is a prime"),
        (Slot("n number", INTEGER, _between(2, 9999)),),
        ("Is {0} a prime number?", "Is {0} prime?", "Check whether {0} is prime."),
    ),
    Guide(
        "square_root sqrt",
        ("Square root of a number",),
        (Slot("x number n", NUMBER, _between(1, 9999)),),
        ("What is the square root of {0}?", "Take the root of {0}.", "sqrt({0})?"),
    ),
    Guide(
        "calculate_tip tip_calculator",
        ("Calculate the tip for a bill", "How much to tip"),
        (Slot("bill amount total", NUMBER, _money), Slot("percent percentage rate", NUMBER, _one_of(5, 10, 12, 15, 18, 20, 25))),
        ("What is a {1}% tip on {0}?", "The bill is {0}, I want to tip {1} percent.", "How much is {1}% on a bill of {0}?"),
    ),
    Guide(
        "calculate_bmi bmi body_mass_index",
        ("Calculate the body mass index", "BMI from weight and height"),
        (Slot("weight", NUMBER, _between(40, 150)), Slot("height", NUMBER, _between(140, 210))),
        ("What is my BMI with {0} kg and {1} cm?", "I weigh {0} kg and am {1} cm tall, what is my BMI?"),
    ),
    Guide(
        "recommend_book recommend_movie suggest_movie find_movie",
        ("Recommend something by genre", "Find a title of a genre"),
        (Slot("genre category topic", TEXT, _one_of(*_GENRES)),),
        ("Recommend me something about {0}.", "I like {0}, what do you suggest?", "Suggest some {0}."),
    ),
    Guide(
        "call_person phone_call make_call",
        ("Call a person", "Make a phone call"),
        (Slot("name contact person", TEXT, _one_of(*NAMES)),),
        ("Call {0}.", "Ring {0}, please.", "Phone {0}."),
    ),
    Guide(
        "get_sunrise sunrise_time get_sunset",
        ("Time of sunrise and sunset", "When the sun rises and sets"),
        (Slot("location city", TEXT, _where), _DATE),
        ("When does the sun rise in {0}?", "Sunset in {0} on {1}?", "When is sunset in {0}?"),
    ),
    Guide(
        "get_holidays holidays list_holidays",
        ("List the public holidays of a country", "Holidays by country and year"),
        (Slot("country", TEXT, _one_of(*_COUNTRIES)), Slot("year", INTEGER, _between(2020, 2035))),
        ("Which holidays has {0} in {1}?", "List the holidays of {0} in {1}.", "Holidays in {0}?"),
    ),
    Guide(
        "count_letters count_letter letter_counter",
        ("Count a letter in a word", "How often a letter occurs"),
        (Slot("word text", TEXT, _words(1)), Slot("letter character", TEXT, _one_of(*"abcdefghilmnoprstu"))),
        ("How many {1} are in {0}?", 'How often is "{1}" in "{0}"?', "Count the letter {1} in {0}."),
    ),
    Guide(
        "run_python python_interpreter execute_code python",
        ("Run Python code", "Execute Python and return what it prints"),
        (Slot("code", TEXT, lambda rng: f"print({_sum(rng)})"),),
        ("Run {0}", "Execute {0} in Python.", "What does {0} print?", "Run this code: {0}"),
        "sum",
    ),
    Guide(
        "set_volume change_volume volume",
        ("Set the volume", "Set the volume of the speaker in percent"),
        (Slot("level percent volume", INTEGER, _between(0, 100)),),
        ("Set the volume to {0}.", "Volume to {0} percent.", "Make it {0}% loud."),
    ),
)
