"""How many tokens of one forward pass a GPU is fastest with."""

from __future__ import annotations

import logging
from collections.abc import Callable

from raydistill.engines.engine import Engine, Inputs, tokens_per_second
from raydistill.errors import first_line

logger = logging.getLogger(__name__)

LEAST = 1024  # tokens; below that a GPU waits for its next kernel
NEAR = 0.97  # of the best rate is as good: a smaller batch takes less memory, and pads less


def measured_budget(engine: Engine, batch_of: Callable[[int], Inputs], most: int) -> int:
    """The smallest budget that comes near the best rate, of `LEAST` and its doublings to `most`.

    Larger ones are tried while they gain, so what is much too large is never tried.

    Args:
        batch_of: makes a batch of about so many tokens, none of it padding.
        most: what the memory may be asked for.
    """
    rates: dict[int, float] = {}
    budget = min(LEAST, most)
    while True:
        try:
            rates[budget] = tokens_per_second(engine, [batch_of(budget)])
        except Exception as error:
            if not rates and not isinstance(error, engine.memory_error):
                raise
            logger.info("%s tokens a batch: %s", budget, first_line(error))
            break
        smaller = [rate for tried, rate in rates.items() if tried <= budget // 4]
        if budget >= most or (smaller and rates[budget] * NEAR <= max(smaller)):
            break
        budget = min(2 * budget, most)
    engine.recover()  # the memory of the largest is not needed any more
    if not rates:
        return budget  # not even the smallest fits; scoring halves it until one does
    chosen = min(tried for tried, rate in rates.items() if rate >= NEAR * max(rates.values()))
    logger.info("%s tokens a batch, of %s", chosen, {tried: round(rate) for tried, rate in rates.items()})
    return chosen
