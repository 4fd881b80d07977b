"""Functions travel as they are: lambdas, closures, functions and classes of this very file.

Run it as it stands: no server, no `__main__` guard, nothing to register.
"""

from dataclasses import dataclass

from zmqtasks import Client

VAT = 0.2


@dataclass
class Price:
    """A class of this file: its instances come back as that very class."""

    net: float
    gross: float


def pricer(discount):
    """Return a closure over `discount`, which also uses the global `VAT`."""

    def price(net):
        net = net * (1 - discount)
        return Price(round(net, 2), round(net * (1 + VAT), 2))

    return price


with Client() as client:
    print("a lambda:", client.submit(lambda x: x + 1, 41).result())
    print("a map:", sum(client.map(lambda x: x * x, range(1000))))

    price = client.submit(pricer(discount=0.1), 200).result()
    print("a closure:", price, isinstance(price, Price))

    # A task has what its function captured when submit was called.
    factor = 2
    before = client.submit(lambda x: x * factor, 21)
    factor = 3
    after = client.submit(lambda x: x * factor, 21)
    print("before and after:", before.result(), after.result())

    # What a task raises is raised here, with the traceback of the worker.
    try:
        client.submit(lambda: {}["missing"]).result()
    except KeyError as error:
        print("an error:", repr(error))
