"""The programs of the coding family: how they are asked for, their text, and the statements that test them.

The tutorial's four tasks come first. Every program is written here and runs on its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One coding task."""

    asks: tuple[str, ...]
    """Whole phrasings of the task, always trained on."""
    nouns: tuple[str, ...]
    """What is wanted, to be put into a frame such as "Write {} in Python."; such questions are held out by their wording."""
    text: str
    """The program."""
    test: str
    """Statements that raise when the program is wrong."""


PROGRAMS = {
    "fibonacci": Program(
        nouns=(
            "a function for Fibonacci numbers",
            "a function that computes the nth Fibonacci number",
            "the Fibonacci sequence with dynamic programming",
            "a dynamic programming function for the Fibonacci sequence",
        ),
        asks=(
            "Write a Python function to calculate the Fibonacci sequence using dynamic programming.",
            "Write a Python function to calculate the Fibonacci sequence using dynamic programming. Include "
            "comments explaining "
            "the approach.",
            "Write a Python function that computes the nth Fibonacci number using dynamic programming.",
            "Fibonacci by dynamic programming",
            "Implement Fibonacci with dynamic programming in Python.",
            "Write a Fibonacci function in Python.",
            "Please write Python code for Fibonacci numbers.",
        ),
        text='''def fibonacci(n):
    """Return the nth Fibonacci number."""
    if n < 2:
        return n
    # table[i] holds the ith number
    table = [0, 1]
    for i in range(2, n + 1):
        table.append(table[i - 1] + table[i - 2])
    return table[n]
''',
        test="assert [fibonacci(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]",
    ),
    "binary search": Program(
        nouns=(
            "binary search",
            "a binary search function",
            "a function that does binary search in a sorted list",
            "the binary search algorithm",
        ),
        asks=(
            "Write a Python function to implement binary search with detailed comments",
            "Implement a binary search algorithm in Python with comments.",
            "Implement binary search in Python with comments.",
            "Write a binary search function in Python.",
            "Write Python code for binary search with comments.",
            "Binary search with comments",
            "Please implement a binary search in Python.",
        ),
        text='''def binary_search(items, target):
    """Return the index of target in a sorted list, or -1."""
    low, high = 0, len(items) - 1
    while low <= high:
        # look at the middle
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            # go on in the right half
            low = middle + 1
        else:
            # go on in the left half
            high = middle - 1
    return -1
''',
        test="assert [binary_search([1, 3, 5, 7], x) for x in (1, 7, 4)] == [0, 3, -1]",
    ),
    "binary tree": Program(
        nouns=(
            "a binary tree class",
            "a class for a binary tree with insert, delete and in-order traversal",
            "a binary search tree with insertion and deletion",
            "a binary tree with in-order traversal",
        ),
        asks=(
            "Create a Python class for a binary tree with methods for insertion, deletion, and in-order "
            "traversal. Include "
            "comprehensive docstrings.",
            "Create a Python class for a binary tree with insert, delete, and in-order traversal methods.",
            "Write a Python class for a binary tree with insertion, deletion and in-order traversal.",
            "Implement a binary search tree class in Python with insert, delete and in-order.",
            "Binary tree class (insert, delete, in-order)",
            "Write a binary tree class in Python.",
        ),
        text='''class BinaryTree:
    """A binary search tree."""

    def __init__(self):
        self.root = None

    def insert(self, value):
        """Add a value."""
        self.root = self._insert(self.root, value)

    def _insert(self, node, value):
        # a node is [value, left, right]
        if node is None:
            return [value, None, None]
        side = 1 if value < node[0] else 2
        node[side] = self._insert(node[side], value)
        return node

    def delete(self, value):
        """Remove a value."""
        self.root = self._delete(self.root, value)

    def _delete(self, node, value):
        if node is None:
            return None
        if value == node[0]:
            # one child or none
            if node[1] is None:
                return node[2]
            if node[2] is None:
                return node[1]
            # two children: take the next larger value
            child = node[2]
            while child[1] is not None:
                child = child[1]
            node[0] = child[0]
            node[2] = self._delete(node[2], child[0])
        else:
            side = 1 if value < node[0] else 2
            node[side] = self._delete(node[side], value)
        return node

    def in_order(self):
        """Return the values in order."""
        return self._in_order(self.root)

    def _in_order(self, node):
        if node is None:
            return []
        return self._in_order(node[1]) + [node[0]] + self._in_order(node[2])
''',
        test=(
            "t = BinaryTree()\nfor v in (5, 2, 8, 1, 9, 7): t.insert(v)\nassert t.in_order() == [1, 2, 5, 7, 8, 9]\n"
            "t.delete(5)\nt.delete(1)\nassert t.in_order() == [2, 7, 8, 9]"
        ),
    ),
    "gcd": Program(
        nouns=(
            "a function for the greatest common divisor",
            "the Euclidean algorithm",
            "a gcd function",
            "a function that finds the gcd of two numbers",
        ),
        asks=(
            "Create a Python function to find the greatest common divisor of two numbers using the Euclidean algorithm",
            "Write a function to find the greatest common divisor of two numbers using Euclid's algorithm.",
            "Write a Python function to find the greatest common divisor using the Euclidean algorithm.",
            "Write a Python function for the gcd of two numbers.",
            "gcd by Euclid in Python",
            "Implement Euclid's algorithm in Python.",
        ),
        text='''def gcd(a, b):
    """Return the greatest common divisor by Euclid's algorithm."""
    while b:
        # the remainder takes the place of the smaller number
        a, b = b, a % b
    return a
''',
        test="assert (gcd(48, 18), gcd(7, 3), gcd(10, 0)) == (6, 1, 10)",
    ),
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
