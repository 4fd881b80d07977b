"""A closure over an endless generator: read as workers need it, and left when there is enough.

For which odd primes p is 2**p - 1 prime? The first eight are asked for, and nobody knows how far one must look.
"""

from itertools import count

from zmqtasks import Ventilator

read = 0


def exponents():
    """Yield the odd primes: there is no end of them."""
    global read
    for read in count(1):  # how many were asked for
        number = 2 * read + 1
        if all(number % divisor for divisor in range(3, int(number**0.5) + 1, 2)):
            yield number


def tester(start):
    """Return a function that runs the test of Lucas and Lehmer, which is a closure over `start`."""

    def is_mersenne(p):
        """Whether 2**p - 1 is prime, with p."""
        term = start
        for _ in range(p - 2):
            term = (term * term - 2) % (2**p - 1)
        return p, term == 0

    return is_mersenne


found = []
with Ventilator(tester(start=4), workers=2, window=20) as pipeline:  # no more than 20 are on their way
    for _, (p, is_prime) in pipeline.run(exponents(), ordered=True):
        if is_prime:
            found.append(p)
        if len(found) == 8:
            break  # what has not begun is given up

print("2**p - 1 is prime for p =", *found)
print("read no further than needed:", read < 200)
