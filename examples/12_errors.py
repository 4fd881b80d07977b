"""A nested workflow whose members fail: what its group makes of that, and who is told.

Orders are checked, priced in parallel and summed up. One of them is broken: three ways to go on.
"""

from zmqtasks import Client, Retry, UpstreamFailed, chain, chord, current, group, signature

ORDERS = {"A": [3, 5], "B": [2, "two"], "C": [7]}


def check(name):
    """Take an order; the first attempt at C fails, as networks do."""
    if name == "C" and current().attempt == 1:
        raise ConnectionError("no answer")
    return ORDERS[name]


def price(amounts):
    """Fail with a TypeError where an amount is no number."""
    return 10 * sum(amounts)


def bill(prices):
    """Get exceptions in the places of what failed, if the group collects them."""
    return [f"refused: {each}" if isinstance(each, Exception) else each for each in prices]


def alarm(failure):
    """Be told of a failure, once."""
    return f"{type(failure.exception).__name__} in {failure.task_id}"


def orders(failure):
    """A chain a name, in parallel: the failing attempt is retried within its member."""
    retry = Retry(2, on=OSError, delay=0.01)
    members = [chain(signature(check, name).set(retry=retry), signature(price)) for name in ORDERS]
    return group(members, failure=failure)


with Client() as client:
    try:
        client.run(orders("fail_fast")).result()
    except TypeError as error:
        print("fail_fast:", error)

    try:
        client.run(orders("wait")).result()
    except ExceptionGroup as group_of_errors:
        print("wait:", group_of_errors.exceptions)

    print("collect:", client.run(chord(orders("collect"), signature(bill))).result())

    chorded = client.run(chord(orders("fail_fast"), signature(bill)).link_error(signature(alarm)))
    print("a body that never ran:", isinstance(chorded.exception(), UpstreamFailed), chorded.state)
