"""The tutorial's four coding tasks."""

from training.embedded.families.programs.program import Program

TUTORIAL = {
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
}
