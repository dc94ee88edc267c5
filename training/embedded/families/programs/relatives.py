"""Coding tasks akin to the tutorial's."""

from training.embedded.families.programs.program import Program

RELATIVES = {
    "factorial": Program(
        nouns=(
            "a factorial function",
            "a function that computes the factorial of n",
            "the factorial of a number",
            "code for factorials",
        ),
        asks=(
            "Write a Python function to calculate the factorial of a number.",
            "Write a factorial function in Python.",
            "Implement factorial in Python.",
        ),
        text='''def factorial(n):
    """Return n factorial."""
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result
''',
        test="assert [factorial(n) for n in (0, 1, 5)] == [1, 1, 120]",
    ),
    "prime": Program(
        nouns=("a prime check", "a function that tells whether a number is prime", "a primality test", "an is_prime function"),
        asks=(
            "Write a Python function to check if a number is prime.",
            "Write a prime number test in Python.",
            "Implement is_prime in Python.",
        ),
        text='''def is_prime(n):
    """Tell whether n is a prime number."""
    if n < 2:
        return False
    # no divisor is larger than the square root
    i = 2
    while i * i <= n:
        if n % i == 0:
            return False
        i += 1
    return True
''',
        test="assert [n for n in range(20) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19]",
    ),
    "palindrome": Program(
        nouns=(
            "a palindrome check",
            "a function that tells whether a text is a palindrome",
            "a palindrome test for strings",
            "an is_palindrome function",
        ),
        asks=(
            "Write a Python function to check if a string is a palindrome.",
            "Write a palindrome check in Python.",
            "Implement is_palindrome in Python.",
        ),
        text='''def is_palindrome(text):
    """Tell whether the text reads the same backwards."""
    return text == text[::-1]
''',
        test="assert is_palindrome('level') and not is_palindrome('lever')",
    ),
    "reverse list": Program(
        nouns=("a function that reverses a list", "code that reverses a list", "a reverse_list function", "list reversal"),
        asks=(
            "Write a Python function to reverse a list.",
            "Reverse a list in Python.",
            "Write a function that reverses a list.",
        ),
        text='''def reverse_list(items):
    """Return the items in reverse order."""
    return items[::-1]
''',
        test="assert reverse_list([1, 2, 3]) == [3, 2, 1]",
    ),
    "bubble sort": Program(
        nouns=("bubble sort", "a bubble sort function", "the bubble sort algorithm", "a function that sorts with bubble sort"),
        asks=(
            "Implement bubble sort in Python.",
            "Write a bubble sort function in Python.",
            "Write Python code for bubble sort.",
        ),
        text='''def bubble_sort(items):
    """Return a sorted copy of the items."""
    items = list(items)
    for end in range(len(items), 1, -1):
        for i in range(end - 1):
            # swap neighbours that are out of order
            if items[i] > items[i + 1]:
                items[i], items[i + 1] = items[i + 1], items[i]
    return items
''',
        test="assert bubble_sort([3, 1, 2, 1]) == [1, 1, 2, 3]",
    ),
    "fizzbuzz": Program(
        nouns=("FizzBuzz", "a FizzBuzz function", "the FizzBuzz game", "code for FizzBuzz"),
        asks=("Write FizzBuzz in Python.", "Implement FizzBuzz in Python.", "Write a Python function for FizzBuzz."),
        text='''def fizzbuzz(n):
    """Return the FizzBuzz words for 1 to n."""
    words = []
    for i in range(1, n + 1):
        word = ("Fizz" if i % 3 == 0 else "") + ("Buzz" if i % 5 == 0 else "")
        words.append(word or str(i))
    return words
''',
        test="assert fizzbuzz(15)[2:5] == ['Fizz', '4', 'Buzz'] and fizzbuzz(15)[14] == 'FizzBuzz'",
    ),
    "word count": Program(
        nouns=("a word count function", "a function that counts words", "code that counts the words of a text", "a word counter"),
        asks=(
            "Write a Python function to count the words in a text.",
            "Write a word count function in Python.",
            "Count words in Python.",
        ),
        text='''def word_count(text):
    """Return how often each word occurs."""
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts
''',
        test="assert word_count('a b A') == {'a': 2, 'b': 1}",
    ),
    "stack": Program(
        nouns=("a stack class", "a stack with push and pop", "a class for a stack", "a last-in first-out stack"),
        asks=(
            "Write a Python class for a stack.",
            "Implement a stack class in Python.",
            "Create a stack in Python with push and pop.",
        ),
        text='''class Stack:
    """Last in, first out."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def is_empty(self):
        return not self.items
''',
        test="s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2 and not s.is_empty()",
    ),
    "queue": Program(
        asks=("Write a Python class for a queue.", "Implement a queue in Python."),
        nouns=("a queue class", "a queue with add and remove", "a class for a queue", "a first-in first-out queue"),
        text='''class Queue:
    """First in, first out."""

    def __init__(self):
        self.items = []

    def add(self, item):
        self.items.append(item)

    def remove(self):
        return self.items.pop(0)

    def is_empty(self):
        return not self.items
''',
        test="q = Queue()\nq.add(1)\nq.add(2)\nassert q.remove() == 1 and not q.is_empty()",
    ),
    "vowels": Program(
        asks=("Write a Python function to count the vowels in a text.",),
        nouns=(
            "a function that counts vowels",
            "a vowel counter",
            "code that counts the vowels of a text",
            "a count_vowels function",
        ),
        text='''def count_vowels(text):
    """Return the number of vowels in the text."""
    return sum(letter in "aeiou" for letter in text.lower())
''',
        test="assert count_vowels('Apple pie') == 4",
    ),
    "leap year": Program(
        asks=("Write a Python function to check if a year is a leap year.",),
        nouns=(
            "a leap year check",
            "a function that tells whether a year is a leap year",
            "a leap year test",
            "an is_leap_year function",
        ),
        text='''def is_leap_year(year):
    """Tell whether the year is a leap year."""
    # every fourth year, but not every hundredth, except every 400th
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
''',
        test="assert [is_leap_year(y) for y in (2000, 1900, 2024, 2023)] == [True, False, True, False]",
    ),
    "maximum": Program(
        asks=("Write a Python function to find the largest number in a list.",),
        nouns=(
            "a function that finds the maximum of a list",
            "code that finds the largest number in a list",
            "a find_max function",
            "a function for the largest item of a list",
        ),
        text='''def find_max(items):
    """Return the largest item."""
    largest = items[0]
    for item in items[1:]:
        if item > largest:
            largest = item
    return largest
''',
        test="assert find_max([3, 9, 2]) == 9",
    ),
    "sum": Program(
        asks=("Write a Python function to add up the numbers in a list.",),
        nouns=(
            "a function that sums a list",
            "code that adds up the numbers of a list",
            "a sum_list function",
            "a function for the sum of a list",
        ),
        text='''def sum_list(numbers):
    """Return the sum of the numbers."""
    total = 0
    for number in numbers:
        total += number
    return total
''',
        test="assert sum_list([1, 2, 3]) == 6 and sum_list([]) == 0",
    ),
    "merge sort": Program(
        asks=("Implement merge sort in Python.", "Write a Python function for merge sort."),
        nouns=("merge sort", "a merge sort function", "the merge sort algorithm", "a function that sorts with merge sort"),
        text='''def merge_sort(items):
    """Return a sorted copy of the items."""
    if len(items) < 2:
        return list(items)
    middle = len(items) // 2
    left, right = merge_sort(items[:middle]), merge_sort(items[middle:])
    merged = []
    # take the smaller of the two first items
    while left and right:
        merged.append(left.pop(0) if left[0] <= right[0] else right.pop(0))
    return merged + left + right
''',
        test="assert merge_sort([3, 1, 2, 1]) == [1, 1, 2, 3]",
    ),
    "linear search": Program(
        asks=("Write a linear search function in Python.",),
        nouns=("linear search", "a linear search function", "the linear search algorithm", "a function that does linear search"),
        text='''def linear_search(items, target):
    """Return the index of target, or -1."""
    for i, item in enumerate(items):
        if item == target:
            return i
    return -1
''',
        test="assert [linear_search([4, 2], x) for x in (2, 9)] == [1, -1]",
    ),
    "anagram": Program(
        asks=("Write a Python function to check if two words are anagrams.",),
        nouns=(
            "an anagram check",
            "a function that tells whether two words are anagrams",
            "an anagram test",
            "an are_anagrams function",
        ),
        text='''def are_anagrams(first, second):
    """Tell whether both words have the same letters."""
    return sorted(first.lower()) == sorted(second.lower())
''',
        test="assert are_anagrams('Listen', 'silent') and not are_anagrams('a', 'b')",
    ),
}
